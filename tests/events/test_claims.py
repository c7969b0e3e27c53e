"""Payloads of large events last as long as their events may, and no longer."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cloudevents.core.v1.event import CloudEvent

from events import claims, envelope, names
from events.blobs import FolderBlobs
from events.bus import Bus
from events.claims import CLAIM_BYTES, ExpireCommand
from events.failure import NotFound
from events.streams import CHECKPOINT, FACT_DAYS, RESULT_DAYS

LARGE = bytes(CLAIM_BYTES + 1)


def event(id_: str, data: bytes = LARGE) -> CloudEvent:
    return envelope.make_event("t", id=id_, tenant="t", service="s", subject="s", data=data, number="3")


def days_of(blobs: FolderBlobs, tenant: str) -> list[str]:
    """Names of the tenant's folders of payloads that expire."""
    root: Path = blobs._root / names.token(tenant) / "claims"
    return sorted(path.name for path in root.iterdir()) if root.exists() else []


@pytest.mark.parametrize(("size", "elsewhere"), [(CLAIM_BYTES, False), (CLAIM_BYTES + 1, True)])
async def test_large_data_travel_by_reference(
    bus: Bus, blobs: FolderBlobs, unique: str, size: int, elsewhere: bool
) -> None:
    sent = event("1", data=os.urandom(size))
    for left in (
        await claims.keep(blobs, "base", unique, "run", sent),
        await claims.lend(bus, blobs, unique, sent, RESULT_DAYS, on="result.t"),
    ):
        assert bool(left.get_extension("dataref")) == elsewhere
        assert (left.get_data() == b"") == elsewhere
        assert left.get_extension("number") == "3"
        arrived = envelope.from_message(*envelope.to_message(left))
        assert await claims.data_of(blobs, arrived) == sent.get_data()
        whole = await claims.unclaimed(blobs, arrived)
        assert whole.get_data() == sent.get_data() and whole.get_extension("dataref") is None
        await claims.drop(blobs, arrived)
    assert [path.name for path in blobs._root.iterdir()] == ["aside"]


async def test_a_reference_to_nothing_is_not_found(blobs: FolderBlobs) -> None:
    with pytest.raises(NotFound):
        await claims.data_of(blobs, CloudEvent({**event("1").get_attributes(), "dataref": "l/none"}, b""))


async def test_an_expired_payload_goes_and_a_live_one_stays(
    bus: Bus, blobs: FolderBlobs, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = await claims.lend(bus, blobs, unique, event("old"), -10.0, on="result.t")
    live = await claims.lend(bus, blobs, unique, event("live"), FACT_DAYS, on="result.t")
    expired, alive = days_of(blobs, unique)
    for day in (expired, alive):
        await claims.expire(bus, blobs, unique, ExpireCommand.model_validate({"day": day}))
    assert days_of(blobs, unique) == [alive]
    assert await claims.data_of(blobs, live) == LARGE
    with pytest.raises(NotFound):
        await claims.data_of(blobs, old)


async def test_a_payload_outlives_the_last_moment_of_its_event(
    bus: Bus, blobs: FolderBlobs, unique: str
) -> None:
    before = datetime.now(UTC)
    await claims.lend(bus, blobs, unique, event("1"), RESULT_DAYS, on="result.t")
    (day,) = days_of(blobs, unique)
    kept = datetime.fromisoformat(f"{day}T00:00:00+00:00") - before
    assert timedelta(days=RESULT_DAYS + 1) < kept <= timedelta(days=RESULT_DAYS + 2)


async def test_the_end_of_a_day_is_planned_once_however_many_payloads_it_has(
    bus: Bus, blobs: FolderBlobs, unique: str
) -> None:
    for number in range(5):
        await claims.lend(bus, blobs, unique, event(str(number)), RESULT_DAYS, on="result.t")
    (day,) = days_of(blobs, unique)
    planned = names.later_subject(f"checkpoint.{names.token(unique)}.>")
    info = await bus.js.stream_info(CHECKPOINT, subjects_filter=planned)
    assert info.state.subjects == {names.later_subject(f"checkpoint.{names.token(unique)}.expire.{day}"): 1}

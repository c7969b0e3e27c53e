"""Records: the first writer wins where a thing is written once, and all see the same."""

import asyncio
from datetime import UTC, datetime

import pytest

from events import names, streams
from events.bus import Bus
from events.failure import NotFound
from events.record_store import Records
from events.records import FunctionSource, LoraShape, ModelRecord, RunRecord, SessionRecord

NOW = datetime(2026, 11, 22, tzinfo=UTC)


def run(run_id: str, seed: int) -> RunRecord:
    return RunRecord(run_id=run_id, session_id="s", base="m", lora=LoraShape(rank=8, seed=seed), created=NOW)


async def test_of_many_who_create_a_run_at_once_one_wins_and_all_see_it(bus: Bus, unique: str) -> None:
    everyone = [Records(bus) for _ in range(10)]
    made = await asyncio.gather(*(one.create("t", unique, run(unique, n)) for n, one in enumerate(everyone)))
    assert len({record.lora.seed for record in made}) == 1
    assert [await one.get(RunRecord, "t", unique) for one in everyone] == made


async def test_a_run_is_read_once_and_then_remembered(bus: Bus, unique: str) -> None:
    await Records(bus).create("t", unique, run(unique, 1))
    records = Records(bus)
    first = await records.get(RunRecord, "t", unique)
    await bus.purge(streams.RECORDS, names.record_subject("run", "t", unique))
    assert await records.get(RunRecord, "t", unique) is first


async def test_what_was_forgotten_while_the_connection_was_away_is_remembered_no_more(
    bus: Bus, unique: str
) -> None:
    records = Records(bus)
    await records.start()
    await records.create("t", unique, run(unique, 1))
    await records.get(RunRecord, "t", unique)
    await bus.purge(streams.RECORDS, names.record_subject("run", "t", unique))  # nothing is heard of it
    for listener in list(bus._on_reconnect):
        listener()
    with pytest.raises(NotFound):
        await records.get(RunRecord, "t", unique)


async def test_a_session_may_change_and_is_never_stale(bus: Bus, unique: str) -> None:
    one, other = Records(bus), Records(bus)
    session = SessionRecord(session_id=unique, created=NOW)
    await one.create("t", unique, session)
    assert (await other.get(SessionRecord, "t", unique)).ended is None
    await one.replace("t", unique, session.model_copy(update={"ended": "success"}))
    assert (await other.get(SessionRecord, "t", unique)).ended == "success"


async def test_what_is_written_once_cannot_be_replaced(bus: Bus, unique: str) -> None:
    with pytest.raises(AssertionError, match="written once"):
        await Records(bus).replace("t", unique, run(unique, 1))


async def test_a_tenant_finds_only_its_own(bus: Bus, unique: str) -> None:
    records = Records(bus)
    await records.create("one", unique, run(unique, 1))
    with pytest.raises(NotFound, match="does not exist"):
        await records.get(RunRecord, "two", unique)
    with pytest.raises(NotFound):
        await records.get(SessionRecord, "one", unique)


async def test_all_records_of_a_kind_are_listed_however_many(bus: Bus, unique: str) -> None:
    records = Records(bus)
    keys = [f"{unique}:{n}" for n in range(1100)]
    await asyncio.gather(*(records.create(unique, key, run(key, 1)) for key in keys))
    await records.create("other", unique, run(unique, 1))
    assert {record.run_id for record in await records.all(RunRecord, unique)} == set(keys)
    assert await records.all(ModelRecord, unique) == []


async def test_this_very_record_is_removed_wherever_its_kind_lies(bus: Bus, unique: str) -> None:
    records, new = Records(bus), FunctionSource(name="f", version="2", source="def f(): ...")
    await records.replace(unique, "f", new)
    await records.forget_this(unique, "f", new.model_copy(update={"version": "1"}))
    assert await records.all(FunctionSource, unique) == [new], "another stands there"
    await records.forget_this(unique, "f", new)
    assert await records.all(FunctionSource, unique) == []

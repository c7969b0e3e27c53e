"""Triggers: each fact fires once, none from before they were made, none missed while nobody runs, whoever dies."""

import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from cloudevents.core.v1.event import CloudEvent
from structlog.testing import capture_logs

from events import catalog, envelope, names, triggers
from events.claims import CLAIM_BYTES
from events.dispatcher.backlog import backlog_of
from events.failure import BlobsUnavailable
from events.keys import LOCAL_TENANT
from events.platform import ServiceSpec
from events.records import TriggerRecord
from events.streams import FACTS
from events.triggers import Trigger
from rekindle.types import InvalidField
from services.data.rl import triggers as at_work
from services.data.rl.fires import FireCommand, Firings
from tests.data.rl.town import Json, Listener, Town, founded
from tests.events.nats_process import NatsProcess

START: Json = {
    "base_model": "tiny",
    "dataset": {"name": "${event.name}", "version": "${event.version}"},
    "prompt": "{question}",
    "grader": {"type": "math"},
    "steps": 3,
}


@pytest.fixture(scope="module")
def nats(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsProcess]:
    with NatsProcess(tmp_path_factory.mktemp("nats")) as server:
        yield server


@pytest.fixture
async def town(nats: NatsProcess, tmp_path: Path) -> AsyncIterator[Town]:
    with capture_logs():
        async with founded(nats.url, tmp_path / "blobs") as found:
            yield found
            for one in (await found.http.get("triggers")).json()["triggers"]:
                await found.http.delete(f"triggers/{one['trigger']['name']}")


@pytest.fixture
def name() -> str:
    """Of a trigger and of the dataset that it is about."""
    return f"t{uuid.uuid4().hex[:12]}"


def uploaded(name: str, version: int = 1) -> Json:
    return {"name": f"{name}/train", "version": version}


async def starting(town: Town, name: str, **more: Any) -> Json:
    spec = {"name": name, "on": "dataset.uploaded", "match": {"name": f"{name}/*"}, "start": START}
    return await town.make(**spec | more)


async def backlog(town: Town) -> float:
    """What the dispatcher counts for the data service."""
    spec = ServiceSpec(name="data", kind="data", url="http://data.test", capacity=8.0)
    return await backlog_of(spec, town.bus, gap_seconds=1.0).read()


async def command_of(town: Town, name: str, id: str) -> FireCommand:
    """The command that the newest fact makes."""
    record = await town.edge.records.get(TriggerRecord, LOCAL_TENANT, name)
    stored = await town.bus.at(FACTS, await town.bus.end(FACTS))
    assert stored is not None and stored.event.get_id() == id
    return at_work.fire(Trigger(LOCAL_TENANT, record), stored.event)


async def test_a_fact_that_fits_starts_one_run_however_often_it_comes(town: Town, name: str) -> None:
    assert (await starting(town, name))["fired"] == 0
    async with town.worker():
        await town.say({"name": "another", "version": 1}, f"{name}-other")
        await town.say(uploaded(name), f"{name}-1")
        await town.say(uploaded(name), f"{name}-1")
        await town.say(uploaded(name, 2), f"{name}-2")
        found = await town.until_fired(name, 2)
        await town.until(lambda: _is(backlog(town), 0.0))
    assert [one["event"] for one in found] == [f"{name}-2", f"{name}-1"]
    (first, spec, trigger), (second, *_) = town.started
    assert (spec.dataset.name, spec.dataset.version, spec.steps, trigger) == (f"{name}/train", 1, 3, name)
    assert [one["run"] for one in found] == [second, first] and first != second
    assert {one["outcome"] for one in found} == {"started"}
    assert (found[1]["type"], found[1]["subject"]) == ("dataset.uploaded", "it")
    assert found[1]["source"] == "/rekindle/local/data"
    assert (await town.http.get(f"triggers/{name}")).json()["fired"] == 2


async def _is(reading: Any, wanted: object) -> bool:
    return bool(await reading == wanted)


@pytest.mark.parametrize("depth", [500, 100_000])
async def test_a_fact_that_nobody_can_read_holds_up_no_other(town: Town, name: str, depth: int) -> None:
    await starting(town, name)
    deep = f'{{"name":"{name}/train","version":{"[" * depth}{"]" * depth}}}'
    fact = envelope.make_event(
        catalog.DATASET_UPLOADED,
        id="deep",
        tenant=LOCAL_TENANT,
        service="x",
        subject="it",
        data=deep.encode(),
    )
    await town.bus.append(names.fact_subject(LOCAL_TENANT, catalog.DATASET_UPLOADED), fact)
    await town.say(uploaded(name), name)
    async with town.worker():
        (fired,) = await town.until_fired(name)
        await town.until(lambda: _is(backlog(town), 0.0))
    assert fired["event"] == name


async def test_what_was_said_before_a_trigger_was_made_does_not_fire_it(town: Town, name: str) -> None:
    await town.say(uploaded(name), f"{name}-before")
    await starting(town, name)
    await town.say(uploaded(name), f"{name}-after")
    async with town.worker():
        (fired,) = await town.until_fired(name)
        await town.until(lambda: _is(backlog(town), 0.0))
    assert fired["event"] == f"{name}-after" and len(town.started) == 1


async def test_facts_said_while_nobody_runs_are_work_that_waits(town: Town, name: str) -> None:
    await starting(town, name)
    assert await backlog(town) == 0
    for number in range(3):
        await town.say(uploaded(name), f"{name}-{number}")
    assert await backlog(town) == 3
    async with town.worker():
        await town.until_fired(name, 3)
        await town.until(lambda: _is(backlog(town), 0.0))


async def test_a_trigger_that_lost_its_consumer_gets_it_back_and_has_missed_nothing(
    town: Town, name: str
) -> None:
    await starting(town, name)
    record = await town.edge.records.get(TriggerRecord, LOCAL_TENANT, name)
    await triggers.unwatch(town.bus, Trigger(LOCAL_TENANT, record).consumer)
    await town.say(uploaded(name), name)
    assert await backlog(town) == 1, "somebody must come and put it right"
    async with town.worker():
        await town.until_fired(name)


async def test_a_consumer_that_lost_its_trigger_goes(town: Town, name: str) -> None:
    await starting(town, name)
    await town.edge.records.delete(TriggerRecord, LOCAL_TENANT, name)
    assert await backlog(town) == 1
    async with town.worker():
        await town.until(lambda: _is(backlog(town), 0.0))
    assert not [one for one in await town.bus.unsettled(FACTS) if name in one]


async def test_a_trigger_made_while_a_replica_works_is_heard_of(
    town: Town, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(at_work, "QUIET", 3600.0)
    async with town.worker():
        await starting(town, name)
        await town.say(uploaded(name), name)
        await town.until_fired(name)


async def test_a_large_fact_fires_too(town: Town, name: str) -> None:
    await starting(town, name)
    await town.say({**uploaded(name), "text": "x" * CLAIM_BYTES}, name)
    async with town.worker():
        await town.until_fired(name)
    assert town.started[0][1].dataset.name == f"{name}/train"


async def test_a_large_fact_waits_for_a_blob_store_that_is_away(
    town: Town, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, away = at_work.claims.unclaimed, [BlobsUnavailable("away"), BlobsUnavailable("still away")]

    async def unclaimed(*of: Any) -> CloudEvent:
        if away:
            raise away.pop()
        return await read(*of)

    monkeypatch.setattr(at_work.claims, "unclaimed", unclaimed)
    await starting(town, name)
    await town.say({**uploaded(name), "text": "x" * CLAIM_BYTES}, name)
    async with town.worker():
        await town.until_fired(name)
    assert not away


async def test_a_run_that_cannot_be_is_a_failed_firing_that_says_why(town: Town, name: str) -> None:
    await starting(town, name)
    async with town.worker():
        await town.say({"name": f"{name}/x"}, f"{name}-1")
        (fired,) = await town.until_fired(name)
        assert fired["outcome"] == "failed" and fired["run"] is None
        assert fired["reason"] == "start.dataset.version: the event has no field 'version'"
        town.refusal = InvalidField("prompt", "no column 'question'")
        await town.say(uploaded(name), f"{name}-2")
        fired, _ = await town.until_fired(name, 2)
        assert fired["outcome"] == "failed" and fired["reason"] == "prompt: no column 'question'"


async def test_who_dies_between_a_start_and_its_record_starts_the_same_run_again(
    town: Town, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await starting(town, name)
    await town.say(uploaded(name), name)
    command = await command_of(town, name, name)

    async def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Firings, "write", die)
        with pytest.raises(KeyboardInterrupt):
            await town.triggers().fire(LOCAL_TENANT, command)
    assert await town.firings(name) == []
    for _ in range(2):
        await town.triggers().fire(LOCAL_TENANT, command)
    assert [one[0] for one in town.started] == [command.run_id] * 2, "the third time it was known"
    assert len(await town.firings(name)) == 1


async def test_a_firing_that_the_server_fails_at_is_written_down(
    town: Town, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("events.outcomes.MAX_FAILURES", 1)
    town.refusal = RuntimeError("a bug")
    await starting(town, name)
    await town.say(uploaded(name), name)
    async with town.worker():
        (fired,) = await town.until_fired(name)
    assert fired["outcome"] == "failed" and "dead letters" in fired["reason"]


# Webhooks


async def test_a_webhook_gets_the_event_and_is_called_again_until_it_takes_it(
    town: Town, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(at_work, "PAUSES", (1.0, 1.0))
    async with Listener([503, 429, 204]).listens() as listener:
        await town.make(name=name, on="dataset.uploaded", match={"name": f"{name}/*"}, webhook=listener.url)
        await town.say(uploaded(name), name)
        async with town.worker():
            (fired,) = await town.until_fired(name)
    assert fired["outcome"] == "called" and fired["reason"] is None
    assert [one["id"] for one in listener.heard] == [name] * 3
    assert set(listener.kinds) == {"application/cloudevents+json"}
    said = listener.heard[0]
    assert (said["specversion"], said["type"], said["data"]) == (
        "1.0",
        catalog.DATASET_UPLOADED,
        uploaded(name),
    )


@pytest.mark.parametrize(
    ("status", "pauses", "calls", "said"),
    [(404, (1.0,), 1, "call 1: HTTP 404"), (302, (1.0,), 1, "call 1: HTTP 302"), (500, (), 1, "HTTP 500")],
)
async def test_a_webhook_that_refuses_or_never_takes_it_is_a_failed_firing(
    town: Town,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    pauses: tuple[float, ...],
    calls: int,
    said: str,
) -> None:
    monkeypatch.setattr(at_work, "PAUSES", pauses)
    async with Listener([status]).listens() as listener:
        await town.make(name=name, on="dataset.uploaded", webhook=listener.url)
        await town.say(uploaded(name), name)
        await town.triggers().fire(LOCAL_TENANT, await command_of(town, name, name))
    (fired,) = await town.firings(name)
    assert fired["outcome"] == "failed" and said in fired["reason"] and len(listener.heard) == calls


async def test_a_webhook_at_an_address_of_the_inside_is_never_called(town: Town, name: str) -> None:
    async with Listener([200]).listens() as listener:
        await town.make(name=name, on="dataset.uploaded", webhook=listener.url)
        await town.say(uploaded(name), name)
        await town.triggers(allowed=()).fire(LOCAL_TENANT, await command_of(town, name, name))
    (fired,) = await town.firings(name)
    assert fired["outcome"] == "failed" and "not public" in fired["reason"] and not listener.heard


# The edge


async def test_the_same_trigger_again_changes_nothing_and_another_of_its_name_is_refused(
    town: Town, name: str
) -> None:
    assert await starting(town, name) == await starting(town, name)
    other = await town.http.post("triggers", json={"name": name, "on": "run.started", "start": START})
    assert other.status_code == 400 and other.json()["detail"].startswith("name: ")
    listed = (await town.http.get("triggers")).json()["triggers"]
    assert [one["trigger"]["name"] for one in listed] == [name]


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"on": "dataset.burnt"}, "on: 'dataset.burnt' is no fact; there are batch.trained, "),
        ({"webhook": "http://x.test/"}, "start: expected either"),
        ({"start": {**START, "steps": 0}}, "start.steps: "),
        ({"name": "Not a name"}, "name: "),
    ],
)
async def test_a_trigger_that_could_never_work_is_refused(
    town: Town, name: str, changed: Json, field: str
) -> None:
    spec = {"name": name, "on": "dataset.uploaded", "start": START} | changed
    answer = await town.http.post("triggers", json=spec)
    assert answer.status_code == 400 and answer.json()["detail"].startswith(field), answer.text


async def test_a_deleted_trigger_fires_no_more_and_a_new_one_of_its_name_knows_nothing_of_it(
    town: Town, name: str
) -> None:
    await starting(town, name)
    await town.say(uploaded(name), f"{name}-1")
    late = await command_of(town, name, f"{name}-1")
    assert (await town.http.delete(f"triggers/{name}")).status_code == 204
    assert not [one for one in await town.bus.unsettled(FACTS) if name in one]
    for path in (f"triggers/{name}", f"triggers/{name}/firings"):
        assert (await town.http.get(path)).status_code == 404
    assert (await town.http.delete(f"triggers/{name}")).status_code == 404
    await starting(town, name)
    await town.triggers().fire(LOCAL_TENANT, late)
    assert not town.started and await town.firings(name) == []

"""A future resolves once, for any number of polls of any replica, whenever they come."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from events import catalog, envelope, ids, names, streams
from events.blobs import FolderBlobs
from events.bus import Bus
from events.claims import CLAIM_BYTES, keep
from events.failure import Conflict, Failure, NotFound
from events.futures import Futures, Gone, Result
from events.lease import RunHolder
from events.record_store import Records
from events.records import LoraShape, RunRecord, SamplerRecord
from events.runlog import RunLog, released
from events.tasks import end
from tests.events.nats_process import NatsProcess

TENANT = "t"
NOW = datetime(2026, 11, 22, tzinfo=UTC)


class World:
    """One run and one sampler, and a gateway that waits for their results."""

    def __init__(self, bus: Bus, blobs: FolderBlobs, name: str) -> None:
        self.bus, self.blobs, self.name = bus, blobs, name
        self.records = Records(bus)
        self.log = RunLog(bus, blobs)
        self.futures = Futures(bus, blobs, self.records)
        self.run = RunRecord(
            run_id=f"{name}:train:0",
            session_id=name,
            base=name,
            lora=LoraShape(rank=8, seed=0),
            created=NOW,
        )
        self.sampler = SamplerRecord(
            sampler_id=f"{name}:sample:0", session_id=name, base=name, path=None, created=NOW
        )
        self.root = names.run_root(name, TENANT, self.run.run_id)

    async def open(self) -> "World":
        await self.futures.start()
        await self.records.create(TENANT, self.run.run_id, self.run)
        await self.records.create(TENANT, self.sampler.sampler_id, self.sampler)
        await self.log.submit(TENANT, self.run, 0, catalog.CREATE_MODEL, b"{}")
        return self

    async def hold(self) -> RunHolder:
        return await RunHolder.take(self.bus, self.blobs, self.name, TENANT, self.root)

    def poll(self, number: int, seconds: float = 20.0) -> "asyncio.Task[Result | Failure | None]":
        request_id = ids.future_id(self.run.run_id, number)
        return asyncio.create_task(self.futures.wait(TENANT, request_id, seconds))

    def poll_sample(self, number: int, seconds: float = 20.0) -> "asyncio.Task[Result | Failure | None]":
        request_id = ids.future_id(self.sampler.sampler_id, number)
        return asyncio.create_task(self.futures.wait(TENANT, request_id, seconds))

    def event(self, type_: str, data: bytes, owner: str, number: int) -> envelope.CloudEvent:
        return envelope.make_event(
            type_,
            id=ids.future_id(owner, number),
            tenant=TENANT,
            service="test",
            subject=owner,
            data=data,
        )

    async def resolve(
        self, holder: RunHolder, number: int, data: bytes, type_: str = catalog.RESOLVED
    ) -> None:
        event = self.event(type_, data, self.run.run_id, number)
        event = await keep(self.blobs, self.name, TENANT, self.run.run_id, event)
        await holder.write(f"{self.root}.result.{number}", event)

    async def sampled(self, number: int, data: bytes) -> None:
        subject = names.result_subject("sample", TENANT, self.sampler.sampler_id, number)
        await self.bus.append(subject, self.event(catalog.RESOLVED, data, self.sampler.sampler_id, number))

    async def sample(self, number: int) -> None:
        subject = names.sample_subject(self.name, TENANT, self.sampler.owner, self.sampler.sampler_id, number)
        await self.bus.append(subject, self.event(catalog.SAMPLE, b"{}", self.sampler.sampler_id, number))


@pytest.fixture
async def world(bus: Bus, blobs: FolderBlobs, unique: str) -> World:
    return await World(bus, blobs, unique).open()


async def until_waiting(world: World, count: int) -> None:
    """Until so many polls are in the table of waiters."""
    async with asyncio.timeout(20):
        while sum(map(len, world.futures._waiting.values())) < count:  # noqa: ASYNC110  # a table tells nobody
            await asyncio.sleep(0.005)


async def test_a_result_that_is_there_is_given_at_once(world: World) -> None:
    await world.resolve(await world.hold(), 0, b"{}")
    assert await world.poll(0, seconds=0) == Result(envelope.JSON, b"{}")


async def test_a_poll_that_comes_first_gets_the_result_when_it_comes(world: World) -> None:
    holder, polling = await world.hold(), world.poll(0)
    await until_waiting(world, 1)
    await world.resolve(holder, 0, b"{}")
    async with asyncio.timeout(10):
        assert await polling == Result(envelope.JSON, b"{}")


async def test_a_poll_without_a_result_ends_after_its_time_with_nothing(world: World) -> None:
    assert await world.poll(0, seconds=0.05) is None
    assert world.futures._waiting == {}


async def test_polls_and_results_in_any_order_lose_nothing(world: World) -> None:
    holder = await world.hold()
    for number in range(1, 40):
        await world.log.submit(TENANT, world.run, number, catalog.OPTIM_STEP, b"{}")
    polls = []
    for number in range(40):
        if number % 2:
            polls.append(world.poll(number))
        await world.resolve(holder, number, b"%d" % number)
        if not number % 2:
            polls.append(world.poll(number))
    assert await asyncio.gather(*polls) == [Result(envelope.JSON, b"%d" % n) for n in range(40)]


async def test_hundreds_of_polls_make_no_consumer(world: World) -> None:
    holder = await world.hold()
    polls = [world.poll(0) for _ in range(300)]
    await until_waiting(world, 300)
    for stream in (names.run_stream(world.name), streams.RESULTS):
        assert (await world.bus.js.stream_info(stream)).state.consumer_count == 0
    await world.resolve(holder, 0, b"{}")
    assert set(await asyncio.gather(*polls)) == {Result(envelope.JSON, b"{}")}
    assert world.futures._waiting == {}


async def test_polls_that_are_given_up_leave_nothing_behind(world: World) -> None:
    polls = [world.poll(0) for _ in range(20)]
    await until_waiting(world, 20)
    await end(*polls)
    assert world.futures._waiting == {}


async def test_a_result_that_the_fence_refused_wakes_nobody(world: World) -> None:
    old, polling = await world.hold(), world.poll(0, seconds=0.5)
    await until_waiting(world, 1)
    lease = await world.bus.last(names.run_stream(world.name), f"{world.root}.lease")
    assert lease is not None
    new = await world.hold()
    with pytest.raises(Conflict):
        event = world.event(catalog.RESOLVED, b"old", world.run.run_id, 0)
        await world.bus.append(f"{world.root}.result.0", event, fence=(f"{world.root}.lease", lease.sequence))
    assert await polling is None
    assert old.epoch + 1 == new.epoch
    await world.resolve(new, 0, b"new")
    assert await world.poll(0) == Result(envelope.JSON, b"new")


async def test_an_announcement_of_nothing_ends_no_poll(world: World) -> None:
    holder, polling = await world.hold(), world.poll(0)
    await until_waiting(world, 1)
    await world.bus.client.publish(f"stored.{world.root}.result.0", b"")
    await world.bus.client.flush()
    await world.resolve(holder, 0, b"{}")
    assert await polling == Result(envelope.JSON, b"{}")


async def test_the_first_result_stands(world: World) -> None:
    holder = await world.hold()
    await world.resolve(holder, 0, b"first")
    await world.resolve(holder, 0, b"second")
    assert await world.poll(0) == Result(envelope.JSON, b"first")


async def test_a_failure_has_its_category(world: World) -> None:
    failure = Failure(message="data[0]: empty", category="user")
    await world.resolve(await world.hold(), 0, failure.model_dump_json().encode(), catalog.FAILED)
    assert await world.poll(0) == failure


async def test_large_results_come_from_the_blob_store(world: World) -> None:
    large = bytes(CLAIM_BYTES + 1)
    await world.resolve(await world.hold(), 0, large)
    assert await world.poll(0) == Result(envelope.JSON, large)


async def test_a_rejection_is_its_own_result(world: World) -> None:
    await world.log.reject(TENANT, world.run, 1, "data: empty")
    assert await world.poll(1, seconds=0) == Failure(message="data: empty", category="user")


async def test_a_released_number_has_failed_however_late_its_command_comes(world: World) -> None:
    holder = await world.hold()
    event = world.event(catalog.RELEASED, released(1), world.run.run_id, 1)
    await holder.write(f"{world.root}.cmd.1", event)
    await world.log.submit(TENANT, world.run, 1, catalog.OPTIM_STEP, b"{}")
    found = await world.poll(1, seconds=0)
    assert isinstance(found, Failure)
    assert found.category == "server"


async def test_a_run_rejected_at_its_creation_has_failed(world: World) -> None:
    failure = Failure(message="base_model: not served", category="user")
    bad = world.run.model_copy(update={"run_id": f"{world.name}:train:1", "base": "", "rejected": failure})
    await world.records.create(TENANT, bad.run_id, bad)
    assert await world.futures.wait(TENANT, f"{bad.run_id}:0", 0) == failure


async def test_a_training_future_that_was_never_asked_for_is_not_found(world: World) -> None:
    for request_id in (f"{world.run.run_id}:99", "nobody:train:0:1", "x:1"):
        with pytest.raises(NotFound):
            await world.futures.wait(TENANT, request_id, 0)
    with pytest.raises(NotFound):
        await world.futures.wait("another tenant", f"{world.run.run_id}:0", 0)


async def test_an_id_that_is_none_is_a_value_error(world: World) -> None:
    with pytest.raises(ValueError, match="not an id"):
        await world.futures.wait(TENANT, "nonsense", 0)


async def test_a_sample_is_waited_for_and_found(world: World) -> None:
    await world.sample(3)
    polling = world.poll_sample(3)
    await until_waiting(world, 1)
    await world.sampled(3, b"tokens")
    assert await polling == Result(envelope.JSON, b"tokens")


async def test_a_sample_that_nobody_knows_is_gone(world: World) -> None:
    with pytest.raises(Gone):
        await world.poll_sample(9, seconds=0)
    with pytest.raises(Gone):
        await world.futures.wait(TENANT, "nobody:sample:0:1", 0)


async def test_a_sample_resolved_between_two_looks_is_found(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = world.bus.first

    async def slow(stream: str, subject: str) -> object:
        if stream == streams.SAMPLE:
            await world.sampled(4, b"tokens")  # answered and acknowledged just now
        return await first(stream, subject)

    monkeypatch.setattr(world.bus, "first", slow)
    assert await world.poll_sample(4, seconds=0) == Result(envelope.JSON, b"tokens")


async def test_a_waiting_command_says_which_number_it_waits_for(world: World) -> None:
    await world.log.submit(TENANT, world.run, 1, catalog.OPTIM_STEP, b"{}")
    await world.log.submit(TENANT, world.run, 4, catalog.OPTIM_STEP, b"{}")
    await world.log.submit(TENANT, world.run, 3, catalog.OPTIM_STEP, b"{}")
    why = await world.futures.why_waiting(TENANT, f"{world.run.run_id}:4", patience=360)
    assert why is not None
    assert why.startswith("waiting for operation 2,")
    assert timedelta(seconds=300) < timedelta(seconds=int(why.split()[-2])) <= timedelta(seconds=360)
    for number in (0, 1):
        assert await world.futures.why_waiting(TENANT, f"{world.run.run_id}:{number}", 360) is None
    assert await world.futures.why_waiting(TENANT, f"{world.sampler.sampler_id}:4", 360) is None


@pytest.fixture
async def shaky(own_nats: NatsProcess, blobs: FolderBlobs) -> AsyncIterator[World]:
    bus = await Bus.connect(own_nats.url, name="gateway", timeout=0.5)
    await bus.ensure_shared_streams()
    yield await World(bus, blobs, "shaky").open()
    await bus.close()


async def test_a_result_stored_while_the_gateway_was_cut_off_ends_its_poll(
    shaky: World, own_nats: NatsProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    polling = shaky.poll(0, seconds=60)
    await until_waiting(shaky, 1)
    monkeypatch.setattr(shaky.futures, "_stored", lambda _: None)
    other = await Bus.connect(own_nats.url, name="trainer", timeout=1.0)
    holder = await RunHolder.take(other, shaky.blobs, shaky.name, TENANT, shaky.root)
    heard = shaky.futures._waiting
    listeners, shaky.futures._waiting = heard, type(heard)(set)  # its ears are shut
    await shaky.resolve(holder, 0, b"{}")
    await shaky.bus.client.flush()
    shaky.futures._waiting = listeners
    own_nats.stop()
    own_nats.start()
    async with asyncio.timeout(20):
        assert await polling == Result(envelope.JSON, b"{}")
    await other.close()

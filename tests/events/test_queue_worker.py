"""A work queue loses nothing and answers once, whoever dies."""

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from nats.errors import ConnectionClosedError
from structlog.testing import capture_logs
from tenacity import wait_none

from events import catalog, envelope, ids, names, outcomes, streams, worker
from events.blobs import FolderBlobs
from events.bus import Bus
from events.claims import CLAIM_BYTES, COMMAND_DAYS, data_of, lend
from events.envelope import CloudEvent
from events.failure import (
    BlobsUnavailable,
    BusUnavailable,
    Failure,
    GivenBack,
    Overtaken,
    ServerError,
    UserError,
    WorkerBroken,
)
from events.outcomes import Outcomes
from events.queues import Answer, Queue
from events.tasks import end
from events.worker import QueueWorker
from tests.events.nats_process import NatsProcess

TENANT = "local"
Handle = Callable[[int, bytes], Awaitable[Answer | None]]


class Shop:
    """One queue with its results, and workers for it."""

    def __init__(self, bus: Bus, blobs: FolderBlobs, name: str, results: bool = True) -> None:
        self.bus, self.blobs, self.name = bus, blobs, name
        self.queue = Queue(
            stream=name,
            consumer=f"{name}-workers",
            filter=f"{name}.>",
            result_subject=self._result_subject if results else None,
            tenant=lambda event: names.tenant_of(event.get_source()),
            cost=lambda _, data: len(data),
        )

    def _result_subject(self, event: CloudEvent) -> str:
        return names.result_subject("test", TENANT, self.name, ids.split_future_id(event.get_id())[1])

    async def submit(self, number: int, data: bytes = b"x") -> None:
        event = envelope.make_event(
            catalog.SAMPLE,
            id=ids.future_id(self.name, number),
            tenant=TENANT,
            service="test",
            subject=self.name,
            data=data,
        )
        event = await lend(self.bus, self.blobs, TENANT, event, COMMAND_DAYS, on=self.name)
        await self.bus.append(f"{self.name}.{TENANT}.{number}", event)

    async def result(self, number: int) -> CloudEvent | None:
        subject = names.result_subject("test", TENANT, self.name, number)
        stored = await self.bus.first(streams.RESULTS, subject)
        return None if stored is None else stored.event

    async def until(self, condition: Callable[[], Awaitable[Any]]) -> Any:
        """What `condition` gives once it gives something."""
        async with asyncio.timeout(30):
            while not (found := await condition()):  # noqa: ASYNC110  # the server tells nobody
                await asyncio.sleep(0.01)
        return found

    async def answer(self, number: int) -> bytes:
        event = await self.until(lambda: self.result(number))
        assert event.get_type() == catalog.RESOLVED, event.get_data()
        return await data_of(self.blobs, event)

    async def failure(self, number: int) -> Failure:
        event = await self.until(lambda: self.result(number))
        assert event.get_type() == catalog.FAILED
        return Failure.model_validate_json(event.get_data())

    async def empty(self) -> None:
        """Everything has been acknowledged."""

        async def drained() -> bool:
            return (await self.bus.js.stream_info(self.name)).state.messages == 0

        await self.until(drained)

    async def dead(self) -> list[str]:
        return await self.bus.subjects(streams.DEAD, f"dead.{self.name}.>")

    @contextlib.asynccontextmanager
    async def worker(
        self, handle: Handle, budget: int = 100, bus: Bus | None = None
    ) -> AsyncIterator["asyncio.Task[None]"]:
        async def handler(event: CloudEvent, data: bytes) -> Answer | None:
            return await handle(ids.split_future_id(event.get_id())[1], data)

        one = QueueWorker(bus or self.bus, self.blobs, self.queue, handler, budget=budget)
        task = asyncio.create_task(one.run())
        try:
            yield task
            if task.done():
                task.result()
        finally:
            await end(task)


async def echo(number: int, data: bytes) -> Answer:
    return Answer(b"%d " % number + data)


@pytest.fixture
async def shop(
    bus: Bus, blobs: FolderBlobs, unique: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Shop]:
    monkeypatch.setattr(worker, "ACK_WAIT", 1.0)
    await bus.ensure_stream(streams.work_queue(unique, f"{unique}.>"))
    with capture_logs():
        yield Shop(bus, blobs, unique)
    await bus.js.delete_stream(unique)


async def test_every_command_is_answered_and_acknowledged(shop: Shop) -> None:
    async with shop.worker(echo):
        for number in range(50):
            await shop.submit(number, b"data")
        assert [await shop.answer(number) for number in range(50)] == [b"%d data" % n for n in range(50)]
        await shop.empty()


async def test_large_commands_and_large_answers_go_by_claim_check(shop: Shop) -> None:
    large = bytes(CLAIM_BYTES + 1)
    async with shop.worker(echo):
        await shop.submit(1, large)
        assert await shop.answer(1) == b"1 " + large
    event = await shop.result(1)
    assert event is not None
    assert event.get_extension("dataref")


async def test_heartbeats_keep_a_long_delivery(shop: Shop) -> None:
    started: list[int] = []

    async def slow(number: int, data: bytes) -> Answer:
        started.append(number)
        await asyncio.sleep(2.5)  # work that outlasts the time without a heartbeat
        return Answer(b"done")

    async with shop.worker(slow), shop.worker(slow):
        await shop.submit(1)
        assert await shop.answer(1) == b"done"
    assert started == [1]


async def test_heartbeats_keep_a_delivery_that_waits_for_room(shop: Shop) -> None:
    started: list[int] = []

    async def slow(number: int, data: bytes) -> Answer:
        started.append(number)
        await asyncio.sleep(0.8)  # work: the last waits longer than the time without a heartbeat
        return Answer(b"done")

    async with shop.worker(slow, budget=1):
        for number in range(4):
            await shop.submit(number)
        for number in range(4):
            assert await shop.answer(number) == b"done"
    assert started == [0, 1, 2, 3]


async def test_what_a_vanished_worker_had_in_hand_comes_back_and_is_no_failure(shop: Shop) -> None:
    begun = asyncio.Event()

    async def hang(number: int, data: bytes) -> Answer:
        begun.set()
        await asyncio.Event().wait()
        raise AssertionError

    silent = await Bus.connect(shop.bus.client.connected_url.geturl(), name="silent")
    with pytest.raises(ConnectionClosedError):
        async with shop.worker(hang, bus=silent):
            await shop.submit(1, b"work")
            await asyncio.wait_for(begun.wait(), 20)
            await silent.close()  # nothing it says is heard from here on
            async with shop.worker(echo):
                assert await shop.answer(1) == b"1 work"
    assert await shop.bus.last(streams.ATTEMPTS, names.attempts_subject(f"{shop.name}.{TENANT}.1")) is None


async def test_a_worker_that_ends_gives_back_what_it_has_at_once(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "ACK_WAIT", 60.0)
    begun = asyncio.Event()

    async def hang(number: int, data: bytes) -> Answer:
        begun.set()
        await asyncio.Event().wait()
        raise AssertionError

    async with shop.worker(hang):
        await shop.submit(1)
        await asyncio.wait_for(begun.wait(), 20)
    async with shop.worker(echo):
        assert await shop.answer(1) == b"1 x"


async def test_three_reported_failures_end_among_the_dead_letters(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    times: list[float] = []

    async def broken(number: int, data: bytes) -> Answer:
        times.append(asyncio.get_running_loop().time())
        raise ServerError("engine on fire", retryable=True)

    async with shop.worker(broken):
        await shop.submit(1)
        failure = await shop.failure(1)
        await shop.empty()
    assert (failure.category, failure.message) == ("server", "engine on fire")
    assert len(times) == 3
    assert times[1] - times[0] >= 0.9
    assert times[2] - times[1] >= 1.9
    assert await shop.dead() == [f"dead.{shop.name}.{TENANT}.1"]


async def test_a_handler_that_raises_anything_is_tried_again(shop: Shop) -> None:
    calls = 0

    async def moody(number: int, data: bytes) -> Answer:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise KeyError("oops")
        return Answer(b"fine")

    async with shop.worker(moody):
        await shop.submit(1)
        assert await shop.answer(1) == b"fine"


@pytest.mark.parametrize("error", [UserError("too long"), ServerError("no such weights")])
async def test_what_cannot_succeed_later_is_not_tried_again(shop: Shop, error: Exception) -> None:
    calls: list[int] = []

    async def refuse(number: int, data: bytes) -> Answer:
        calls.append(number)
        raise error

    async with shop.worker(refuse):
        await shop.submit(1)
        failure = await shop.failure(1)
        await shop.empty()
    assert failure.message == str(error)
    assert calls == [1]
    assert await shop.dead() == []


async def test_a_command_that_kills_its_workers_fails_after_five_deaths(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outcomes, "MAX_DEATHS", 2)
    begun = 0

    async def die(number: int, data: bytes) -> Answer:
        nonlocal begun
        begun += 1
        raise WorkerBroken("killed")

    await shop.submit(1)
    for _ in range(2):
        with pytest.raises(WorkerBroken):
            async with shop.worker(die) as task:
                await asyncio.wait([task], timeout=30)
    async with shop.worker(echo):
        failure = await shop.failure(1)
        await shop.empty()
    assert (failure.category, "died" in failure.message) == ("server", True)
    assert begun == 2
    assert await shop.dead() == [f"dead.{shop.name}.{TENANT}.1"]


async def test_a_broken_worker_ends_and_its_message_goes_to_another(shop: Shop) -> None:
    async def broken(number: int, data: bytes) -> Answer:
        raise WorkerBroken("the engine is gone")

    await shop.submit(1)
    with pytest.raises(WorkerBroken, match="the engine is gone"):
        async with shop.worker(broken) as task:
            await asyncio.wait([task], timeout=30)
    assert await shop.result(1) is None
    async with shop.worker(echo):
        assert await shop.answer(1) == b"1 x"


async def test_a_bus_that_is_away_is_no_failure_of_the_command(shop: Shop) -> None:
    calls = 0

    async def flaky(number: int, data: bytes) -> Answer:
        nonlocal calls
        calls += 1
        if calls <= 4:
            raise BusUnavailable("no answer")
        return Answer(b"fine")

    async with shop.worker(flaky):
        await shop.submit(1)
        assert await shop.answer(1) == b"fine"
    assert await shop.bus.last(streams.ATTEMPTS, names.attempts_subject(f"{shop.name}.{TENANT}.1")) is None


async def test_a_blob_store_that_is_away_is_waited_for(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    large = b"y" * 600_000
    away = {"get": 7, "put": 7}

    def absent(name: str, there: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def call(*arguments: Any) -> Any:
            if away[name]:
                away[name] -= 1
                raise BlobsUnavailable("no answer")
            return await there(*arguments)

        return call

    await shop.submit(1, large)
    with monkeypatch.context() as patch:
        for name in away:
            patch.setattr(shop.blobs, name, absent(name, getattr(shop.blobs, name)))
        patch.setattr(QueueWorker._handle.retry, "wait", wait_none())  # type: ignore[attr-defined]
        async with shop.worker(echo, budget=10**6):
            await shop.empty()
    assert await shop.answer(1) == b"1 " + large
    assert not any(away.values()) and await shop.dead() == []


async def test_no_more_runs_at_once_than_the_budget_admits(shop: Shop) -> None:
    running, most, count = 0, 0, 0

    async def watch(number: int, data: bytes) -> Answer:
        nonlocal running, most, count
        running += len(data)
        most = max(most, running)
        count += 1
        await asyncio.sleep(0.005)
        running -= len(data)
        return Answer(b"")

    for number in range(150):
        await shop.submit(number, bytes(1 + number * 7 % 30))
    async with shop.worker(watch, budget=60):
        await shop.empty()
    assert count == 150
    assert 30 <= most <= 60


async def test_a_command_dearer_than_the_budget_runs_alone(shop: Shop) -> None:
    running = 0

    async def alone(number: int, data: bytes) -> Answer:
        nonlocal running
        running += 1
        assert len(data) < 100 or running == 1
        await asyncio.sleep(0.01)
        running -= 1
        return Answer(b"ok")

    for number in range(12):
        await shop.submit(number, bytes(500 if number % 4 == 1 else 3))
    async with shop.worker(alone, budget=10):
        for number in range(12):
            assert await shop.answer(number) == b"ok"


@pytest.fixture
def lasting(shop: Shop) -> Shop:
    """A queue whose first command lasts."""
    first = ids.future_id(shop.name, 1)
    shop.queue = dataclasses.replace(shop.queue, lasting=lambda event: event.get_id() == first)
    return shop


async def test_a_lasting_command_holds_up_no_other(lasting: Shop) -> None:
    over = asyncio.Event()

    async def handle(number: int, data: bytes) -> Answer:
        if number == 1:
            await over.wait()
        return await echo(number, data)

    for number in (1, 2, 3):
        await lasting.submit(number)
    async with lasting.worker(handle, budget=1):
        assert [await lasting.answer(number) for number in (2, 3)] == [b"2 x", b"3 x"]
        assert await lasting.result(1) is None
        over.set()
        assert await lasting.answer(1) == b"1 x"
        await lasting.empty()


async def test_commands_that_wait_for_somebody_outside_and_those_that_work_hold_up_each_other_not(
    shop: Shop,
) -> None:
    shop.queue = dataclasses.replace(shop.queue, outside=lambda _, data: data == b"asks")
    begun: list[int] = []
    held = {number: asyncio.Event() for number in range(32)}

    async def handle(number: int, data: bytes) -> Answer:
        begun.append(number)
        await held[number].wait()
        return await echo(number, data)

    async def all_begun() -> bool:
        return len(begun) == 32

    async with shop.worker(handle, budget=1):
        for number in range(30):
            await shop.submit(number, b"asks")
        await shop.submit(30, b"works")
        await shop.submit(31, b"asks")
        await shop.until(all_begun)  # with nothing answered yet
        held[30].set()
        assert await shop.answer(30) == b"30 works"
        for event in held.values():
            event.set()
        await shop.empty()


async def test_a_worker_holds_no_more_of_those_that_wait_outside_than_it_has_places(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "MOST_OUTSIDE", 3)
    shop.queue = dataclasses.replace(shop.queue, outside=lambda *_: True)
    running, most = 0, 0

    async def watch(number: int, data: bytes) -> Answer:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.005)
        running -= 1
        return await echo(number, data)

    for number in range(20):
        await shop.submit(number)
    async with shop.worker(watch, budget=1):
        await shop.empty()
    assert most == 3


@pytest.mark.parametrize("reason", [GivenBack("no more work here"), Overtaken("somebody else does it")])
async def test_a_lasting_command_may_be_given_back_any_number_of_times(
    lasting: Shop, reason: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outcomes, "MAX_DEATHS", 1)
    monkeypatch.setattr(outcomes, "MAX_FAILURES", 1)
    begun = 0

    async def handle(number: int, data: bytes) -> Answer:
        nonlocal begun
        begun += 1
        if begun <= 2:
            raise reason
        return await echo(number, data)

    await lasting.submit(1)
    async with lasting.worker(handle):
        assert await lasting.answer(1) == b"1 x"
        await lasting.empty()
    assert begun == 3
    assert not await lasting.dead()


async def test_a_worker_takes_no_more_than_it_can_do_from_the_others(shop: Shop) -> None:
    taken: dict[str, int] = {"one": 0, "two": 0}

    def slow(name: str) -> Handle:
        async def handle(number: int, data: bytes) -> Answer:
            taken[name] += 1
            await asyncio.sleep(0.02)
            return Answer(b"")

        return handle

    for number in range(100):
        await shop.submit(number, bytes(10))
    async with shop.worker(slow("one"), budget=20), shop.worker(slow("two"), budget=20):
        await shop.empty()
    assert min(taken.values()) > 25


async def test_two_who_get_the_same_message_answer_once(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[bytes] = []
    begun, gate, late = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def first(number: int, data: bytes) -> Answer:
        begun.set()
        await gate.wait()
        late.set()
        answers.append(b"first")
        return Answer(b"first")

    async def second(number: int, data: bytes) -> Answer:
        answers.append(b"second")
        return Answer(b"second")

    await shop.submit(1)
    with monkeypatch.context() as mute:
        mute.setattr(QueueWorker, "_keep_alive", lambda _: asyncio.Event().wait())
        async with shop.worker(first, budget=1), asyncio.timeout(30):
            await begun.wait()
            async with shop.worker(second):
                assert await shop.answer(1) == b"second"
                gate.set()
                await shop.empty()
            await late.wait()
    assert answers == [b"second", b"first"]
    assert await shop.answer(1) == b"second"


async def test_a_redelivery_whose_result_stands_is_not_computed_again(shop: Shop) -> None:
    calls = 0

    async def count(number: int, data: bytes) -> Answer:
        nonlocal calls
        calls += 1
        return Answer(b"once")

    ack = Outcomes.succeeded

    async def forget_to_acknowledge(self: Any, delivery: Any, event: Any, answer: Any) -> None:
        if delivery.delivered == 1:
            await self._resolve(event, catalog.RESOLVED, answer.data, answer.content_type)
        else:
            await ack(self, delivery, event, answer)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Outcomes, "succeeded", forget_to_acknowledge)
        async with shop.worker(count):
            await shop.submit(1)
            await shop.empty()
    assert calls == 1


async def test_a_lost_acknowledgement_of_a_result_is_no_second_result(shop: Shop) -> None:
    append, lost = shop.bus.append, 0

    async def lose(subject: str, event: CloudEvent, **options: Any) -> int:
        nonlocal lost
        sequence = await append(subject, event, **options)
        if subject.startswith("result.") and not lost:
            lost += 1
            raise BusUnavailable("no acknowledgement")
        return sequence

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shop.bus, "append", lose)
        async with shop.worker(echo):
            await shop.submit(1)
            await shop.empty()
    assert lost == 1
    assert await shop.answer(1) == b"1 x"


@pytest.mark.parametrize("headers", [None, {"ce-specversion": "1.0", "ce-id": "x:1"}])
async def test_a_message_that_is_no_event_hurts_nobody(shop: Shop, headers: dict[str, str] | None) -> None:
    await shop.bus.js.publish(f"{shop.name}.{TENANT}.0", b"nonsense", headers=headers)
    async with shop.worker(echo):
        await shop.submit(1)
        assert await shop.answer(1) == b"1 x"
        await shop.empty()


async def test_a_command_whose_data_is_gone_fails_and_hurts_nobody(shop: Shop) -> None:
    await shop.submit(1, bytes(CLAIM_BYTES + 1))
    for file in shop.blobs._root.rglob("claims/*/*"):
        file.unlink()
    async with shop.worker(echo):
        await shop.submit(2)
        assert await shop.answer(2) == b"2 x"
        assert (await shop.failure(1)).category == "server"


async def test_a_queue_without_results_just_empties(bus: Bus, blobs: FolderBlobs, shop: Shop) -> None:
    done: list[int] = []

    async def quiet(number: int, data: bytes) -> None:
        done.append(number)

    silent = Shop(bus, blobs, shop.name, results=False)
    async with silent.worker(quiet):
        for number in range(5):
            await silent.submit(number)
        await silent.empty()
    assert sorted(done) == list(range(5))


async def test_a_burst_after_long_silence_is_served_at_once(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("events.pull.EXPIRES", 1.0)
    asked = asyncio.Semaphore(0)
    await shop.bus.listen("$JS.API.CONSUMER.MSG.NEXT.>", lambda _: asked.release())
    async with shop.worker(echo):
        await shop.submit(99)
        async with asyncio.timeout(20):
            for _ in range(4):  # so two requests have expired
                await asked.acquire()
        for number in range(5):
            await shop.submit(number)
        async with asyncio.timeout(8):
            for number in range(5):
                await shop.answer(number)


async def test_many_small_commands_leave_few_requests_open(shop: Shop) -> None:
    async with shop.worker(echo, budget=1000):
        for number in range(700):
            await shop.submit(number)
        await shop.empty()
        info = await shop.bus.js.consumer_info(shop.name, f"{shop.queue.consumer}-{TENANT}")
        assert info.num_waiting is not None
        assert info.num_waiting <= 16


async def test_a_worker_goes_on_after_a_restart_of_the_server(
    own_nats: NatsProcess, blobs: FolderBlobs
) -> None:
    bus = await Bus.connect(own_nats.url, name="worker", timeout=1.0)
    await bus.ensure_shared_streams()
    await bus.ensure_stream(streams.work_queue("q", "q.>"))
    shop = Shop(bus, blobs, "q")
    with capture_logs():
        async with shop.worker(echo):
            await shop.submit(1)
            await shop.answer(1)
            back = asyncio.Event()
            forget = bus.on_reconnect(back.set)
            own_nats.stop()
            own_nats.start()
            await asyncio.wait_for(back.wait(), 20)
            await shop.submit(2)
            async with asyncio.timeout(8):  # far less than the life of a lost request
                assert await shop.answer(2) == b"2 x"
            forget()
    await bus.close()


async def test_a_payload_in_the_blob_store_goes_with_its_command_and_stays_with_a_dead_letter(
    shop: Shop, blobs: FolderBlobs
) -> None:
    large = b"x" * (CLAIM_BYTES + 1)

    async def small_answer(number: int, data: bytes) -> Answer:
        if number == 2:
            raise RuntimeError("each time")
        return Answer(b"done")

    def claims() -> int:
        return sum(path.is_file() for path in (blobs._root / names.token(TENANT) / "claims").rglob("*"))

    await shop.submit(1, large)
    await shop.submit(2, large)
    assert claims() == 2
    async with shop.worker(small_answer, budget=10 * len(large)):
        assert await shop.answer(1) == b"done"
        await shop.failure(2)
        await shop.empty()
    assert claims() == 1
    assert await shop.dead() == [f"dead.{shop.name}.{TENANT}.2"]


async def test_what_follows_a_result_and_fails_for_ever_is_put_aside(shop: Shop) -> None:
    calls = 0

    async def settled(_: CloudEvent) -> None:
        nonlocal calls
        calls += 1
        raise ValueError("cannot be joined")

    shop.queue = dataclasses.replace(shop.queue, settled=settled)
    await shop.submit(1)
    with capture_logs() as logs:
        async with shop.worker(echo):
            assert await shop.answer(1) == b"1 x"
            await shop.empty()
    assert calls == 1
    assert await shop.dead() == [f"dead.{shop.name}.{TENANT}.1"]
    assert any(entry["event"] == "dead.letter" for entry in logs)

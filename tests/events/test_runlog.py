"""A run is a log: the first entry of a number counts, and only the holder writes results."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from events import catalog, envelope, names
from events.blobs import FolderBlobs
from events.bus import Bus
from events.claims import CLAIM_BYTES
from events.envelope import CloudEvent
from events.failure import BusUnavailable, Conflict, Failure
from events.lease import LeaseLost, RunHolder
from events.order import Entry
from events.records import LoraShape, RunRecord
from events.runlog import LogReader, RunLog, gap_deadline
from events.tasks import end
from tests.events.nats_process import NatsProcess

TENANT = "t"


def record(base: str, name: str = "run") -> RunRecord:
    return RunRecord(
        run_id=f"{name}:train:0",
        session_id=name,
        base=base,
        lora=LoraShape(rank=8, seed=0),
        created=datetime.now(UTC),
    )


def root_of(run: RunRecord) -> str:
    return names.run_root(run.base, TENANT, run.run_id)


def result(number: int, data: bytes = b"{}") -> CloudEvent:
    return envelope.make_event(
        catalog.RESOLVED, id=f"run:{number}", tenant=TENANT, service="train", subject="run", data=data
    )


async def count(bus: Bus, run: RunRecord, part: str) -> dict[str, int]:
    info = await bus.js.stream_info(names.run_stream(run.base), subjects_filter=f"{root_of(run)}.{part}")
    return {subject.rpartition(".")[2]: n for subject, n in (info.state.subjects or {}).items()}


class Following:
    """Collects what a reader gives."""

    def __init__(self, bus: Bus, base: str) -> None:
        self.entries: list[tuple[str, Entry]] = []
        self._changed = asyncio.Event()
        self._task = asyncio.create_task(self._read(LogReader(bus, base)))

    async def _read(self, reader: LogReader) -> None:
        async for root, entry in reader.entries():
            self.entries.append((root, entry))
            self._changed.set()

    async def until(self, number: int, seconds: float = 30.0) -> list[int]:
        """The numbers so far once there are so many."""
        async with asyncio.timeout(seconds):
            while len(self.entries) < number:
                self._changed.clear()
                await self._changed.wait()
        return [entry.number for _, entry in self.entries]

    async def end(self) -> None:
        await end(self._task)


@pytest.fixture
async def run(bus: Bus, unique: str) -> RunRecord:
    await bus.ensure_run_stream(unique)
    return record(unique)


@pytest.fixture
def log(bus: Bus, blobs: FolderBlobs) -> RunLog:
    return RunLog(bus, blobs)


async def hold(bus: Bus, blobs: FolderBlobs, run: RunRecord) -> RunHolder:
    return await RunHolder.take(bus, blobs, run.base, TENANT, root_of(run))


# Commands


async def test_a_retried_command_changes_nothing_whatever_it_says(
    bus: Bus, blobs: FolderBlobs, log: RunLog, run: RunRecord
) -> None:
    await log.submit(TENANT, run, 1, catalog.OPTIM_STEP, b"first")
    await log.submit(TENANT, run, 1, catalog.OPTIM_STEP, b"second")
    await log.reject(TENANT, run, 1, "third")
    assert await count(bus, run, "cmd.*") == {"1": 1}
    following = Following(bus, run.base)
    await following.until(1)
    holder = await hold(bus, blobs, run)
    event, data = await holder.payload(following.entries[0][1])
    assert (event.get_type(), data) == (catalog.OPTIM_STEP, b"first")
    await following.end()


async def test_of_the_same_command_sent_at_once_by_many_one_is_the_command(
    bus: Bus, log: RunLog, run: RunRecord
) -> None:
    await asyncio.gather(*(log.submit(TENANT, run, 1, catalog.OPTIM_STEP, b"%d" % n) for n in range(20)))
    assert await count(bus, run, "cmd.*") == {"1": 1}


async def test_a_command_whose_acknowledgement_is_lost_is_written_once(
    bus: Bus, log: RunLog, run: RunRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = bus.append
    losses = 2

    async def lossy(*arguments: Any, **options: Any) -> int:
        nonlocal losses
        sequence = await append(*arguments, **options)
        if losses:
            losses -= 1
            raise BusUnavailable("no acknowledgement")
        return sequence

    monkeypatch.setattr(bus, "append", lossy)
    await log.submit(TENANT, run, 1, catalog.OPTIM_STEP, b"{}")
    assert await count(bus, run, "cmd.*") == {"1": 1}


async def test_large_payloads_go_by_claim_check(
    bus: Bus, blobs: FolderBlobs, log: RunLog, run: RunRecord
) -> None:
    large = bytes(CLAIM_BYTES + 1)
    await log.submit(TENANT, run, 1, catalog.FORWARD_BACKWARD, large, envelope.PROTOBUF)
    stored = await bus.last(names.run_stream(run.base), f"{root_of(run)}.cmd.1")
    assert stored is not None
    assert stored.event.get_data() == b""
    following = Following(bus, run.base)
    await following.until(1)
    holder = await hold(bus, blobs, run)
    assert (await holder.payload(following.entries[0][1]))[1] == large
    await following.end()


async def test_a_rejection_is_an_entry_under_its_number(bus: Bus, log: RunLog, run: RunRecord) -> None:
    await log.reject(TENANT, run, 3, "data: empty")
    stored = await bus.first(names.run_stream(run.base), f"{root_of(run)}.cmd.3")
    assert stored is not None
    assert stored.event.get_type() == catalog.REJECTED
    failure = Failure.model_validate_json(stored.event.get_data())
    assert failure == Failure(message="data: empty", category="user")


# The reader


async def test_the_reader_gives_all_runs_in_stream_order(bus: Bus, log: RunLog, run: RunRecord) -> None:
    other = record(run.base, "other")
    for number in (2, 0, 1):
        await log.submit(TENANT, run, number, catalog.OPTIM_STEP, b"{}")
        await log.submit(TENANT, other, number, catalog.OPTIM_STEP, b"{}")
    following = Following(bus, run.base)
    assert await following.until(6) == [2, 2, 0, 0, 1, 1]
    assert {root for root, _ in following.entries} == {root_of(run), root_of(other)}
    await following.end()


async def test_the_reader_asks_for_thousands_with_few_requests(bus: Bus, log: RunLog, run: RunRecord) -> None:
    following = Following(bus, run.base)
    for start in range(0, 1500, 100):
        numbers = range(start, start + 100)
        await asyncio.gather(*(log.submit(TENANT, run, n, catalog.OPTIM_STEP, b"{}") for n in numbers))
    assert sorted(await following.until(1500)) == list(range(1500))
    (info,) = await bus.js.consumers_info(names.run_stream(run.base))
    assert info.num_waiting is not None
    assert info.num_waiting <= 16
    await following.end()


async def test_the_reader_goes_on_when_its_consumer_is_deleted(bus: Bus, log: RunLog, run: RunRecord) -> None:
    following = Following(bus, run.base)
    for number in range(30):
        await log.submit(TENANT, run, number, catalog.OPTIM_STEP, b"{}")
        if number % 10 == 5:
            await following.until(1)
            for info in await bus.js.consumers_info(names.run_stream(run.base)):
                await bus.js.delete_consumer(names.run_stream(run.base), info.name)
    assert await following.until(30) == list(range(30))
    await following.end()


async def test_the_reader_goes_on_after_a_restart_of_the_server(
    own_nats: NatsProcess, blobs: FolderBlobs
) -> None:
    bus = await Bus.connect(own_nats.url, name="test", timeout=1.0)
    await bus.ensure_run_stream("base")
    log, run = RunLog(bus, blobs), record("base")
    following = Following(bus, "base")
    for number in range(3):
        await log.submit(TENANT, run, number, catalog.OPTIM_STEP, b"{}")
        assert await following.until(number + 1, seconds=10) == list(range(number + 1))
        own_nats.stop()
        own_nats.start()
    assert await following.until(3) == [0, 1, 2]
    await following.end()
    await bus.close()


class Leak:
    """A proxy that can swallow what the server sends, and cut the connection."""

    def __init__(self, port: int) -> None:
        self._target, self.deaf = port, False
        self._writers: list[asyncio.StreamWriter] = []
        self._connections: set[asyncio.Task[None]] = set()

    async def start(self) -> int:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        self._connections.add(asyncio.create_task(self._connected(reader, writer)))

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream, down = await asyncio.open_connection("127.0.0.1", self._target)
        self._writers.append(down)
        await asyncio.gather(
            self._pump(reader, down, client=True),
            self._pump(upstream, writer, client=False),
            return_exceptions=True,
        )

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, client: bool) -> None:
        while data := await reader.read(65536):
            if client or not self.deaf:
                writer.write(data)
                await writer.drain()
        writer.close()

    def cut(self) -> None:
        for writer in self._writers:
            writer.close()
        self._writers.clear()

    async def stop(self) -> None:
        self._server.close()
        await self._server.wait_closed()
        for connection in self._connections:  # also one that a client has just asked for
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        self.cut()


async def test_entries_lost_on_a_dying_connection_are_read_again(
    nats: NatsProcess, bus: Bus, log: RunLog, run: RunRecord
) -> None:
    leak = Leak(int(nats.url.rpartition(":")[2]))
    port = await leak.start()
    reading = await Bus.connect(f"{nats.url.rpartition(':')[0]}:{port}", name="reader", timeout=1.0)
    following = Following(reading, run.base)
    await log.submit(TENANT, run, 0, catalog.OPTIM_STEP, b"{}")
    await following.until(1)
    leak.deaf = True
    for number in (1, 2, 3):
        await log.submit(TENANT, run, number, catalog.OPTIM_STEP, b"{}")
    info, *_ = await bus.js.consumers_info(names.run_stream(run.base))
    assert info.delivered is not None
    assert info.delivered.consumer_seq == 4, "the server has sent them"
    leak.cut()
    leak.deaf = False
    assert await following.until(4, seconds=20) == [0, 1, 2, 3]
    await following.end()
    await reading.close()
    await leak.stop()


# Leases and fenced writes


async def test_an_old_holder_writes_nothing(bus: Bus, blobs: FolderBlobs, run: RunRecord) -> None:
    old = await hold(bus, blobs, run)
    await old.write(f"{root_of(run)}.result.0", result(0))
    new = await hold(bus, blobs, run)
    assert (old.epoch, new.epoch) == (1, 2)
    for subject in ("result.1", "checkpoint.weights.a", "cmd.5"):
        with pytest.raises(LeaseLost):
            await old.write(f"{root_of(run)}.{subject}", result(1))
    await new.write(f"{root_of(run)}.result.1", result(1))
    assert await count(bus, run, "result.*") == {"0": 1, "1": 1}
    assert await new.resolved() == {0, 1}


async def test_leases_of_other_runs_do_not_matter(bus: Bus, blobs: FolderBlobs, run: RunRecord) -> None:
    other = record(run.base, "other")
    one, two = await hold(bus, blobs, run), await hold(bus, blobs, other)
    for number in range(5):
        await asyncio.gather(
            one.write(f"{root_of(run)}.result.{number}", result(number)),
            two.write(f"{root_of(other)}.result.{number}", result(number)),
        )
    assert len(await count(bus, run, "result.*")) == len(await count(bus, other, "result.*")) == 5


async def test_of_two_who_take_a_run_at_once_one_wins(
    bus: Bus, blobs: FolderBlobs, run: RunRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    last, both = bus.last, asyncio.Barrier(2)

    async def together(stream: str, subject: str) -> Any:
        found = await last(stream, subject)
        await both.wait()
        return found

    with monkeypatch.context() as patch:
        patch.setattr(bus, "last", together)
        ends = await asyncio.gather(hold(bus, blobs, run), hold(bus, blobs, run), return_exceptions=True)
    assert sorted(type(one).__name__ for one in ends) == [Conflict.__name__, RunHolder.__name__]
    assert await count(bus, run, "lease") == {"lease": 1}


@pytest.mark.parametrize("losses", [1, 3])
async def test_a_lost_acknowledgement_does_not_write_twice(
    bus: Bus, blobs: FolderBlobs, run: RunRecord, monkeypatch: pytest.MonkeyPatch, losses: int
) -> None:
    append, left = bus.append, losses

    async def lossy(*arguments: Any, **options: Any) -> int:
        nonlocal left
        sequence = await append(*arguments, **options)
        if left:
            left -= 1
            raise BusUnavailable("no acknowledgement")
        return sequence

    monkeypatch.setattr(bus, "append", lossy)
    holder = await hold(bus, blobs, run)
    assert holder.epoch == 1
    assert await count(bus, run, "lease") == {"lease": 1}
    left = losses
    await asyncio.gather(*(holder.write(f"{root_of(run)}.result.{n}", result(n)) for n in range(4)))
    assert await count(bus, run, "result.*") == {str(n): 1 for n in range(4)}


async def test_a_write_that_never_arrived_is_written_again(
    bus: Bus, blobs: FolderBlobs, run: RunRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    holder, append, calls = await hold(bus, blobs, run), bus.append, 0

    async def lossy(*arguments: Any, **options: Any) -> int:
        nonlocal calls
        calls += 1
        if calls <= 2:
            raise BusUnavailable("no acknowledgement")
        return await append(*arguments, **options)

    monkeypatch.setattr(bus, "append", lossy)
    await holder.write(f"{root_of(run)}.result.0", result(0))
    assert await count(bus, run, "result.*") == {"0": 1}


async def test_a_holder_in_doubt_that_was_replaced_writes_nothing(
    bus: Bus, blobs: FolderBlobs, run: RunRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    holder, append = await hold(bus, blobs, run), bus.append

    async def lossy(subject: str, *arguments: Any, **options: Any) -> int:
        monkeypatch.setattr(bus, "append", append)
        await hold(bus, blobs, run)
        raise BusUnavailable("no acknowledgement")

    monkeypatch.setattr(bus, "append", lossy)
    with pytest.raises(LeaseLost):
        await holder.write(f"{root_of(run)}.result.0", result(0))
    assert await count(bus, run, "result.*") == {}


def test_the_time_left_to_a_gap_counts_from_the_first_later_entry() -> None:
    since = datetime.now(UTC) - timedelta(seconds=100)
    assert 259 < gap_deadline(since, 360.0) <= 260
    assert gap_deadline(since, 60.0) < 0

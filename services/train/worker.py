"""The trainer's loop: reads the logs of all runs of a base model, computes, writes results under each run's lease.

A round takes from every run that has work a few commands that are no forward-backward ones, and its next ones that are,
which all share passes. Results are written while the next round computes. A trainer that takes a run loads its newest
snapshot, applies again what came after it, and finds what has no result yet.
"""

import asyncio
import contextlib
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import structlog

from events import liveness, names, tasks
from events.activity import Activity
from events.blobs import Blobs
from events.bus import Bus
from events.checkpoints import Checkpoints
from events.failure import RekindleError
from events.record_store import Records
from events.runlog import LogReader
from services.train.commands import Commands
from services.train.engine import TrainEngine
from services.train.exports import Exports
from services.train.gaps import Gaps
from services.train.held import HeldRun, loop_time
from services.train.holding import Holding
from services.train.places import Places
from services.train.room import Room
from services.train.snapshots import Snapshots
from services.train.snapshotter import Snapshotter
from services.train.together import Job, Passes, train_together
from services.train.turns import Turns
from services.train.writes import Writes

log = structlog.get_logger(__name__)
T = TypeVar("T")


class TrainWorker:
    """Holds and trains the runs of one base model."""

    def __init__(
        self,
        bus: Bus,
        blobs: Blobs,
        records: Records,
        engine: TrainEngine,
        base: str,
        *,
        replica: str = "",
        memory_bytes: int | None = None,
        turn_seconds: float = 10.0,
        gap_seconds: float = 360.0,
        snapshot_seconds: float = 30.0,
        deterministic: bool = False,
        activity: Activity | None = None,
    ) -> None:
        """Without an `activity` it works always."""
        self._bus = bus
        self._base = base
        self._replica = replica
        self._deterministic = deterministic
        self._activity = activity or Activity()
        self._activity.hand_over = self.hand_over
        self._runs: dict[str, HeldRun] = {}
        """All runs of the base model that have a log, held or not, by root subject."""
        self._changed = asyncio.Event()
        self._turn = asyncio.Lock()
        """Held by a round, and by a hand-over: neither shall see the other's half."""
        self._looked = -math.inf
        """When it was last looked at who has work, by the loop's clock."""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="compute")
        self._snapshots = Snapshots(blobs, base, engine.base)
        self._holding = Holding(bus, blobs, base, replica, self._snapshots)
        self._writes = Writes(bus, blobs, base, self._activity, self._changed)
        exports = Exports(blobs, Checkpoints(bus, records), records, engine.base)
        commands = Commands(engine, exports, self._snapshots, self._compute)
        self._turns = Turns(commands, self._writes, self._compute, deterministic)
        self._passes = Passes(engine, self._compute, base)
        self._snapshotter = Snapshotter(self._snapshots, commands, self._writes, snapshot_seconds)
        self._gaps = Gaps(self._holding, self._writes, gap_seconds)
        room = Room(engine.base, records, memory_bytes, turn_seconds)
        self._places = Places(self._runs, room, self._holding, self._gaps, self._snapshotter, self._writes)

    async def run(self) -> None:
        """Work until cancelled; what has not been handed over by then is left as it is."""
        reader = LogReader(self._bus, self._base)
        await self._bus.ensure_run_stream(self._base)
        for root, head in (await reader.heads()).items():
            self._run_at(root).begin_at(head)
        for root, numbers in (await reader.resolved()).items():
            self._run_at(root).resolve(numbers)
        await self._bus.listen(names.closed_subject(f"{names.run_base(self._base)}.>"), self._closed)
        reading = asyncio.create_task(self._read(reader))
        reading.add_done_callback(lambda _: self._changed.set())
        beating = asyncio.create_task(liveness.beat(self._bus, self._replica)) if self._replica else None
        forget = self._activity.on_change(self._changed.set)
        try:
            while True:
                await self._wait_for_work(reading)
                with self._activity.working():
                    async with self._turn:
                        await self._round()
        finally:
            forget()
            self._thread.shutdown(wait=False, cancel_futures=True)
            await tasks.end(reading, *([beating] if beating else []))
            await self._writes.end(self._runs.values())

    # What there is to do

    async def _read(self, reader: LogReader) -> None:
        async for root, entry in reader.entries():
            self._run_at(root).add(entry)
            self._changed.set()

    def _closed(self, subject: str) -> None:
        """A run of which nothing is left takes no memory either; what it still writes meets another's lease."""
        self._runs.pop(subject.removeprefix(names.closed_subject("")), None)
        self._changed.set()  # its place in memory is free

    def _run_at(self, root: str) -> HeldRun:
        return self._runs.setdefault(root, HeldRun(root))

    async def _wait_for_work(self, reading: "asyncio.Task[None]") -> None:
        """Return when some run has work, and this replica shall do it."""
        while True:
            self._changed.clear()
            self._looked = loop_time()
            if self._writes.failure is not None:
                raise self._writes.failure
            if reading.done():
                reading.result()
            if self._activity.open:
                async with self._turn:
                    await self._places.give(self._looked)
                await self._gaps.release_due(list(self._runs.values()))
                await self._snapshotter.take_due(list(self._runs.values()))
                if any(run.has_turn(loop_time()) for run in self._runs.values()):
                    return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(self._next_look()):  # wait_for may swallow a cancellation
                    await self._changed.wait()

    def _next_look(self) -> float | None:
        """When something is due that no event announces: a gap given up, a snapshot, a run to look at again."""
        moments: list[float | None] = [*self._places.turn_ends()]
        for run in self._runs.values() if self._activity.open else ():
            look_again = run.held_elsewhere_until if run.pending else None
            moments += [self._gaps.due_at(run), look_again, self._snapshotter.due_at(run)]
        return min((at for at in moments if at is not None and at > self._looked), default=None)

    # Doing it

    async def _round(self) -> None:
        """One turn of every run that has work; of a suspect alone, with nothing else in the process to lose."""
        runs = list(self._runs.values())
        held = [run for run in runs if run.has_turn(loop_time()) and await self._hold(run)]
        # Before any run has its turn: what is taken into a turn must not be let go of before its pass.
        if (suspect := next((run for run in held if run.suspect is not None), None)) is not None:
            await self._be_alone_with(suspect)
            held = [suspect]
        jobs: list[Job] = []
        for run in held:
            with self._writes.keeping(run):
                if not run.stale:
                    jobs += await self._turns.take(run)
        # A row of a product depends bitwise on its company.
        for company in [[job] for job in jobs] if self._deterministic else [jobs]:
            await train_together(company, self._passes.run, self._writes.record)
        if any(run.suspect is not None for run in self._runs.values()):
            await self._writes.settle(self._runs.values())

    async def _hold(self, run: HeldRun) -> bool:
        """Whether the run is ours, with its state in memory."""
        with self._writes.keeping(run):
            return await self._holding.hold(run)
        return False

    async def _compute(self, function: Callable[..., T], *arguments: object) -> T:
        """Run in the one thread that owns the model."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)

    # Letting go

    async def _be_alone_with(self, suspect: HeldRun) -> None:
        """Let go of all other runs: should this process die now, no death counts against them."""
        others = [run for run in self._runs.values() if run is not suspect and run.holder is not None]
        await self._writes.settle(others)
        for run in others:
            with self._writes.keeping(run):
                await self._holding.release(run)

    async def hand_over(self) -> None:
        """Leave every run as a snapshot that its next holder goes on from at once."""
        async with self._turn:
            await self._writes.settle(self._runs.values())
            held = [run for run in self._runs.values() if run.holder is not None and not run.stale]
            for run in held:
                with _letting_go(run):
                    if run.applied > run.head.number + 1:
                        await self._snapshotter.begin(run)
            await self._writes.settle(held)
            for run in held:
                with _letting_go(run):
                    await self._holding.release(run)


@contextlib.contextmanager
def _letting_go(run: HeldRun) -> Iterator[None]:
    """What cannot be handed over is taken over."""
    try:
        yield
    except (RekindleError, OSError) as error:
        log.warning("run.kept", run=run.run_id, exc_info=error)

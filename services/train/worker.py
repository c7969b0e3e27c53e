"""The trainer's loop: reads the logs of all runs of a base model, computes, writes results under each run's lease.

A round takes from every run that has work a few commands that are no forward-backward ones, and its next ones that are,
which all share passes. Results are written while the next round computes. A trainer that takes a run loads its newest
snapshot, applies again what came after it, and finds what has no result yet.
"""

import asyncio
import contextlib
import math
from collections.abc import Callable, Coroutine, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import structlog

from events import catalog, claims, envelope, facts, liveness, metrics, names, tasks, trace
from events.activity import Activity
from events.blobs import Blobs
from events.bus import Bus
from events.checkpoints import Checkpoints
from events.failure import BusUnavailable, CommandFailed, Conflict, Failure, RekindleError, ServerError
from events.lease import LeaseLost
from events.order import Entry
from events.records import Records, RunRecord
from events.runlog import LogReader, gap_deadline, released
from events.weights import LoadCommand, SaveCommand
from rekindle.types import parse_forward_backward
from rekindle.types.requests import OptimStepRequest
from services.train.commands import Commands, state_of
from services.train.engine import PassResult, PassWork, TrainEngine
from services.train.exports import Exports
from services.train.held import DEATHS_FAILED, HeldRun
from services.train.holding import Holding
from services.train.results import Done, result_event
from services.train.room import Room
from services.train.run import TrainRun
from services.train.snapshots import Snapshots
from services.train.together import Job, train_together

log = structlog.get_logger(__name__)
T = TypeVar("T")

MOST_COMMANDS = 64
"""Forward-backward commands of one run taken in a round, so that other runs get their turn."""
MOST_OTHERS = 4
"""The same of other commands: a step, and saves behind it that wait for no pass of another run."""
END_SECONDS = 5.0
"""How long results on their way may take when the worker is cut off."""


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
        self._blobs = blobs
        self._engine = engine
        self._base = base
        self._replica = replica
        self._gap_seconds = gap_seconds
        self._snapshot_seconds = snapshot_seconds
        self._deterministic = deterministic
        self._activity = activity or Activity()
        self._activity.hand_over = self.hand_over
        self._snapshots = Snapshots(blobs, base, engine.base)
        self._holding = Holding(bus, blobs, base, replica, self._snapshots)
        self._room = Room(engine.base, records, memory_bytes, turn_seconds)
        exports = Exports(blobs, Checkpoints(bus, records), records, engine.base)
        self._commands = Commands(engine, exports, self._snapshots, self._compute)
        self._runs: dict[str, HeldRun] = {}
        self._changed = asyncio.Event()
        self._turns = asyncio.Lock()
        """Held by a round, and by a hand-over: neither shall see the other's half."""
        self._failure: BaseException | None = None
        """Of a write, for no reason that trying again would mend: this process must not look alive."""
        self._looked = -math.inf
        """When it was last looked at who has work, by the loop's clock."""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="compute")

    # The loop

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
                    async with self._turns:
                        await self._round()
        finally:
            forget()
            self._thread.shutdown(wait=False, cancel_futures=True)
            await tasks.end(reading, *([beating] if beating else []))
            await self._end_writes()

    async def _end_writes(self) -> None:
        """Let results that are on their way arrive; whatever does not is computed again from the log."""
        writes = {task for run in self._runs.values() for task in run.writes}
        if writes:
            await asyncio.wait(writes, timeout=END_SECONDS)
            await tasks.end(*writes)

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
            self._looked = _now()
            if self._failure is not None:
                raise self._failure
            if reading.done():
                reading.result()
            if self._activity.open:
                await self._make_room()
                await self._release_gaps()
                await self._take_snapshots()
                if any(map(_has_turn, self._runs.values())):
                    return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(self._next_look()):  # wait_for may swallow a cancellation
                    await self._changed.wait()

    def _next_look(self) -> float | None:
        """When something is due that no event announces: a gap given up, a snapshot, a run to look at again."""
        moments: list[float] = []
        for run in self._runs.values() if self._activity.open else ():
            if (gap := run.gap()) is not None:
                given_up = _now() + gap_deadline(gap.since, self._gap_seconds)
                moments.append(max(given_up, run.held_elsewhere_until))
            if run.pending:
                moments.append(run.held_elsewhere_until)
            if run.since_head is not None and run.snapshot is None:
                moments.append(run.since_head + self._snapshot_seconds)
        if (first := self._first_in_line()) is not None:
            moments += [self._room.turn_ends(first, run) for run in self._inside()]
        return min((moment for moment in moments if moment > self._looked), default=None)

    async def _round(self) -> None:
        """One turn of every run that has work; of a suspect alone, with nothing else in the process to lose."""
        held = [run for run in list(self._runs.values()) if _has_turn(run) and await self._hold(run)]
        # Before any run has its turn: what is taken into a turn must not be let go of before its pass.
        if (suspect := next((run for run in held if run.suspect is not None), None)) is not None:
            await self._be_alone_with(suspect)
            held = [suspect]
        jobs: list[Job] = []
        for run in held:
            with self._keeping(run):
                if not run.stale:
                    jobs += await self._turn(run)
        await train_together(jobs, self._run_passes, self._record)
        if any(run.suspect is not None for run in self._runs.values()):
            await self._settle(self._runs.values())

    @contextlib.contextmanager
    def _keeping(self, run: HeldRun) -> Iterator[None]:
        """What ends our hold on a run ends no other run."""
        try:
            yield
        except (LeaseLost, Conflict):
            self._lose(run)
        except BusUnavailable as error:
            self._doubt(run, error)

    async def _hold(self, run: HeldRun) -> bool:
        """Whether the run is ours, with its state in memory."""
        run.last_used = _now()
        with self._keeping(run):
            return await self._holding.hold(run)
        return False

    async def _be_alone_with(self, suspect: HeldRun) -> None:
        """Let go of all other runs: should this process die now, no death counts against them."""
        others = [run for run in self._runs.values() if run is not suspect and run.holder is not None]
        await self._settle(others)
        for run in others:
            with self._keeping(run):
                await self._holding.release(run)

    async def _settle(self, runs: Iterable[HeldRun]) -> None:
        """Wait for the results on their way."""
        await asyncio.gather(*(write for run in runs for write in run.writes), return_exceptions=True)

    async def _turn(self, run: HeldRun) -> list[Job]:
        """Apply what stands before the next forward-backward commands, and give these to the shared passes."""
        for _ in range(MOST_OTHERS):
            entries = run.next_entries(1 if self._deterministic else MOST_COMMANDS)
            if not entries:
                return []
            run.applied += len(entries)
            run.since_head = run.since_head or _now()
            _count_replay(run, entries)
            if entries[0].type == catalog.FORWARD_BACKWARD:
                jobs = [await self._job(run, entry) for entry in entries]
                return [job for job in jobs if job is not None]
            await self._apply(run, entries[0])
            if run.stale or run.suspect is not None:  # all results before a suspect are written first
                return []
        return []

    def _lose(self, run: HeldRun) -> None:
        log.warning("lease.lost", run=run.run_id)
        run.forget()
        run.stale = True
        run.held_elsewhere_until = _now() + 1.0
        self._changed.set()

    def _doubt(self, run: HeldRun, error: BaseException) -> None:
        """Memory and log may differ: replay under a new lease, after which no earlier write counts."""
        log.error("run.stale", run=run.run_id, exc_info=error)
        run.stale = True
        self._changed.set()

    # Snapshots, and letting go

    async def _take_snapshots(self) -> None:
        for run in list(self._runs.values()):
            if run.since_head is not None and _now() >= run.since_head + self._snapshot_seconds:
                await self._begin_snapshot(run)

    async def _begin_snapshot(self, run: HeldRun) -> None:
        """Copy the state now; write it, once all that it contains has its result, while training goes on."""
        if run.snapshot is not None or not _may_be_snapped(run):
            return
        run.since_head = None
        copy = None if run.state is None else await self._commands.copy(run)
        writing = self._snapshot(run, run.applied - 1, copy, list(run.writes))
        run.snapshot = self._spawn(run, writing)
        run.snapshot.add_done_callback(lambda _: self._snapshot_ended(run))

    def _snapshot_ended(self, run: HeldRun) -> None:
        run.snapshot = None
        self._changed.set()  # another may be due

    async def _snapshot(
        self, run: HeldRun, number: int, copy: TrainRun | None, earlier: list["asyncio.Task[None]"]
    ) -> None:
        await asyncio.gather(*earlier, return_exceptions=True)
        if run.stale or number <= run.head.number or any(n <= number for n in run.pending):
            return
        await self._settle_refusals(run, number)
        await self._snapshots.save(run, number, copy)

    async def _settle_refusals(self, run: HeldRun, number: int) -> None:
        """An entry that is its own result leaves with the log: first it gets a result like any other."""
        for entry in [entry for n, entry in run.entries.items() if n <= number and not entry.is_command]:
            if entry.number not in run.resolved:
                assert run.holder is not None, "snapshots are taken by the holder"
                _, data = await run.holder.payload(entry)
                await self._write(run, entry, Failure.model_validate_json(data))

    async def hand_over(self) -> None:
        """Leave every run as a snapshot that its next holder goes on from at once."""
        async with self._turns:
            await self._hand_over()

    async def _hand_over(self) -> None:
        await self._settle(self._runs.values())
        held = [run for run in self._runs.values() if run.holder is not None and not run.stale]
        for run in held:
            with self._letting_go(run):
                if run.applied > run.head.number + 1:
                    await self._begin_snapshot(run)
        await self._settle(held)
        for run in held:
            with self._letting_go(run):
                await self._holding.release(run)

    @contextlib.contextmanager
    def _letting_go(self, run: HeldRun) -> Iterator[None]:
        """What cannot be handed over is taken over."""
        try:
            yield
        except (RekindleError, OSError) as error:
            log.warning("run.kept", run=run.run_id, exc_info=error)

    # Places in memory

    async def _make_room(self) -> None:
        """Give places to those in line, and have others leave for the first of them."""
        async with self._turns:
            for run in list(self._runs.values()):
                run.idle = not (run.has_work(_now()) or self._gap_is_due(run))
                if run.idle or run.inside:
                    run.waits_since = None
                elif run.waits_since is None:
                    run.waits_since = _now()
                if run.leaving:
                    await self._leave(run)
            while (first := self._first_in_line()) is not None:
                if not await self._may_come(first):
                    first.waits_since = None
                elif self._room.fits(first, self._inside()):
                    first.come(_now())
                else:
                    return await self._ask_to_leave(first)

    async def _may_come(self, run: HeldRun) -> bool:
        """Whether the run can be ours; then its size is known."""
        with self._keeping(run):
            if await self._holding.is_free(run):
                await self._room.measure(run)
                return True
        return False

    def _inside(self) -> list[HeldRun]:
        return [run for run in self._runs.values() if run.inside]

    def _first_in_line(self) -> HeldRun | None:
        """The run that has waited longest for a place."""
        line = {run: run.waits_since for run in self._runs.values() if run.waits_since is not None}
        return min(line, key=line.__getitem__, default=None)

    async def _ask_to_leave(self, first: HeldRun) -> None:
        for run in self._room.leavers(first, self._inside(), self._looked):
            log.info("run.leaves", run=run.run_id, idle=run.idle)
            run.leaving = True
            await self._leave(run)
            self._changed.set()  # its place may be free

    async def _leave(self, run: HeldRun) -> None:
        """Give up a run's place, once its results are durable and a snapshot has what they say."""
        if run.writes:
            return  # the last of them calls again
        with self._keeping(run):
            if run.since_head is not None and _may_be_snapped(run):
                return await self._begin_snapshot(run)
            if not run.stale:
                await self._holding.release(run)
        run.leave()

    # Forward and backward

    async def _job(self, run: HeldRun, entry: Entry) -> Job | None:
        """Prepare a command; None when it failed before (replay) or cannot run."""
        if entry.number in run.resolved and await self._failed_before(run, entry):
            return None
        assert run.holder is not None, "a turn is taken by the holder"
        try:
            _refuse_condemned(run, entry)
            state = state_of(run)
            event, data = await run.holder.payload(entry)
            request = await self._compute(parse_forward_backward, data)
        except CommandFailed as error:
            await self._record(run, entry, error.failure)
            return None
        except (BusUnavailable, LeaseLost):
            raise
        except Exception as error:
            log.error("command.failed", run=run.run_id, number=entry.number, exc_info=error)
            await self._record(run, entry, ServerError(str(error)).failure)
            return None
        work = PassWork(state, request.data, request.loss_fn, request.loss_fn_config, request.forward_only)
        return Job(run, entry, work, event.get_extension("traceparent"))

    async def _run_passes(self, work: list[PassWork]) -> list[PassResult]:
        if not self._deterministic:
            return await self._run_pass(work)
        # A row of a product depends bitwise on its company: one command, one pass.
        return [result for one in work for result in await self._run_pass([one])]

    async def _run_pass(self, work: list[PassWork]) -> list[PassResult]:
        began = _now()
        results = await self._compute(self._engine.run_passes, work)
        metrics.passed(self._base, len({id(one.run) for one in work}), _now() - began)
        for one in work:
            metrics.worked(catalog.FORWARD_BACKWARD, _now() - began)
            counter = metrics.FORWARD_TOKENS if one.forward_only else metrics.TRAINED_TOKENS
            counter.labels(self._base).inc(sum(len(datum.tokens) for datum in one.data))
        return results

    async def _failed_before(self, run: HeldRun, entry: Entry) -> bool:
        assert run.holder is not None, "a turn is taken by the holder"
        stored = await run.holder.result(entry.number)
        return stored is not None and stored.event.get_type() == catalog.FAILED

    # All other commands

    async def _apply(self, run: HeldRun, entry: Entry) -> None:
        """Apply one entry; with a result already, only what it does to the state."""
        replayed = entry.number in run.resolved
        if not entry.is_command or (replayed and await self._failed_before(run, entry)):
            return
        assert run.holder is not None, "a turn is taken by the holder"
        try:
            _refuse_condemned(run, entry)
            event, data = await run.holder.payload(entry)
            trace.take_up(event.get_extension("traceparent"))
            began = _now()
            kind = metrics.kind_of(entry.type)
            with trace.span(kind, kind="consumer", command=event.get_id(), subject=run.run_id):
                done = await self._command(run, entry, data, replayed)
        except CommandFailed as error:
            await self._record(run, entry, error.failure)
        except (LeaseLost, Conflict, BusUnavailable):
            raise
        except Exception as error:
            log.error("command.failed", run=run.run_id, number=entry.number, exc_info=error)
            await self._record(run, entry, ServerError(str(error)).failure)
            run.stale = run.stale or not replayed  # it may have ended half-way
        else:
            if done is not None:
                metrics.worked(entry.type, _now() - began)
                await self._record(run, entry, done)

    async def _command(self, run: HeldRun, entry: Entry, data: bytes, replayed: bool) -> Done | None:
        """What the command does; None when its result comes later or stands already."""
        match entry.type:
            case catalog.CREATE_MODEL:
                return await self._commands.create(run, RunRecord.model_validate_json(data))
            case catalog.OPTIM_STEP:
                return await self._commands.step(run, entry, OptimStepRequest.model_validate_json(data))
            case catalog.LOAD_WEIGHTS:
                return await self._load(run, entry, LoadCommand.model_validate_json(data))
            case _:
                if not replayed:
                    await self._begin_save(run, entry, SaveCommand.model_validate_json(data))
                return None

    async def _load(self, run: HeldRun, entry: Entry, command: LoadCommand) -> Done:
        await self._settle([run])
        if run.stale or any(number < entry.number for number in run.pending):
            raise BusUnavailable("results before the load are not durable")
        await self._settle_refusals(run, entry.number)
        return await self._commands.load(run, entry, command)

    async def _begin_save(self, run: HeldRun, entry: Entry, command: SaveCommand) -> None:
        """Copy the state now; write it while training goes on."""
        copy = await self._commands.copy(run)
        self._spawn(run, self._save(run, entry, command, copy, run.last_result))
        if command.kind == "weights":
            run.since_head = -math.inf  # a good moment for a snapshot too

    async def _save(
        self,
        run: HeldRun,
        entry: Entry,
        command: SaveCommand,
        copy: TrainRun,
        earlier: "asyncio.Task[None] | None",
    ) -> None:
        await _after(earlier)
        began = _now()
        with trace.span("train.save"):
            done = await self._commands.save(run, entry, command, copy)
        metrics.worked(entry.type, _now() - began)
        await self._write(run, entry, done)

    # Results

    async def _record(self, run: HeldRun, entry: Entry, done: Done | Failure) -> None:
        """Write a result in the background, unless one stands."""
        if entry.number not in run.resolved:
            run.last_result = self._spawn(run, self._write_next(run, entry, done, run.last_result))
        elif isinstance(done, Failure) and run.beyond_repair is None:
            # It went well once. Weights without its effect would be other weights than the client was told of.
            log.error("replay.failed", run=run.run_id, number=entry.number, reason=done.message)
            message = f"the state of this run cannot be restored: operation {entry.number}: {done.message}"
            run.beyond_repair = Failure(message=message, category="server")

    async def _write_next(
        self, run: HeldRun, entry: Entry, done: Done | Failure, earlier: "asyncio.Task[None] | None"
    ) -> None:
        """Never before the results that it rests on: one of them may yet have another end, under another holder."""
        await _after(earlier)
        await self._write(run, entry, done)

    async def _write(self, run: HeldRun, entry: Entry, done: Done | Failure) -> None:
        event = result_event(run, entry, done)
        assert run.holder is not None, "results are written by the holder"
        subject = f"{run.root}.result.{entry.number}"
        news = () if isinstance(done, Failure) else done.facts
        for fact in news:  # before the result: a replay says nothing again
            await facts.publish(self._bus, run.tenant, fact)
        await run.holder.write(
            subject, await claims.keep(self._blobs, self._base, run.tenant, run.run_id, event)
        )
        run.resolve([entry.number])
        metrics.answered(entry.type, entry.time, done if isinstance(done, Failure) else None)

    def _spawn(self, run: HeldRun, writing: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.create_task(writing)
        run.writes.add(task)
        self._activity.begin()
        task.add_done_callback(lambda done: self._written(run, done))
        return task

    def _written(self, run: HeldRun, task: "asyncio.Task[None]") -> None:
        run.writes.discard(task)
        self._activity.end()
        if run.leaving:
            self._changed.set()
        error = None if task.cancelled() else task.exception()
        if isinstance(error, LeaseLost):
            self._lose(run)
        elif isinstance(error, BusUnavailable):
            self._doubt(run, error)
        elif error is not None:
            self._failure = error
            self._changed.set()

    # Gaps

    async def _release_gaps(self) -> None:
        for run in list(self._runs.values()):
            gap = run.gap()
            if gap is not None and run.inside and not run.leaving and self._gap_is_due(run):
                with self._keeping(run):
                    if await self._hold(run) and run.gap() == gap:  # another holder may have gone beyond it
                        await self._release(run, gap.number)

    def _gap_is_due(self, run: HeldRun) -> bool:
        gap = run.gap()
        if gap is None or run.held_elsewhere_until > _now():
            return False
        return gap_deadline(gap.since, self._gap_seconds) <= 0

    async def _release(self, run: HeldRun, number: int) -> None:
        """Give up a number by a fenced entry; whichever entry came first is that number's."""
        log.warning("gap.released", run=run.run_id, number=number)
        event = envelope.make_event(
            catalog.RELEASED,
            id=f"{names.future_id(run.run_id, number)}:released",
            tenant=run.tenant,
            service="train",
            subject=run.run_id,
            data=released(number),
        )
        assert run.holder is not None, "gaps are released by the holder"
        await run.holder.write(f"{run.root}.cmd.{number}", event)
        run.given_up = number

    async def _compute(self, function: Callable[..., T], *arguments: object) -> T:
        """Run in the one thread that owns the model."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)


async def _after(earlier: "asyncio.Task[None] | None") -> None:
    """Wait for the result before. Raises BusUnavailable when it could not be written."""
    if earlier is not None:
        await asyncio.wait({earlier})
        if earlier.cancelled() or earlier.exception() is not None:
            raise BusUnavailable("a result before this one could not be written")


def _count_replay(run: HeldRun, entries: list[Entry]) -> None:
    """Say once, at its end, how much a replay applied again."""
    again = sum(entry.number in run.resolved for entry in entries)
    run.replayed += again
    if run.replayed and again < len(entries):
        log.info("run.replayed", run=run.run_id, commands=run.replayed)
        run.replayed = 0


def _has_turn(run: HeldRun) -> bool:
    """Whether a run shall work now: it can, and has its place in memory."""
    return run.inside and not run.leaving and run.has_work(_now())


def _may_be_snapped(run: HeldRun) -> bool:
    """Whether the state is ours and true."""
    return not run.stale and run.holder is not None and run.beyond_repair is None


def _refuse_condemned(run: HeldRun, entry: Entry) -> None:
    """Raise ServerError for the command that has ended too many holders."""
    if entry.number == run.condemned:
        raise ServerError(f"{DEATHS_FAILED} trainers in a row ended over this command")


def _now() -> float:
    return asyncio.get_running_loop().time()

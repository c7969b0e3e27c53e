"""The trainer's loop: reads the logs of all runs of a base model, computes, writes results under each run's lease.

A round takes from every run that has work: its next forward-backward commands, which all share passes, or one
other command. Results are written while the next round computes. A trainer that starts finds in the logs what
has no result yet, and applies again what came before it.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import structlog

from events import blobs as claims
from events import catalog, envelope, facts, names, tasks, trace
from events.blobs import Blobs
from events.bus import Bus, again_when_unavailable
from events.checkpoints import Checkpoints
from events.failure import BusUnavailable, CommandFailed, Conflict, Failure, ServerError, UserError
from events.order import Entry
from events.records import Records, RunRecord
from events.runlog import LeaseLost, LogReader, RunHolder, gap_deadline, released
from events.weights import LoadCommand, SaveCommand
from rekindle.types import parse_forward_backward
from rekindle.types.requests import (
    CreateModelResponse,
    LoadWeightsResponse,
    OptimStepRequest,
    OptimStepResponse,
)
from services.model.lora import LoraSpec
from services.train.engine import PassResult, PassWork, TrainEngine
from services.train.exports import Exports
from services.train.held import HeldRun
from services.train.results import Done, fact_of, result_event
from services.train.run import TrainRun
from services.train.together import Job, train_together

log = structlog.get_logger(__name__)
T = TypeVar("T")

MOST_COMMANDS = 64
"""Forward-backward commands of one run taken in a round, so that other runs get their turn."""
END_SECONDS = 5.0
"""How long results on their way may take when the worker ends."""


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
        max_runs: int = 64,
        gap_seconds: float = 360.0,
    ) -> None:
        self._bus = bus
        self._blobs = blobs
        self._engine = engine
        self._base = base
        self._max_runs = max_runs
        self._gap_seconds = gap_seconds
        self._exports = Exports(blobs, Checkpoints(bus, records), records, engine.base)
        self._runs: dict[str, HeldRun] = {}
        self._changed = asyncio.Event()
        self._failure: BaseException | None = None
        """Of a write, for no reason that trying again would mend: this process must not look alive."""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="compute")

    # The loop

    async def run(self) -> None:
        """Work until cancelled."""
        reader = LogReader(self._bus, self._base)
        await self._bus.ensure_run_stream(self._base)
        for root, numbers in (await reader.resolved()).items():
            self._run_at(root).resolve(numbers)
        reading = asyncio.create_task(self._read(reader))
        reading.add_done_callback(lambda _: self._changed.set())
        try:
            while True:
                await self._wait_for_work(reading)
                await self._round()
        finally:
            self._thread.shutdown(wait=False, cancel_futures=True)
            await tasks.end(reading)
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

    def _run_at(self, root: str) -> HeldRun:
        return self._runs.setdefault(root, HeldRun(root))

    async def _wait_for_work(self, reading: "asyncio.Task[None]") -> None:
        while True:
            self._changed.clear()
            if self._failure is not None:
                raise self._failure
            if reading.done():
                reading.result()
            await self._release_gaps()
            if any(run.has_work for run in self._runs.values()):
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._next_gap()):  # wait_for may swallow a cancellation
                    await self._changed.wait()

    async def _round(self) -> None:
        """One turn of every run that has work."""
        jobs: list[Job] = []
        for run in [run for run in self._runs.values() if run.has_work]:
            with self._keeping(run):
                await self._hold(run)
                jobs += await self._turn(run)
        await train_together(jobs, self._run_passes, self._record)
        self._make_room()

    @contextlib.contextmanager
    def _keeping(self, run: HeldRun) -> Iterator[None]:
        """What ends our hold on a run ends no other run."""
        try:
            yield
        except (LeaseLost, Conflict):
            self._lose(run)
        except BusUnavailable as error:
            self._doubt(run, error)

    async def _hold(self, run: HeldRun) -> None:
        """Take the lease of a run that is not held yet, or whose memory is in doubt."""
        run.last_used = time.monotonic()
        if run.stale:
            await asyncio.gather(*run.writes, return_exceptions=True)
            run.forget()
            run.holder = None
            run.stale = False
        if run.holder is None:
            await self._identify(run)
            run.holder = await RunHolder.take(self._bus, self._blobs, self._base, run.tenant, run.root)
            # Only now can nobody else add results: those that another holder wrote meanwhile stand.
            run.resolve(await run.holder.resolved())

    @again_when_unavailable
    async def _identify(self, run: HeldRun) -> None:
        """Read from an entry whose run it is."""
        assert run.known is not None, "a run is known by its entries"
        stored = await self._bus.at(names.run_stream(self._base), run.known.sequence)
        assert stored is not None, "the entry was read from there"
        run.run_id = stored.event.get_subject() or ""
        run.tenant = names.tenant_of(stored.event.get_source())

    async def _turn(self, run: HeldRun) -> list[Job]:
        """Apply the next entry, or give its forward-backward commands to the shared passes."""
        entries = run.next_entries(MOST_COMMANDS)
        run.applied += len(entries)
        if entries[0].type != catalog.FORWARD_BACKWARD:
            await self._apply(run, entries[0])
            return []
        jobs = [await self._job(run, entry) for entry in entries]
        return [job for job in jobs if job is not None]

    def _lose(self, run: HeldRun) -> None:
        log.warning("lease.lost", run=run.run_id)
        run.forget()
        run.lost = True

    def _doubt(self, run: HeldRun, error: BaseException) -> None:
        """Memory and log may differ: replay under a new lease, after which no earlier write counts."""
        log.error("run.stale", run=run.run_id, exc_info=error)
        run.stale = True
        self._changed.set()

    def _make_room(self) -> None:
        """Drop idle runs, least recently used first, above what memory is meant for."""
        loaded = [run for run in self._runs.values() if run.state is not None]
        idle = sorted((r for r in loaded if not r.has_work and not r.writes), key=lambda r: r.last_used)
        for run in idle[: max(0, len(loaded) - self._max_runs)]:
            run.forget()

    # Forward and backward

    async def _job(self, run: HeldRun, entry: Entry) -> Job | None:
        """Prepare a command; None when it failed before (replay) or cannot run."""
        if entry.number in run.resolved and await self._failed_before(run, entry):
            return None
        assert run.holder is not None, "a turn is taken by the holder"
        try:
            state = _state_of(run)
            event, data = await run.holder.payload(entry)
            request = await self._compute(parse_forward_backward, data)
        except CommandFailed as error:
            await self._record(run, entry, error.failure)
            return None
        except BusUnavailable:
            raise
        except Exception as error:
            log.error("command.failed", run=run.run_id, number=entry.number, exc_info=error)
            await self._record(run, entry, ServerError(str(error)).failure)
            return None
        work = PassWork(state, request.data, request.loss_fn, request.loss_fn_config, request.forward_only)
        return Job(run, entry, work, event.get_extension("traceparent"))

    async def _run_passes(self, work: list[PassWork]) -> list[PassResult]:
        return await self._compute(self._engine.run_passes, work)

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
            event, data = await run.holder.payload(entry)
            trace.take_up(event.get_extension("traceparent"))
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
                await self._record(run, entry, done)

    async def _command(self, run: HeldRun, entry: Entry, data: bytes, replayed: bool) -> Done | None:
        """What the command does; None when its result comes later or stands already."""
        match entry.type:
            case catalog.CREATE_MODEL:
                return await self._create(run, RunRecord.model_validate_json(data))
            case catalog.OPTIM_STEP:
                return await self._step(run, entry, OptimStepRequest.model_validate_json(data))
            case catalog.LOAD_WEIGHTS:
                return await self._load(run, entry, LoadCommand.model_validate_json(data))
            case _:
                if not replayed:
                    await self._begin_save(run, entry, SaveCommand.model_validate_json(data))
                return None

    async def _create(self, run: HeldRun, record: RunRecord) -> Done:
        run.state = await self._compute(self._engine.new_run, LoraSpec(**record.lora.model_dump()))
        started = fact_of(run, 0, catalog.RUN_STARTED, {"base": record.base, "rank": record.lora.rank})
        return Done(CreateModelResponse(model_id=run.run_id).model_dump_json().encode(), facts=(started,))

    async def _step(self, run: HeldRun, entry: Entry, request: OptimStepRequest) -> Done:
        state = _state_of(run)
        metrics = await self._compute(self._engine.optim_step, state, request.adam_params)
        fact = fact_of(
            run,
            entry.number,
            catalog.STEP_APPLIED,
            {"number": entry.number, "step": state.step, "metrics": metrics},
        )
        return Done(OptimStepResponse(metrics=metrics).model_dump_json().encode(), facts=(fact,))

    async def _load(self, run: HeldRun, entry: Entry, command: LoadCommand) -> Done:
        run.state = await self._exports.load(run.tenant, run.run_id, self._base, entry.number, command)
        answer = LoadWeightsResponse(path=command.path, model_id=run.run_id)
        return Done(answer.model_dump_json(exclude_none=True).encode())

    async def _begin_save(self, run: HeldRun, entry: Entry, command: SaveCommand) -> None:
        """Copy the state now; write it while training goes on."""
        copy = await self._compute(_state_of(run).copy)
        self._spawn(run, self._save(run, entry, command, copy))

    async def _save(self, run: HeldRun, entry: Entry, command: SaveCommand, copy: TrainRun) -> None:
        assert run.holder is not None, "weights are saved by the holder"
        try:
            async with run.saving:
                saved, news = await self._exports.save(
                    run.holder, run.tenant, run.run_id, entry.number, copy, command
                )
        except CommandFailed as error:
            await self._write(run, entry, error.failure)
            return
        except OSError as error:
            await self._write(run, entry, ServerError(f"the files cannot be written: {error}").failure)
            return
        answer: dict[str, Any] = {"path": saved.path, "size_bytes": saved.size_bytes}
        if command.sampler_id is not None:
            answer = {"sampling_session_id": command.sampler_id}
        answer["type"] = entry.type.rpartition(".")[2]
        await self._write(run, entry, Done(envelope.json_data(answer), facts=tuple(news)))

    # Results

    async def _record(self, run: HeldRun, entry: Entry, done: Done | Failure) -> None:
        """Write a result in the background, unless one stands."""
        if entry.number not in run.resolved:
            self._spawn(run, self._write(run, entry, done))
        elif isinstance(done, Failure) and run.beyond_repair is None:
            # It went well once. Weights without its effect would be other weights than the client was told of.
            log.error("replay.failed", run=run.run_id, number=entry.number, reason=done.message)
            message = f"the state of this run cannot be restored: operation {entry.number}: {done.message}"
            run.beyond_repair = Failure(message=message, category="server")

    async def _write(self, run: HeldRun, entry: Entry, done: Done | Failure) -> None:
        event = result_event(run, entry, done)
        assert run.holder is not None, "results are written by the holder"
        subject = f"{run.root}.result.{entry.number}"
        news = () if isinstance(done, Failure) else done.facts
        for fact in news:  # before the result: a replay says nothing again
            await facts.publish(self._bus, run.tenant, fact)
        await run.holder.write(subject, await claims.check_in(self._blobs, run.tenant, event))
        run.resolve([entry.number])

    def _spawn(self, run: HeldRun, writing: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(writing)
        run.writes.add(task)
        task.add_done_callback(lambda done: self._written(run, done))

    def _written(self, run: HeldRun, task: "asyncio.Task[None]") -> None:
        run.writes.discard(task)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, LeaseLost):
            self._lose(run)
        elif isinstance(error, BusUnavailable):
            self._doubt(run, error)
        elif error is not None:
            self._failure = error
            self._changed.set()

    # Gaps

    def _next_gap(self) -> float | None:
        """Seconds until the next missing number is given up."""
        ends = [
            gap_deadline(gap.since, self._gap_seconds) for run in self._runs.values() if (gap := run.gap())
        ]
        return max(0.0, min(ends)) if ends else None

    async def _release_gaps(self) -> None:
        for run in list(self._runs.values()):
            gap = run.gap()
            if gap is not None and gap_deadline(gap.since, self._gap_seconds) <= 0:
                with self._keeping(run):
                    await self._hold(run)
                    await self._release(run, gap.number)

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


def _state_of(run: HeldRun) -> TrainRun:
    """The state that a command works on. Raises CommandFailed when there is none to be trusted."""
    if run.beyond_repair is not None:
        raise ServerError(run.beyond_repair.message)
    if run.state is None:
        raise UserError(f"model_id: run {run.run_id!r} has no weights; its creation failed")
    return run.state

"""A run's turn: the next entries of its log, applied to its state up to the commands that share passes with others.

An entry that has a result is applied again only for what it does to the state. What goes wrong with a command is its
result; what ends our hold on the run is raised. Knows nothing of places in memory, nor of whose turn it is.
"""

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator
from dataclasses import dataclass

import structlog

from events import catalog, metrics, trace
from events.failure import BusUnavailable, CommandFailed, Conflict, ServerError
from events.lease import LeaseLost
from events.order import Entry
from events.records import RunRecord
from events.weights import LoadCommand, SaveCommand
from rekindle.types import parse_forward_backward
from rekindle.types.requests import OptimStepRequest
from services.train.commands import Commands, Compute, state_of
from services.train.engine import PassWork
from services.train.held import DEATHS_FAILED, HeldRun, loop_time
from services.train.results import Done
from services.train.run import TrainRun
from services.train.together import Job
from services.train.writes import Writes, after

log = structlog.get_logger(__name__)

MOST_COMMANDS = 64
"""Forward-backward commands of one run taken in a round, so that other runs get their turn."""
MOST_OTHERS = 4
"""The same of other commands: a step, and saves behind it that wait for no pass of another run."""


@dataclass(slots=True)
class Turns:
    """Applies the logs of runs that are held."""

    commands: Commands
    writes: Writes
    compute: Compute
    deterministic: bool
    """One command is one pass."""

    async def take(self, run: HeldRun) -> list[Job]:
        """Apply what stands before the next forward-backward commands; returns these, for the shared passes.

        Raises LeaseLost, Conflict or BusUnavailable.
        """
        for _ in range(MOST_OTHERS):
            entries = run.next_entries(1 if self.deterministic else MOST_COMMANDS)
            if not entries:
                return []
            run.applied += len(entries)
            run.since_head = run.since_head or loop_time()
            _count_replay(run, entries)
            if entries[0].type == catalog.FORWARD_BACKWARD:
                jobs = [await self._job(run, entry) for entry in entries]
                return [job for job in jobs if job is not None]
            await self._apply(run, entries[0])
            if run.stale or run.suspect is not None:  # all results before a suspect are written first
                return []
        return []

    async def _job(self, run: HeldRun, entry: Entry) -> Job | None:
        """Prepare a forward-backward command; None when it failed before (replay) or cannot run."""
        if entry.number in run.resolved and await _failed_before(run, entry):
            return None
        holder = run.ours
        async with self._failing(run, entry):
            _refuse_condemned(run, entry)
            state = state_of(run)
            event, data = await holder.payload(entry)
            request = await self.compute(parse_forward_backward, data)
            work = PassWork(
                state, request.data, request.loss_fn, request.loss_fn_config, request.forward_only
            )
            return Job(run, entry, work, event.get_extension("traceparent"))
        return None

    async def _apply(self, run: HeldRun, entry: Entry) -> None:
        """Apply one other entry; with a result already, only what it does to the state."""
        replayed = entry.number in run.resolved
        if not entry.is_command or (replayed and await _failed_before(run, entry)):
            return
        holder, done = run.ours, None
        async with self._failing(run, entry, halfway=not replayed):
            _refuse_condemned(run, entry)
            event, data = await holder.payload(entry)
            trace.take_up(event.get_extension("traceparent"))
            began = loop_time()
            kind = metrics.kind_of(entry.type)
            with trace.span(kind, kind="consumer", command=event.get_id(), subject=run.run_id):
                done = await self._command(run, entry, data, replayed)
        if done is not None:
            metrics.worked(entry.type, loop_time() - began)
            self.writes.record(run, entry, done)

    @contextlib.asynccontextmanager
    async def _failing(self, run: HeldRun, entry: Entry, *, halfway: bool = False) -> AsyncIterator[None]:
        """Whatever is wrong with the command is its result.

        halfway: an error that nobody foresaw may leave a part of it done.
        """
        try:
            yield
        except CommandFailed as error:
            self.writes.record(run, entry, error.failure)
        except (LeaseLost, Conflict, BusUnavailable):
            raise
        except Exception as error:
            log.error("command.failed", run=run.run_id, number=entry.number, exc_info=error)
            self.writes.record(run, entry, ServerError(str(error)).failure)
            run.stale = run.stale or halfway

    async def _command(self, run: HeldRun, entry: Entry, data: bytes, replayed: bool) -> Done | None:
        """What the command does; None when its result comes later or stands already."""
        match entry.type:
            case catalog.CREATE_MODEL:
                return await self.commands.create(run, RunRecord.model_validate_json(data))
            case catalog.OPTIM_STEP:
                return await self.commands.step(run, entry, OptimStepRequest.model_validate_json(data))
            case catalog.LOAD_WEIGHTS:
                return await self._load(run, entry, LoadCommand.model_validate_json(data))
            case _:
                if not replayed:
                    await self._begin_save(run, entry, SaveCommand.model_validate_json(data))
                return None

    async def _load(self, run: HeldRun, entry: Entry, command: LoadCommand) -> Done:
        await self.writes.settle([run])
        if run.stale or not run.settled(entry.number - 1):
            raise BusUnavailable("results before the load are not durable")
        await self.writes.write_refusals(run, entry.number)
        return await self.commands.load(run, entry, command)

    async def _begin_save(self, run: HeldRun, entry: Entry, command: SaveCommand) -> None:
        """Copy the state now; write it while training goes on."""
        copy = await self.commands.copy(run)
        self.writes.begin(run, self._save(run, entry, command, copy, run.last_result))
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
        await after(earlier)
        began = loop_time()
        with trace.span("train.save"):
            done = await self.commands.save(run, entry, command, copy)
        metrics.worked(entry.type, loop_time() - began)
        await self.writes.write(run, entry, done)


async def _failed_before(run: HeldRun, entry: Entry) -> bool:
    stored = await run.ours.result(entry.number)
    return stored is not None and stored.event.get_type() == catalog.FAILED


def _refuse_condemned(run: HeldRun, entry: Entry) -> None:
    """Raise ServerError for the command that has ended too many holders."""
    if entry.number == run.condemned:
        raise ServerError(f"{DEATHS_FAILED} trainers in a row ended over this command")


def _count_replay(run: HeldRun, entries: list[Entry]) -> None:
    """Say once, at its end, how much a replay applied again."""
    again = sum(entry.number in run.resolved for entry in entries)
    run.replayed += again
    if run.replayed and again < len(entries):
        log.info("run.replayed", run=run.run_id, commands=run.replayed)
        run.replayed = 0

"""What is written of the runs while training goes on: each write a task of its own, under its run's lease.

Promises that a result is written once, and never before the results that it rests on. No write fails in silence: a
lease that is gone drops the run from memory (`lose`), a bus that does not answer has it replayed (`doubt`), and any
other error is the process' own (`failure`). Knows nothing of computing, nor of when a snapshot is due.
"""

import asyncio
import contextlib
from collections.abc import Coroutine, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import structlog

from events import claims, facts, metrics, tasks
from events.activity import Activity
from events.blobs import Blobs
from events.bus import Bus
from events.failure import BlobsUnavailable, BusUnavailable, Conflict, Failure
from events.lease import LeaseLost
from events.order import Entry
from services.train.held import HeldRun, loop_time
from services.train.results import Done, result_event

log = structlog.get_logger(__name__)

END_SECONDS = 5.0
"""How long writes on their way may take when the worker is cut off."""
LOST_SECONDS = 1.0
"""After which a run that somebody else has taken from us is looked at again."""
STORE_SECONDS = 5.0
"""After which a run is tried again that needs a blob store which does not answer."""


@dataclass(slots=True)
class Writes:
    """Writes to the logs of one base model's runs, as the holder of each."""

    bus: Bus
    blobs: Blobs
    base: str
    activity: Activity
    changed: asyncio.Event
    """Set when there may be something new to do."""
    failure: BaseException | None = None
    """Of a write, for no reason that trying again would mend: this process must not look alive."""

    # Results

    def record(self, run: HeldRun, entry: Entry, done: Done | Failure) -> None:
        """Write a result in the background, unless one stands."""
        if entry.number not in run.resolved:
            run.last_result = self.begin(run, self._write_next(run, entry, done, run.last_result))
        elif isinstance(done, Failure) and run.beyond_repair is None:
            # It went well once. Weights without its effect would be other weights than the client was told of.
            log.error("replay.failed", run=run.run_id, number=entry.number, reason=done.message)
            message = f"the state of this run cannot be restored: operation {entry.number}: {done.message}"
            run.beyond_repair = Failure(message=message, category="server")

    async def _write_next(
        self, run: HeldRun, entry: Entry, done: Done | Failure, earlier: "asyncio.Task[None] | None"
    ) -> None:
        """Never before the results that it rests on: one of them may yet have another end, under another holder."""
        await after(earlier)
        await self.write(run, entry, done)

    async def write(self, run: HeldRun, entry: Entry, done: Done | Failure) -> None:
        """Write a result now. Raises LeaseLost, or BusUnavailable."""
        event = result_event(run, entry, done)
        holder = run.ours
        news = () if isinstance(done, Failure) else done.facts
        for fact in news:  # before the result: a replay says nothing again
            await facts.publish(self.bus, run.tenant, fact)
        kept = await claims.keep(self.blobs, self.base, run.tenant, run.run_id, event)
        await holder.write(f"{run.root}.result.{entry.number}", kept)
        run.resolve([entry.number])
        metrics.answered(entry.type, entry.time, done if isinstance(done, Failure) else None)

    async def write_refusals(self, run: HeldRun, number: int) -> None:
        """An entry that is its own result leaves with the log: first it gets a result like any other."""
        for entry in [entry for n, entry in run.entries.items() if n <= number and not entry.is_command]:
            if entry.number not in run.resolved:
                _, data = await run.ours.payload(entry)
                await self.write(run, entry, Failure.model_validate_json(data))

    # Tasks

    def begin(self, run: HeldRun, writing: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        """Write in the background."""
        task = asyncio.create_task(writing)
        run.writes.add(task)
        self.activity.begin()
        task.add_done_callback(lambda done: self._ended(run, done))
        return task

    def _ended(self, run: HeldRun, task: "asyncio.Task[None]") -> None:
        run.writes.discard(task)
        self.activity.end()
        if run.leaving:
            self.changed.set()
        error = None if task.cancelled() else task.exception()
        if isinstance(error, LeaseLost):
            self.lose(run)
        elif isinstance(error, BusUnavailable):
            self.doubt(run, error)
        elif error is not None:
            self.failure = error
            self.changed.set()

    async def settle(self, runs: Iterable[HeldRun]) -> None:
        """Wait for what is on its way."""
        await asyncio.gather(*(write for run in runs for write in run.writes), return_exceptions=True)

    async def end(self, runs: Iterable[HeldRun]) -> None:
        """Let what is on its way arrive; whatever does not is computed again from the log."""
        writes = {task for run in runs for task in run.writes}
        if writes:
            await asyncio.wait(writes, timeout=END_SECONDS)
            await tasks.end(*writes)

    # The hold on a run

    @contextlib.contextmanager
    def keeping(self, run: HeldRun) -> Iterator[None]:
        """What ends our hold on a run ends no other run."""
        try:
            yield
        except (LeaseLost, Conflict):
            self.lose(run)
        except BusUnavailable as error:
            self.doubt(run, error)

    def lose(self, run: HeldRun) -> None:
        """Somebody else holds it."""
        log.warning("lease.lost", run=run.run_id)
        run.forget()
        run.stale = True
        run.held_elsewhere_until = loop_time() + LOST_SECONDS
        self.changed.set()

    def doubt(self, run: HeldRun, error: BaseException) -> None:
        """Memory and log may differ: replay under a new lease, after which no earlier write counts."""
        log.error("run.stale", run=run.run_id, exc_info=error)
        run.stale = True
        if isinstance(error, BlobsUnavailable):  # it may refuse at once, and every attempt costs a lease
            run.held_elsewhere_until = loop_time() + STORE_SECONDS
        self.changed.set()


async def after(earlier: "asyncio.Task[None] | None") -> None:
    """Wait for the result before. Raises BusUnavailable when it could not be written."""
    if earlier is not None:
        await asyncio.wait({earlier})
        if earlier.cancelled() or earlier.exception() is not None:
            raise BusUnavailable("a result before this one could not be written")

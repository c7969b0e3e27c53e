"""Forward-backward commands of many runs in shared passes; the one that is at fault fails alone."""

import contextlib
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field

import structlog

from events import catalog, ids, metrics, trace
from events.failure import Failure, ServerError
from events.order import Entry
from services.train.commands import Compute
from services.train.engine import PassResult, PassWork, TrainEngine, WorkError
from services.train.held import HeldRun, loop_time
from services.train.results import Done, failure_of, passed

log = structlog.get_logger(__name__)

RunPasses = Callable[[list[PassWork]], Awaitable[list[PassResult]]]
"""Computes works in shared passes. Raises WorkError, with nothing changed, for the first that is at fault."""
Record = Callable[[HeldRun, Entry, Done | Failure], None]
"""Takes what a command came to."""


@dataclass(slots=True)
class Job:
    """One forward-backward command in hand."""

    run: HeldRun
    entry: Entry
    work: PassWork
    traceparent: str | None
    taken: int = field(default_factory=time.time_ns)
    """Nanoseconds since 1970."""


@dataclass(slots=True)
class Passes:
    """Computes works on the engine, and counts them."""

    engine: TrainEngine
    compute: Compute
    base: str

    async def run(self, work: list[PassWork]) -> list[PassResult]:
        began = loop_time()
        results: list[PassResult] = await self.compute(self.engine.run_passes, work)
        metrics.passed(self.base, len({id(one.run) for one in work}), loop_time() - began)
        for one in work:
            metrics.worked(catalog.FORWARD_BACKWARD, loop_time() - began)
            counter = metrics.FORWARD_TOKENS if one.forward_only else metrics.TRAINED_TOKENS
            counter.labels(self.base).inc(sum(len(datum.tokens) for datum in one.data))
        return results


async def train_together(jobs: list[Job], run_passes: RunPasses, record: Record) -> None:
    """Compute all jobs, as few passes as may be; every job is recorded, well or failed."""
    while jobs:
        try:
            with _shared_pass(jobs):
                results = await run_passes([job.work for job in jobs])
        except WorkError as error:
            job = jobs.pop(error.work)
            record(job.run, job.entry, failure_of(error))
        except Exception as error:
            log.error("pass.failed", jobs=len(jobs), exc_info=error)
            await _train_apart(jobs, run_passes, record, error)
            return
        else:
            for job, result in zip(jobs, results, strict=True):
                with _in_hand(job):
                    record(job.run, job.entry, passed(job.run, job.entry, job.work, result))
            return


@contextlib.contextmanager
def _shared_pass(jobs: list[Job]) -> Iterator[None]:
    """A part of the trace of all jobs or, if they have several, one of its own that names them."""
    commands = [job.traceparent for job in jobs if job.traceparent is not None]
    shared = len(set(map(trace.trace_id, commands))) != 1
    trace.take_up(None if shared else commands[0])
    links = commands if shared else ()
    runs = len({id(job.run) for job in jobs})
    with trace.span("train.pass", itself=shared, links=links, commands=len(jobs), runs=runs):
        yield


@contextlib.contextmanager
def _in_hand(job: Job) -> Iterator[None]:
    """A command's own part, from when it was taken."""
    trace.take_up(job.traceparent)
    name, command = (
        metrics.kind_of(catalog.FORWARD_BACKWARD),
        ids.future_id(job.run.run_id, job.entry.number),
    )
    with trace.span(name, kind="consumer", start=job.taken, command=command, subject=job.run.run_id):
        yield


async def _train_apart(jobs: list[Job], run_passes: RunPasses, record: Record, error: Exception) -> None:
    """Find the job that broke a shared pass by giving each a pass of its own."""
    if len(jobs) == 1:
        failure = ServerError(f"the pass failed: {error}").failure
        record(jobs[0].run, jobs[0].entry, failure)
        return
    for job in jobs:
        await train_together([job], run_passes, record)

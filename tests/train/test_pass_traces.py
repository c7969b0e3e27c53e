"""A pass of several traces is a trace of its own that names them; one of a single trace is a part of it."""

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from events import catalog, names, trace
from events.failure import Failure
from events.observe import traced
from events.order import Entry
from services.train.engine import PassResult, PassWork
from services.train.held import HeldRun
from services.train.results import Done
from services.train.run import TrainRun
from services.train.together import Job, train_together
from tests.events.collector import Collector, Seen, collecting


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    with collecting() as found:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", found.url)
        yield found


def job(run: HeldRun, number: int, traceparent: str) -> Job:
    entry = Entry(number, number, catalog.FORWARD_BACKWARD, datetime.now(UTC))
    work = PassWork(TrainRun.__new__(TrainRun), [], "cross_entropy", {}, False)
    return Job(run, entry, work, traceparent)


def held(name: str) -> HeldRun:
    run_id = f"{name}:train:0"
    run = HeldRun(names.run_root("tiny", "local", run_id))
    run.tenant, run.run_id = "local", run_id
    return run


async def spans_of(collector: Collector, *jobs: Job) -> tuple[Seen, list[Seen]]:
    """(the pass, the commands), once all jobs are through."""

    async def run_passes(work: list[PassWork]) -> list[PassResult]:
        return [PassResult([], {"loss:sum": 0.0}) for _ in work]

    def record(run: HeldRun, entry: Entry, done: Done | Failure) -> None:
        assert isinstance(done, Done)

    async with traced("train"):
        await train_together(list(jobs), run_passes, record)
    (one,) = (span for span in collector.spans if span.name == "train.pass")
    return one, [span for span in collector.spans if span.name == "train.forward_backward"]


async def test_a_pass_of_two_runs_names_both_and_each_command_stays_in_its_trace(
    collector: Collector,
) -> None:
    first, second = trace.derived("a", 1), trace.derived("b", 1)
    shared, commands = await spans_of(collector, job(held("a"), 1, first), job(held("b"), 1, second))
    wanted = (trace.trace_id(first), trace.trace_id(second))
    assert shared.links == wanted and shared.trace not in wanted and shared.parent == ""
    assert tuple(span.trace for span in commands) == wanted
    assert shared.about == {"rekindle.commands": 2, "rekindle.runs": 2}


async def test_a_pass_of_one_trace_is_a_part_of_it(collector: Collector) -> None:
    own, run = trace.derived("a", 1), held("a")
    alone, commands = await spans_of(collector, job(run, 1, own), job(run, 2, own))
    assert {span.trace for span in (alone, *commands)} == {trace.trace_id(own)}
    assert alone.links == () and alone.parent == own[36:52] and len(commands) == 2
    assert alone.about == {"rekindle.commands": 2, "rekindle.runs": 1}

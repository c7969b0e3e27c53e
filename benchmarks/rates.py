"""Tokens per second that trainer and sampler work off, by the facts that they publish themselves.

The rate of a run is taken from one of its optimizer steps to a later one, a whole number of rounds of its batches
apart: where batches come in bunches, any other stretch would count a bunch too many or too few.
"""

import asyncio
import contextlib
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from cloudevents.core.v1.event import CloudEvent

from events import catalog, envelope, tasks
from events.bus import Bus

FOLLOWED = (catalog.SAMPLE_COMPLETED, catalog.BATCH_TRAINED, catalog.STEP_APPLIED)

PATIENCE = 180.0
"""Seconds for which a run is waited for."""


@dataclass(frozen=True, slots=True)
class Rates:
    """Example: Rates(trained=11_000.0, sampled=2_100.0, steps=1.4)."""

    trained: float
    """Tokens per second in the trainer, of all runs."""
    sampled: float
    """Tokens per second from the sampler."""
    steps: float
    """Optimizer steps per second."""


@dataclass(slots=True)
class Ledger:
    """What was done, as it was said."""

    done: list[tuple[str, str, float, int]] = field(default_factory=list)
    """(type, run, seconds since the epoch, tokens)"""

    def add(self, fact: CloudEvent) -> None:
        said, at = envelope.json_of(fact), fact.get_time()
        assert at is not None, "every fact has a time"
        run = str(said["run"] if fact.get_type() == catalog.SAMPLE_COMPLETED else fact.get_subject())
        self.done.append((fact.get_type(), run, at.timestamp(), said.get("tokens", 0)))

    def steps(self, run: str, since: float) -> list[float]:
        """When the run's steps were applied."""
        return sorted(
            time
            for type_, one, time, _ in list(self.done)
            if (type_, one) == (catalog.STEP_APPLIED, run) and time >= since
        )

    def wait(self, run: str, since: float, *, steps: int) -> None:
        """Return once a run has made so many steps since. Raises TimeoutError."""
        deadline = time.monotonic() + PATIENCE
        while len(self.steps(run, since)) < steps:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{run} has not made {steps} steps in {PATIENCE:g} s")
            time.sleep(0.1)

    def rates(self, runs: Sequence[str], since: float, rounds_of: int) -> Rates:
        """Of all runs together; `rounds_of`: steps of a run that make a round.

        Raises ValueError when a run has made no whole round since.
        """
        found = [self._of(run, since, rounds_of) for run in runs]
        return Rates(*(sum(parts) for parts in zip(*found, strict=True)))

    def _of(self, run: str, since: float, rounds_of: int) -> tuple[float, float, float]:
        times = self.steps(run, since)
        whole = (len(times) - 1) // rounds_of * rounds_of
        if whole < 1:
            raise ValueError(f"{run} has made {len(times)} steps; {rounds_of + 1} are the least to go by")
        first, last = times[0], times[whole]
        trained, sampled = (
            sum(
                n for type_, one, time, n in self.done if (type_, one) == (kind, run) and first < time <= last
            )
            for kind in (catalog.BATCH_TRAINED, catalog.SAMPLE_COMPLETED)
        )
        return trained / (last - first), sampled / (last - first), whole / (last - first)


@contextlib.contextmanager
def listening(nats_url: str) -> Iterator[Ledger]:
    """What trainer and sampler do from now on, heard by a thread of its own."""
    ledger, stop, ready = Ledger(), threading.Event(), threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(_listen(nats_url, ledger, ready, stop)), daemon=True)
    thread.start()
    ready.wait()
    try:
        yield ledger
    finally:
        stop.set()
        thread.join()


async def _listen(nats_url: str, ledger: Ledger, ready: threading.Event, stop: threading.Event) -> None:
    bus = await Bus.connect(nats_url, name="benchmark")

    async def follow(type_: str) -> None:
        async for fact in bus.follow(f"facts.*.{type_.removeprefix(catalog.PREFIX)}"):
            ledger.add(fact)

    following = [asyncio.create_task(follow(type_)) for type_ in FOLLOWED]
    ready.set()
    await asyncio.to_thread(stop.wait)
    await tasks.end(*following)
    await bus.close()


def now() -> float:
    """Seconds since the epoch, as facts have them."""
    return datetime.now(UTC).timestamp()

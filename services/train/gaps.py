"""Numbers that nobody sends: after a while each is given up, so that what waits behind it goes on.

A gap is released by a fenced entry in the log (a tombstone); whichever entry came first is that number's.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import structlog

from events import catalog, envelope, ids
from events.runlog import gap_deadline, released
from services.train.held import HeldRun, loop_time
from services.train.holding import Holding
from services.train.writes import Writes

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Gaps:
    """Releases the gaps in the logs of runs."""

    holding: Holding
    writes: Writes
    seconds: float
    """How long a number is waited for, from when a later one came."""

    def due_at(self, run: HeldRun) -> float | None:
        """When the run's gap is given up, by the loop's clock; None when it has none."""
        gap = run.gap()
        if gap is None:
            return None
        given_up = loop_time() + gap_deadline(gap.since, self.seconds)
        return max(given_up, run.held_elsewhere_until)

    def is_due(self, run: HeldRun) -> bool:
        """Whether it shall be given up now."""
        gap = run.gap()
        if gap is None or run.held_elsewhere_until > loop_time():
            return False
        return gap_deadline(gap.since, self.seconds) <= 0

    async def release_due(self, runs: Iterable[HeldRun]) -> None:
        """Give up what is due, of runs that have their place in memory."""
        for run in runs:
            gap = run.gap()
            if gap is not None and run.inside and not run.leaving and self.is_due(run):
                with self.writes.keeping(run):
                    # Another holder may have gone beyond it.
                    if await self.holding.hold(run) and run.gap() == gap:
                        await self._release(run, gap.number)

    async def _release(self, run: HeldRun, number: int) -> None:
        log.warning("gap.released", run=run.run_id, number=number)
        event = envelope.make_event(
            catalog.RELEASED,
            id=f"{ids.future_id(run.run_id, number)}:released",
            tenant=run.tenant,
            service="train",
            subject=run.run_id,
            data=released(number),
        )
        await run.ours.write(f"{run.root}.cmd.{number}", event)
        run.given_up = number

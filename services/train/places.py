"""Places in memory: runs that have work stand in line for one, and others leave for the first in line.

Whoever waits longest comes first. A run leaves once its results are durable and a snapshot has what they say. Who
fits and who shall leave is the room's to say (room.py).
"""

from dataclasses import dataclass

import structlog

from services.train.gaps import Gaps
from services.train.held import HeldRun, loop_time
from services.train.holding import Holding
from services.train.room import Room
from services.train.snapshotter import Snapshotter
from services.train.writes import Writes

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Places:
    """Gives runs their places and takes them back; never while a round goes on."""

    runs: dict[str, HeldRun]
    """All that the trainer knows of, by root subject."""
    room: Room
    holding: Holding
    gaps: Gaps
    snapshotter: Snapshotter
    writes: Writes

    async def give(self, looked: float) -> None:
        """Give places to those in line, and have others leave for the first of them.

        looked: when it began to be looked at who has work, by the loop's clock.
        """
        for run in list(self.runs.values()):
            self._queue(run)
            if run.leaving:
                await self._leave(run)
        while (first := self._first_in_line()) is not None:
            if not await self._may_come(first):
                first.waits_since = None
            elif self.room.fits(first, self._inside()):
                first.come(loop_time())
            else:
                return await self._ask_to_leave(first, looked)

    def turn_ends(self) -> list[float]:
        """When those inside have worked for a turn while another waits; nothing while none does."""
        first = self._first_in_line()
        return [] if first is None else [self.room.turn_ends(first, run) for run in self._inside()]

    def _queue(self, run: HeldRun) -> None:
        """A run that has something to do and no place stands in line."""
        run.idle = not (run.has_work(loop_time()) or self.gaps.is_due(run))
        if run.idle or run.inside:
            run.waits_since = None
        elif run.waits_since is None:
            run.waits_since = loop_time()

    async def _may_come(self, run: HeldRun) -> bool:
        """Whether the run can be ours; then its size is known."""
        with self.writes.keeping(run):
            if await self.holding.is_free(run):
                await self.room.measure(run)
                return True
        return False

    def _inside(self) -> list[HeldRun]:
        return [run for run in self.runs.values() if run.inside]

    def _first_in_line(self) -> HeldRun | None:
        """The run that has waited longest for a place."""
        line = {run: run.waits_since for run in self.runs.values() if run.waits_since is not None}
        return min(line, key=line.__getitem__, default=None)

    async def _ask_to_leave(self, first: HeldRun, looked: float) -> None:
        for run in self.room.leavers(first, self._inside(), looked):
            log.info("run.leaves", run=run.run_id, idle=run.idle)
            run.leaving = True
            await self._leave(run)
            self.writes.changed.set()  # its place may be free

    async def _leave(self, run: HeldRun) -> None:
        """Give up a run's place, unless something of it is still to be written; its last write has us called again."""
        if run.writes:
            return
        with self.writes.keeping(run):
            if run.since_head is not None and run.trusted:
                return await self.snapshotter.begin(run)
            if not run.stale:
                await self.holding.release(run)
        run.leave()

"""When snapshots are taken: a copy of the state now, written once all that it contains has its result.

Knows nothing of how a snapshot is written (snapshots.py), nor of who else holds what.
"""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass

from services.train.commands import Commands
from services.train.held import HeldRun, loop_time
from services.train.run import TrainRun
from services.train.snapshots import Snapshots
from services.train.writes import Writes


@dataclass(slots=True)
class Snapshotter:
    """Takes snapshots of runs while their training goes on."""

    snapshots: Snapshots
    commands: Commands
    writes: Writes
    seconds: float
    """After the first command behind a snapshot, the next one is due."""

    def due_at(self, run: HeldRun) -> float | None:
        """By the loop's clock; None when there is nothing to take, or one is on its way."""
        if run.since_head is None or run.snapshot is not None:
            return None
        return run.since_head + self.seconds

    async def take_due(self, runs: Iterable[HeldRun]) -> None:
        """Begin those that are due."""
        for run in runs:
            if (due_at := self.due_at(run)) is not None and loop_time() >= due_at:
                await self.begin(run)

    async def begin(self, run: HeldRun) -> None:
        """Copy the state, unless it is not to be trusted or a snapshot is on its way; the rest is a write."""
        if run.snapshot is not None or not run.trusted:
            return
        run.since_head = None
        copy = None if run.state is None else await self.commands.copy(run)
        writing = self._write(run, run.applied - 1, copy, list(run.writes))
        run.snapshot = self.writes.begin(run, writing)
        run.snapshot.add_done_callback(lambda _: self._ended(run))

    def _ended(self, run: HeldRun) -> None:
        run.snapshot = None
        self.writes.changed.set()  # another may be due

    async def _write(
        self, run: HeldRun, number: int, copy: TrainRun | None, earlier: list["asyncio.Task[None]"]
    ) -> None:
        await asyncio.gather(*earlier, return_exceptions=True)
        if run.stale or number <= run.head.number or not run.settled(number):
            return
        await self.writes.write_refusals(run, number)
        await self.snapshots.save(run, number, copy)

"""One training run as the trainer holds it: where its log stands, and the state that follows from it.

The state in memory is always that of the first `applied` entries of the log. An entry with a result is applied
again only to get there (replay), and its result is not written twice.
"""

import asyncio
from dataclasses import dataclass, field

from events import catalog
from events.order import Entry, RunOrder
from events.runlog import RunHolder
from services.train.run import TrainRun


@dataclass(eq=False, slots=True)
class HeldRun:
    """Bookkeeping of one run."""

    root: str
    """Root subject of its log."""
    tenant: str = ""
    run_id: str = ""
    order: RunOrder = field(default_factory=RunOrder)
    entries: list[Entry] = field(default_factory=list)
    """The log so far in number order, without gaps."""
    resolved: set[int] = field(default_factory=set)
    """Numbers that have a result."""
    applied: int = 0
    """How many entries the state in memory contains."""
    state: TrainRun | None = None
    holder: RunHolder | None = None
    lost: bool = False
    """Somebody else holds it now."""
    last_used: float = 0.0
    writes: set["asyncio.Task[None]"] = field(default_factory=set)
    """Results and exports on their way."""

    def add(self, entry: Entry) -> None:
        """Take an entry of the log, in stream order."""
        self.order.add(entry)
        while (ready := self.order.take()) is not None:
            self.entries.append(ready)
            if not ready.is_command:
                self.resolved.add(ready.number)

    @property
    def has_work(self) -> bool:
        """Whether some entry that can run has no result yet."""
        return not self.lost and any(
            entry.number not in self.resolved for entry in self.entries[self.applied :]
        )

    def next_entries(self, most: int) -> list[Entry]:
        """What to apply next: a row of forward-backward commands (in one call), or one other entry."""
        row: list[Entry] = []
        for entry in self.entries[self.applied : self.applied + most]:
            if entry.type != catalog.FORWARD_BACKWARD:
                return row or [entry]
            row.append(entry)
        return row

    def forget(self) -> None:
        """Drop the state; the log brings it back."""
        self.state = None
        self.applied = 0

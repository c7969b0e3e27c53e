"""One training run as the trainer holds it: where its log stands, and the state that follows from it.

The state in memory is always that of the first `applied` entries of the log. An entry with a result is applied
again only to get there (replay), and its result is not written twice.
"""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field

from events import catalog
from events.failure import Failure
from events.order import Entry, Gap, RunOrder
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
    known: Entry | None = None
    """Some entry of its log, to read from it whose it is."""
    entries: list[Entry] = field(default_factory=list)
    """The log so far in number order, without gaps."""
    resolved: set[int] = field(default_factory=set)
    """Numbers that have a result."""
    pending: set[int] = field(default_factory=set)
    """Numbers of entries that have none yet."""
    applied: int = 0
    """How many entries the state in memory contains."""
    state: TrainRun | None = None
    holder: RunHolder | None = None
    lost: bool = False
    """Somebody else holds it now."""
    stale: bool = False
    """State or results may differ from the log: take the lease anew and replay."""
    beyond_repair: Failure | None = None
    """Why the log no longer leads to the state that its results came from; all else fails with this."""
    given_up: int = -1
    """The last number that was released because nobody sent it."""
    last_used: float = 0.0
    writes: set["asyncio.Task[None]"] = field(default_factory=set)
    """Results and exports on their way."""
    saving: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Exports of a run end in the order of their commands."""

    def add(self, entry: Entry) -> None:
        """Take an entry of the log, in stream order."""
        self.known = self.known or entry
        self.order.add(entry)
        while (ready := self.order.take()) is not None:
            self.entries.append(ready)
            if not ready.is_command:
                self.resolved.add(ready.number)
            elif ready.number not in self.resolved:
                self.pending.add(ready.number)

    def resolve(self, numbers: Iterable[int]) -> None:
        """These numbers have a result."""
        self.resolved.update(numbers)
        self.pending.difference_update(numbers)

    @property
    def has_work(self) -> bool:
        """Whether some entry that can run has no result yet, nor one on its way."""
        return not self.lost and any(self.stale or number >= self.applied for number in self.pending)

    def gap(self) -> Gap | None:
        """The number that later ones wait for in vain, unless somebody else or nobody shall release it."""
        gap = None if self.lost else self.order.gap()
        return None if gap is None or gap.number <= self.given_up else gap

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
        self.beyond_repair = None

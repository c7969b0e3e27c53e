"""One training run as the trainer holds it: where its log stands, and the state that follows from it.

The state in memory is that of every entry below `applied`: a snapshot up to the head, and entries of the log
from there. An entry with a result is applied again only to get there (replay), and its result is not written
twice.
"""

import asyncio
import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from events import catalog
from events.failure import Failure
from events.lease import Head, RunHolder
from events.order import Entry, Gap, RunOrder
from services.train.run import TrainRun

NO_HEAD = Head(number=-1, blob=None, epoch=0)
DEATHS_ALONE, DEATHS_FAILED = 2, 5
"""Of holders in a row over one command: from then it runs alone in the process; then it fails."""


@dataclass(eq=False, slots=True)
class HeldRun:
    """Bookkeeping of one run."""

    root: str
    """Root subject of its log."""
    tenant: str = ""
    run_id: str = ""
    order: RunOrder = field(default_factory=RunOrder)
    entries: dict[int, Entry] = field(default_factory=dict)
    """The log above the head in number order, without gaps."""
    resolved: set[int] = field(default_factory=set)
    """Numbers above the head that have a result."""
    pending: set[int] = field(default_factory=set)
    """Numbers of entries that have none yet."""
    head: Head = NO_HEAD
    """What the newest snapshot contains."""
    applied: int = 0
    """The state in memory contains every entry below this number."""
    state: TrainRun | None = None
    holder: RunHolder | None = None
    left_at: int | None = None
    """Epoch at which we let go of it with the state still in memory."""
    held_elsewhere_until: float = 0.0
    """Somebody else was seen to hold it, or the store its state; look again at that time of the loop's clock."""
    stale: bool = False
    """State or results may differ from the log: take the lease anew and replay."""
    beyond_repair: Failure | None = None
    """Why the log no longer leads to the state that its results came from; all else fails with this."""
    given_up: int = -1
    """The last number that was released because nobody sent it."""
    last_used: float = 0.0
    size: int | None = None
    """Bytes of its state; None = not known, or it has none."""
    came: float = -math.inf
    """When it got its place in memory, by the loop's clock; -inf = it has none."""
    waits_since: float | None = None
    """When it began to wait for a place; None = it does not."""
    leaving: bool = False
    """It takes no more turns until it has given its place to another."""
    idle: bool = True
    """It had nothing to do when that was last asked."""
    replayed: int = 0
    """Entries that had a result and were applied again, since the last one that had none."""
    since_head: float | None = None
    """When the first entry after the newest snapshot was applied, by the loop's clock."""
    writes: set["asyncio.Task[None]"] = field(default_factory=set)
    """Results and exports on their way."""
    last_result: "asyncio.Task[None] | None" = None
    """The newest of the results on their way; each waits for the one before."""
    saving: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Exports of a run end in the order of their commands."""
    snapshot: "asyncio.Task[None] | None" = None
    """The one on its way."""

    def add(self, entry: Entry) -> None:
        """Take an entry of the log, in stream order."""
        self.order.add(entry)
        self._take_ready()

    def _take_ready(self) -> None:
        while (ready := self.order.take()) is not None:
            self.entries[ready.number] = ready
            if ready.number not in self.resolved and ready.is_command:
                self.pending.add(ready.number)

    def resolve(self, numbers: Iterable[int]) -> None:
        """These numbers have a result."""
        self.resolved.update(number for number in numbers if number > self.head.number)
        self.pending.difference_update(numbers)

    def begin_at(self, head: Head) -> None:
        """A snapshot contains everything up to the head: what lies below is no longer of interest."""
        self.head = head
        self.order.start(head.number + 1)
        self.entries = {number: entry for number, entry in self.entries.items() if number > head.number}
        self.resolved = {number for number in self.resolved if number > head.number}
        self.pending = {number for number in self.pending if number > head.number}
        self.applied = max(self.applied, head.number + 1)
        self._take_ready()  # what waited for a number that the head contains, and that was purged before we read it

    def has_work(self, now: float) -> bool:
        """Whether some entry that can run has no result yet, nor one on its way."""
        if now < self.held_elsewhere_until:
            return False
        return any(self.stale or number >= self.applied for number in self.pending)

    def has_turn(self, now: float) -> bool:
        """Whether it shall work now: it can, and has its place in memory."""
        return self.inside and not self.leaving and self.has_work(now)

    def gap(self) -> Gap | None:
        """The number that later ones wait for, unless nobody shall release it."""
        gap = self.order.gap()
        return None if gap is None or gap.number <= self.given_up else gap

    @property
    def ours(self) -> RunHolder:
        """Our hold on it, under which alone its log is written."""
        assert self.holder is not None, "asked of a run that is held"
        return self.holder

    @property
    def trusted(self) -> bool:
        """Whether the state is ours and true."""
        return not self.stale and self.holder is not None and self.beyond_repair is None

    @property
    def suspect(self) -> int | None:
        """The command over which several holders have died and which has no result yet."""
        lease = None if self.holder is None else self.holder.lease
        if lease is None or lease.deaths < DEATHS_ALONE or lease.suspect not in self.pending:
            return None
        return lease.suspect

    @property
    def condemned(self) -> int | None:
        """The command that shall not be tried again."""
        return self.suspect if self.ours.lease.deaths >= DEATHS_FAILED else None

    def next_entries(self, most: int) -> list[Entry]:
        """What to apply next: a row of forward-backward commands (in one call), or one other entry."""
        row: list[Entry] = []
        for number in range(self.applied, self.applied + most):
            entry = self.entries.get(number)
            if entry is None:
                return row
            if entry.type != catalog.FORWARD_BACKWARD:
                return row or [entry]
            row.append(entry)
            if number == self.suspect:
                return row
        return row

    def settled(self, number: int) -> bool:
        """Whether every entry up to this one has its result: only then is a snapshot true."""
        return all(pending > number for pending in self.pending)

    @property
    def inside(self) -> bool:
        """Whether it has a place in memory."""
        return self.came > -math.inf

    def come(self, now: float) -> None:
        """It has a place in memory from now on."""
        self.came, self.waits_since = now, None

    def leave(self) -> None:
        """It gives up its place, and the state with it."""
        self.forget()
        self.came, self.leaving = -math.inf, False

    def vanish(self) -> None:
        """Nothing of it is left in the log."""
        self.order, self.entries, self.pending = RunOrder(), {}, set()
        self.leave()

    def forget(self) -> None:
        """Drop the state; the log brings it back."""
        self.state = None
        self.left_at = None
        self.applied = self.head.number + 1
        self.beyond_repair = None
        self.since_head = None
        self.last_result = None


def loop_time() -> float:
    """Seconds, by the clock of the running event loop."""
    return asyncio.get_running_loop().time()

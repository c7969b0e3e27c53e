"""The order of a run's commands: a pure function of the entries of its log.

Clients number their commands from 0 and may post them out of order or twice. Stream order decides which entry
is a number's command (the first); the number decides when it runs. A number that was rejected at an edge, or
released because nobody ever sent it, takes its place without work.
"""

from dataclasses import dataclass, field
from datetime import datetime

from events import catalog


@dataclass(frozen=True, slots=True)
class Entry:
    """One numbered entry of a run's log. Example: Entry(3, 118, "dev.rekindle.train.optim_step", t)."""

    number: int
    sequence: int
    """Its place in the stream, where its payload is read."""
    type: str
    time: datetime
    """When the stream stored it."""
    claim: str | None = None
    """Where its payload lies, if that was too large for the stream."""

    @property
    def is_command(self) -> bool:
        return self.type not in (catalog.REJECTED, catalog.RELEASED)


@dataclass(frozen=True, slots=True)
class Gap:
    """A number that later ones wait for."""

    number: int
    since: datetime
    """When the first later entry was stored."""


@dataclass(slots=True)
class RunOrder:
    """Takes entries in stream order, gives them in number order."""

    head: int = 0
    """The next number to give; everything below has been given."""
    _waiting: dict[int, Entry] = field(default_factory=dict)

    def start(self, number: int) -> None:
        """Everything below `number` is settled: a snapshot contains it."""
        self.head = max(self.head, number)
        self._waiting = {n: entry for n, entry in self._waiting.items() if n >= self.head}

    def beyond(self) -> list[Entry]:
        """Entries that wait for an earlier number."""
        return list(self._waiting.values())

    def add(self, entry: Entry) -> bool:
        """Whether `entry` is its number's command; later and late ones are ignored."""
        if entry.number < self.head or entry.number in self._waiting:
            return False
        self._waiting[entry.number] = entry
        return True

    def take(self) -> Entry | None:
        """The next entry in number order, if it is here."""
        entry = self._waiting.pop(self.head, None)
        if entry is not None:
            self.head += 1
        return entry

    def gap(self) -> Gap | None:
        """The missing number that later ones wait for, None when nothing waits in vain."""
        if not self._waiting or self.head in self._waiting:
            return None
        return Gap(self.head, min(entry.time for entry in self._waiting.values()))

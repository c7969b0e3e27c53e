"""How much work waits for a service, read from the streams; nothing is remembered but what cannot change.

A work queue's backlog is what lies in it, since what is acknowledged leaves it; in tokens where commands say how many
they may take. Facts that triggers have not seen count for the data service, which looks at them. What is mostly waiting
counts for next to nothing: an RL run that the data service drives, a shard that somebody outside scores. A trainer's is
its runs that have a command which can run and has no result; a run whose next command waits for a missing number counts
from the time at which that number is given up.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol

import structlog
from cloudevents.core.exceptions import BaseCloudEventException

from events import catalog, envelope, ids, names, triggers
from events.bus import Bus
from events.platform import ServiceSpec
from events.reads import Stored
from events.streams import CHECKPOINT, DATA, REWARD, SAMPLE
from events.worker import MOST_OUTSIDE

log = structlog.get_logger(__name__)

TOKENS = "ce-tokens"
"""Header of a command: tokens that it may take."""
FIRST_WANTED = 8
"""Commands that a replica is thought to take at once before their cost is known."""
DRIVEN_RUNS = 256
"""RL runs that one replica drives at once."""


@dataclass(frozen=True, slots=True)
class QueuePlace:
    """Where a queue's commands lie. Example: QueuePlace("SAMPLE", "sample.tiny-….>")."""

    stream: str
    filter: str


def queue_of(kind: str, base: str | None) -> QueuePlace:
    """The queue of a service that has one."""
    match kind:
        case "sample":
            return QueuePlace(SAMPLE, names.sample_filter(base or ""))
        case "reward":
            return QueuePlace(REWARD, names.REWARD_FILTER)
        case "data":
            return QueuePlace(DATA, names.DATA_FILTER)
        case _:
            return QueuePlace(CHECKPOINT, "checkpoint.>")


class Backlog(Protocol):
    """A service's work."""

    @property
    def subject(self) -> str:
        """Where its commands are announced."""
        ...

    @property
    def depth(self) -> int:
        """Commands, or runs with some, when it was last read."""
        ...

    def hear(self, subject: str, headers: Mapping[str, str]) -> float:
        """A command has appeared; returns the least that the backlog is now."""
        ...

    async def read(self) -> float:
        """The backlog. Raises BusUnavailable."""
        ...

    async def waiting(self, before: datetime) -> list[Stored]:
        """The commands stored before then that have no result, oldest first; none that cannot be read."""
        ...


def backlog_of(spec: ServiceSpec, bus: Bus, gap_seconds: float) -> Backlog:
    """The backlog of a service."""
    if spec.kind == "train":
        return RunBacklog(bus, spec.base or "", gap_seconds)
    kinds = {"data": DataBacklog, "reward": RewardBacklog}
    return kinds.get(spec.kind, QueueBacklog)(bus, queue_of(spec.kind, spec.base), spec.capacity)


class QueueBacklog:
    """The backlog of a work queue, in tokens or commands."""

    def __init__(self, bus: Bus, place: QueuePlace, capacity: float) -> None:
        self._bus = bus
        self._place = place
        self._capacity = capacity
        self._mean_cost = max(1.0, capacity / FIRST_WANTED)
        self.depth = 0

    @property
    def subject(self) -> str:
        return names.queued(self._place.filter)

    def hear(self, subject: str, headers: Mapping[str, str]) -> float:
        if (tokens := headers.get(TOKENS, "")).isdigit():
            self._mean_cost = 0.9 * self._mean_cost + 0.1 * int(tokens)
        return self._cost_of(subject)

    async def read(self) -> float:
        found = await self._bus.subjects(self._place.stream, self._place.filter)
        self.depth = len(found)
        return sum(map(self._cost_of, found))

    def _cost_of(self, subject: str) -> float:
        """What a command counts for, by all that is known of it without reading it."""
        return self._mean_cost

    async def waiting(self, before: datetime) -> list[Stored]:
        found = [one async for one in self._bus.walk(self._place.stream, self._place.filter)]
        return [one for one in found if one.time < before and _is_readable(one)]


class DataBacklog(QueueBacklog):
    """A queue with commands that last for as long as an RL run does, and facts that triggers have not seen."""

    async def read(self) -> float:
        return await super().read() + await triggers.unseen(self._bus)

    def _cost_of(self, subject: str) -> float:
        return self._capacity / DRIVEN_RUNS if names.drives_rl_run(subject) else self._mean_cost


class RewardBacklog(QueueBacklog):
    """A queue with commands that only wait, of which one replica takes very many at once."""

    def _cost_of(self, subject: str) -> float:
        return self._capacity / MOST_OUTSIDE if names.only_waits(subject) else self._mean_cost


class RunBacklog:
    """The runs of a base model that have work."""

    def __init__(self, bus: Bus, base: str, gap_seconds: float) -> None:
        self._bus = bus
        self._base = base
        self._stream = names.run_stream(base)
        self._patience = timedelta(seconds=gap_seconds)
        self._ready: set[str] = set()
        self._seen: dict[str, tuple[bool, datetime]] = {}
        """Of entries without a result, by subject: whether it is a command, and when it was stored."""

    @property
    def subject(self) -> str:
        return names.run_filter(self._base, "cmd")

    @property
    def depth(self) -> int:
        return len(self._ready)

    def hear(self, subject: str, headers: Mapping[str, str]) -> float:
        if headers.get("ce-type") not in (catalog.REJECTED, catalog.RELEASED):
            self._ready.add(subject.rpartition(".cmd.")[0])
        return float(len(self._ready))

    async def read(self) -> float:
        unresolved, resolved = await self._numbers()
        kept = {f"{root}.cmd.{n}" for root, numbers in unresolved.items() for n in numbers}
        self._seen = {subject: known for subject, known in self._seen.items() if subject in kept}
        self._ready = {
            root for root, numbers in unresolved.items() if await self._can_run(root, numbers, resolved[root])
        }
        return float(len(self._ready))

    async def _numbers(self) -> tuple[dict[str, list[int]], dict[str, set[int]]]:
        """By root subject of the run: the entries without a result, in order, and the results."""
        commands = await self._by_root("cmd")
        resolved: defaultdict[str, set[int]] = defaultdict(set)
        if commands:
            resolved |= await self._by_root("result")
        unresolved = {root: sorted(numbers - resolved[root]) for root, numbers in commands.items()}
        return {root: numbers for root, numbers in unresolved.items() if numbers}, resolved

    async def _by_root(self, part: str) -> dict[str, set[int]]:
        found: defaultdict[str, set[int]] = defaultdict(set)
        for subject in await self._bus.subjects(self._stream, names.run_filter(self._base, part)):
            root, _, number = subject.rpartition(f".{part}.")
            found[root].add(int(number))
        return found

    async def _can_run(self, root: str, unresolved: list[int], resolved: set[int]) -> bool:
        """Whether some command of a run can run, or must no longer wait for a missing number."""
        settled = await self._head(root)
        for number in unresolved:
            known = await self._look(f"{root}.cmd.{number}")
            if known is None or not known[0] or number <= settled:
                continue
            missing = set(range(settled + 1, number)) - resolved - set(unresolved)
            return not missing or known[1] + self._patience <= datetime.now(UTC)
        return False

    async def _head(self, root: str) -> int:
        """The last number that a snapshot contains; what lies below may have been purged."""
        stored = await self._bus.last(self._stream, f"{root}.head")
        return -1 if stored is None else int(envelope.json_of(stored.event)["number"])

    async def _look(self, subject: str) -> tuple[bool, datetime] | None:
        """Whether an entry is a command, and when it was stored; None when it has just been purged."""
        if subject not in self._seen:
            stored = await self._bus.first(self._stream, subject)
            if stored is None:
                return None
            self._seen[subject] = (_is_command(stored), stored.time)
        return self._seen[subject]

    async def waiting(self, before: datetime) -> list[Stored]:
        unresolved, _ = await self._numbers()
        subjects = [f"{root}.cmd.{n}" for root, numbers in unresolved.items() for n in numbers]
        stored = [await self._bus.first(self._stream, subject) for subject in subjects]
        return [one for one in stored if one is not None and _is_command(one) and one.time < before]


def _is_readable(stored: Stored) -> bool:
    """Whether it can be a command of ours: where a service was broken into, anything may lie in its queue."""
    try:
        event = stored.event
        names.tenant_of(event.get_source())
        if catalog.BY_TYPE[event.get_type()].result is not None:
            ids.split_future_id(event.get_id())
    except (ValueError, LookupError, RecursionError, BaseCloudEventException) as error:
        log.error("command.unreadable", subject=stored.subject, reason=repr(error))
        return False
    return True


def _is_command(stored: Stored) -> bool:
    """Rejections and released numbers are results themselves."""
    return stored.event.get_type() not in (catalog.REJECTED, catalog.RELEASED)

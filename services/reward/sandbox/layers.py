"""The mechanisms that hold a guest, in one table, each of which can be switched off alone to see what it stops.

That every run has a process of its own, forked from one that has seen no guest's data, is not in the table: nothing
here works without it. The names here are those that `Sandbox(without=…)`, the probe and its report use. What a
mechanism does stands in `confine` (the guest's own process), `guest` and `zygote` (around it), or `sandbox`, `run`
and `watch` (the service's side).
"""

from dataclasses import dataclass
from enum import IntEnum


class Level(IntEnum):
    """How much must be in force; each level includes those before it."""

    NONE = 0
    """Whatever there is. For tests, and for code that one wrote oneself."""
    LIMITS = 1
    """Time, memory, files, descriptors and output are bounded: mistakes are contained, malice is not."""
    CONFINED = 2
    """Landlock and seccomp as well: what an ordinary pod allows, and the default."""
    NAMESPACES = 3
    """And namespaces of its own (bubblewrap), or a kernel of its own (gVisor)."""


@dataclass(frozen=True, slots=True)
class Mechanism:
    """One thing that holds. Example: MECHANISMS["cpu limit"]."""

    name: str
    level: Level | None
    """The lowest level that demands it; None: used where the kernel gives it, demanded by no level."""
    stops: str
    """What would go on without it."""


@dataclass(frozen=True, slots=True)
class Layer:
    """A mechanism as found here. Example: Layer("landlock network", True, "ABI 7")."""

    name: str
    in_force: bool
    detail: str


_TABLE = (
    Mechanism("wall clock", Level.LIMITS, "a guest that sleeps or waits for ever"),
    Mechanism("cpu limit", Level.LIMITS, "endless loops"),
    Mechanism("memory limit", Level.LIMITS, "eating the machine's memory"),
    Mechanism("file size limit", Level.LIMITS, "filling the disk, by one file or by many"),
    Mechanism("open files limit", Level.LIMITS, "using up the machine's descriptors"),
    Mechanism("output limit", Level.LIMITS, "filling the service's memory with output"),
    Mechanism("thread limit", Level.LIMITS, "thread bombs, and fork bombs where no filter is"),
    Mechanism("priority", Level.LIMITS, "taking the processor from the service itself"),
    Mechanism(
        "own session", Level.LIMITS, "children that outlive the guest, and signals to its family by group"
    ),
    Mechanism("death with parent", Level.LIMITS, "guests that outlive the service"),
    Mechanism("private scratch", Level.LIMITS, "files that one guest leaves for another"),
    Mechanism("clean environment", Level.LIMITS, "reading keys from environment variables"),
    Mechanism("closed descriptors", Level.LIMITS, "using the service's sockets and files"),
    Mechanism("report pipe", Level.LIMITS, "mistaking what is printed for the report"),
    Mechanism("no new privileges", Level.CONFINED, "set-uid programs"),
    Mechanism("not dumpable", Level.CONFINED, "being read or traced by another process of the same user"),
    Mechanism(
        "landlock filesystem", Level.CONFINED, "reading keys, others' files and /proc; writing anywhere"
    ),
    Mechanism("seccomp network", Level.CONFINED, "sockets of every family"),
    Mechanism("seccomp processes", Level.CONFINED, "fork, exec, and others' limits and priorities"),
    Mechanism("seccomp signals", Level.CONFINED, "signals to the service and to other guests"),
    Mechanism("seccomp tracing", Level.CONFINED, "reading and changing other processes' memory"),
    Mechanism(
        "seccomp metadata", Level.CONFINED, "changing modes, owners and times of files that it may not write"
    ),
    Mechanism(
        "seccomp kernel surface", Level.CONFINED, "mount, namespaces, bpf, io_uring, keys, shared memory, …"
    ),
    Mechanism("landlock network", None, "TCP, if the filter were passed"),
    Mechanism("landlock scope", None, "signals and abstract sockets, if the filter were passed"),
    Mechanism("uid drop", None, "being the service's user: its files and processes"),
    Mechanism("namespaces", Level.NAMESPACES, "seeing the machine's processes, network and files at all"),
)
MECHANISMS = {mechanism.name: mechanism for mechanism in _TABLE}


def known(names: frozenset[str]) -> frozenset[str]:
    """`names`, if all are mechanisms. Raises ValueError for one that is not."""
    if strangers := names - MECHANISMS.keys():
        raise ValueError(f"without: no such mechanism: {', '.join(sorted(strangers))}")
    return names


def demanded(floor: Level) -> tuple[str, ...]:
    """Names of the mechanisms that `floor` does not do without."""
    return tuple(each.name for each in _TABLE if each.level is not None and each.level <= floor)

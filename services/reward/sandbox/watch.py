"""Looks at living guests ten times a second, for what the kernel does not bound by itself.

That is the scratch folder as a whole, threads beyond the main one, and fractions of a second of processor time. What
a guest does between two looks is bounded by the limits that the kernel enforces.
"""

import asyncio
import os
from collections.abc import Callable, Collection
from dataclasses import dataclass

from services.reward.sandbox import scratch
from services.reward.sandbox.limits import How, Limits
from services.reward.sandbox.warm import Guest

PERIOD_SECONDS = 0.1
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True, eq=False)
class Watched:
    """A guest to look at, and what to do when it has passed a limit."""

    guest: Guest
    limits: Limits
    folder: str
    without: frozenset[str]
    kill: Callable[[How], None]


async def watch(guests: Collection[Watched]) -> None:
    """For ever, all that are in `guests` at the time."""
    while True:
        await asyncio.sleep(PERIOD_SECONDS)
        if guests:
            for watched, how in await asyncio.to_thread(_look, tuple(guests)):
                watched.kill(how)


def _look(guests: tuple[Watched, ...]) -> list[tuple[Watched, How]]:
    return [(each, how) for each in guests if (how := _passed(each)) is not None]


def _passed(each: Watched) -> How | None:
    """The limit that it has passed. If it is gone and its number is another's by now, the kill will find nobody."""
    if "file size limit" not in each.without and not scratch.holds(each.folder, each.limits.file_bytes):
        return "output"
    try:
        threads, seconds = _use(each.guest.process)
    except (FileNotFoundError, ProcessLookupError):
        return None  # it has just ended
    if "thread limit" not in each.without and threads > each.limits.threads + 1:
        return "signal"
    if "cpu limit" not in each.without and seconds > each.limits.cpu_seconds:
        return "cpu"
    return None


def _use(process: int) -> tuple[int, float]:
    """Threads, and seconds of processor time so far, of a process. See proc_pid_stat(5)."""
    with open(f"/proc/{process}/stat", "rb") as file:  # bytes: a process names itself as it likes
        fields = file.read().rpartition(b")")[2].split()
    return int(fields[17]), (int(fields[11]) + int(fields[12])) / _TICKS

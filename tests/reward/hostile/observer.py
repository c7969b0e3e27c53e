"""Looks at living guests from outside, by /proc: what they hold, and what they are."""

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from services.reward.sandbox import Limits, Sandbox
from services.reward.sandbox.watch import Watched

PERIOD_SECONDS = 0.01
FILTERED = "2"
"""How /proc names a process with a filter of system calls: the last step of confinement."""


@dataclass(slots=True)
class Seen:
    """The most, or the worst, that was seen of an attack's guests since they were confined."""

    mapped_bytes: int = 0
    scratch_bytes: int = 0
    threads: int = 0
    descriptors: int = 0
    niceness: int = 99
    children: set[int] = field(default_factory=set)
    readable: bool = False
    """Whether a process of its own user may read its memory."""

    async def look(self, sandbox: Sandbox, limits: Limits) -> None:
        """For ever, at the guests that run under just this object."""
        while True:
            for guest in [one for one in sandbox._watched if one.limits is limits]:
                with suppress(OSError):  # it may end at any moment
                    self._add(guest)
            await asyncio.sleep(PERIOD_SECONDS)

    def _add(self, guest: Watched) -> None:
        process = Path(f"/proc/{guest.guest.process}")
        state = _status(guest.guest.process)
        if (
            state["Seccomp"].strip() != FILTERED or "VmPeak" not in state
        ):  # not yet confined, or about to be gone
            return
        self.threads = max(self.threads, int(state["Threads"]))
        self.mapped_bytes = max(self.mapped_bytes, int(state["VmPeak"].split()[0]) * 1024)
        self.niceness = min(self.niceness, os.getpriority(os.PRIO_PROCESS, guest.guest.process))
        self.children.update(map(int, (process / f"task/{process.name}/children").read_text().split()))
        self.scratch_bytes = max(self.scratch_bytes, sum(_sizes(guest.folder)))
        self.readable |= (process / "environ").stat().st_uid == os.getuid() != 0
        self.descriptors = max(self.descriptors, len(os.listdir(process / "fd")))


def lives(process: int) -> bool:
    """Whether it is there, neither merely waited for nor about to follow a SIGKILL."""
    try:
        state = _status(process)
    except (FileNotFoundError, ProcessLookupError):
        return False
    pending = int(state["SigPnd"], 16) | int(state["ShdPnd"], 16)
    return state["State"].split()[0] != "Z" and not pending & 1 << (signal.SIGKILL - 1)


def parent(process: int) -> int:
    return int(_status(process)["PPid"])


def _status(process: int) -> dict[str, str]:
    lines = Path(f"/proc/{process}/status").read_text(errors="replace").splitlines()
    return dict(line.split(":", 1) for line in lines)


def _sizes(folder: str) -> Iterator[int]:
    for path, _, files in os.walk(folder):
        for file in files:
            yield os.lstat(os.path.join(path, file)).st_size

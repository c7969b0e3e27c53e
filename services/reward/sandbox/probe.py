"""Which mechanisms really hold here, found by having guests try what each forbids, with that one alone in force.

No version number is believed. What a mechanism needs beside itself (landlock and seccomp: no new privileges) is in
force too.
"""

import asyncio
import ctypes
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict

from services.reward.sandbox import landlock
from services.reward.sandbox.attempts import ATTEMPTS, Asked
from services.reward.sandbox.layers import MECHANISMS, Layer, Level, demanded
from services.reward.sandbox.limits import MIB, Ended, Limits
from services.reward.sandbox.warm import SandboxError

ENTRY = "services.reward.sandbox.attempts:attempt"
LIMITS = Limits(
    seconds=20.0, cpu_seconds=2.0, memory_bytes=64 * MIB, output_bytes=4096, file_bytes=4096, open_files=32
)
WALL = Limits(seconds=0.02)
TOO_MUCH = {"memory limit": 256 * MIB, "file size limit": 8192, "output limit": 8192}
READ_ALL = 3
"""Of klogctl(3): the kernel's messages."""

Attempt = Callable[[str, bytes, Limits, frozenset[str]], Awaitable[Ended]]


class SandboxTooWeak(SandboxError):
    """The machine gives less than the floor demands; the message names what is missing."""


def check_system() -> None:
    """Raises SandboxTooWeak where there is no sandbox at all."""
    if sys.platform != "linux":
        raise SandboxTooWeak(f"the sandbox needs Linux (Landlock, seccomp, pidfd), this is {sys.platform}")


def check(found: Sequence[Layer], floor: Level, without: frozenset[str] = frozenset()) -> None:
    """Raises SandboxTooWeak if something that `floor` demands is not in force, unless it is left out on purpose."""
    wanted = frozenset(demanded(floor)) - without
    missing = [layer for layer in found if layer.name in wanted and not layer.in_force]
    if missing:
        named = "; ".join(f"{layer.name} ({layer.detail})" for layer in missing)
        raise SandboxTooWeak(f"not in force here, but demanded by the floor {floor.name}: {named}")


def level(found: Sequence[Layer]) -> Level:
    """The highest level of which nothing is missing."""
    held = {layer.name for layer in found if layer.in_force}
    return max(each for each in Level if held.issuperset(demanded(each)))


async def probe(attempt: Attempt) -> tuple[Layer, ...]:
    """All mechanisms. `attempt(entry, payload, limits, without)` runs a guest."""
    return tuple(await asyncio.gather(*(_try(attempt, name) for name in MECHANISMS)))


async def _try(attempt: Attempt, name: str) -> Layer:
    alone = frozenset(MECHANISMS) - {name, "no new privileges"}
    limits = WALL if name == "wall clock" else LIMITS
    try:
        ended = await attempt(ENTRY, json.dumps(asdict(_asked(name))).encode(), limits, alone)
    except SandboxError as error:
        return Layer(name, False, str(error).strip().splitlines()[-1])
    held = _stopped(ended)
    if name == "namespaces" and not held and gvisor():
        return Layer(name, True, "gVisor")
    return Layer(name, held, _detail(name, held))


def _asked(name: str) -> Asked:
    namespaces = {kind: os.readlink(f"/proc/self/ns/{kind}") for kind in ("pid", "net", "mnt", "ipc")}
    return Asked(name, TOO_MUCH.get(name, 0), 2 * LIMITS.open_files, os.getuid(), namespaces)


def _stopped(ended: Ended) -> bool:
    """It said so itself, was ended by a limit, or drew a signal upon itself."""
    return (
        ended.report == b"no"
        or ended.how in ("time", "output")
        or ended.code in (signal.SIGSYS, signal.SIGKILL)
    )


def _detail(name: str, held: bool) -> str:
    if name.startswith("landlock"):
        return f"ABI {landlock.version()}"
    if name == "namespaces":
        return (
            "bubblewrap"
            if held
            else "bubblewrap is not installed, not wanted, or may make no namespaces here"
        )
    if name == "uid drop" and not held:
        return "the service may not become other users: guests are its own"
    return "stopped what it must stop" if held else f"did not stop: {MECHANISMS[name].stops}"


def gvisor() -> bool:
    """Whether the kernel is gVisor's: it says so in its messages."""
    text = ctypes.create_string_buffer(64 * 1024)
    length = ctypes.CDLL(None).klogctl(READ_ALL, text, len(text))
    return length > 0 and b"gVisor" in text.raw[:length]


assert ATTEMPTS.keys() == MECHANISMS.keys(), "each mechanism is tried"

"""Kills processes of a stack while a loop runs on it, and remembers what it hit.

The next victim is one of those that have had the smallest part of their share of kills. The killer waits for its
moment: when the victim has something in hand, it is stopped (SIGSTOP), looked at again, and only then killed, so
that what is recorded was in its hand when it died. NATS cannot be asked while it stands still; it is killed at
once instead. A victim that has nothing in hand for long is killed idle.
"""

import asyncio
import contextlib
import math
import os
import random
import signal
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from events.bus import Bus
from events.worker import ACK_WAIT
from services.local import nats_server
from tests.chaos.hands import WORKERS, Hands, OpenRequests, in_hand
from tests.stack import Stack

SHARES = {
    "train": 6,
    "sample": 4,
    "reward": 4,
    "data": 4,
    "checkpoint": 6,
    "gateway": 6,
    "dispatcher": 6,
    "nats": 6,
}
"""Of the kills; the loop waits 10 s for what a dead sampler, reward or data service had in hand."""
PATIENCE = 12.0
"""Seconds for which it waits at most until a victim has something in hand."""
SETTLE = 0.06
"""Seconds until what a stopped process has done last is known everywhere; the supervisor's file is the slowest."""
LEAD = 0.5
"""How much of its share a kind may be ahead of another."""
READY_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Kill:
    """One process that was killed. Example: Kill("train", in_hand=2, recovery=2.4)."""

    kind: str
    in_hand: int
    """Commands, deliveries, activations or requests, see hands.py."""
    recovery: float
    """Seconds until another process of its kind was ready."""


@dataclass(slots=True)
class Killer:
    """Kills `most` processes, no faster than `due` says, until it is told to stop."""

    stack: Stack
    requests: OpenRequests
    most: int
    rng: random.Random
    rest: float = ACK_WAIT + 1.0
    """Seconds until what a dead worker had in hand is another's: until then it counts as in nobody's."""
    due: int = 0
    """How many kills there may have been by now; the loop raises it."""
    kills: list[Kill] = field(default_factory=list)
    _rests: dict[str, float] = field(default_factory=dict)

    @property
    def done(self) -> bool:
        return len(self.kills) >= self.most

    async def run(self, stop: asyncio.Event) -> None:
        """Kill one process after another."""
        bus = await Bus.connect(nats_server.address(self.stack.data_dir).url, name="killer", timeout=1.0)
        hands = Hands(bus, self.stack.data_dir, self.stack.base_model, self.requests)
        try:
            while not stop.is_set() and not self.done:
                kind = self._next_kind() if len(self.kills) < self.due else None
                if kind is None:
                    await asyncio.sleep(0.02)
                else:
                    await self._kill_one(hands, kind, stop)
        finally:
            await bus.close()

    async def _kill_one(self, hands: Hands, kind: str, stop: asyncio.Event) -> None:
        pid = self._pid(kind)
        if pid is None or (found := await self._moment(hands, kind, pid, stop)) is None:
            return
        begun = time.monotonic()
        while self._pid(kind) in (None, pid):
            assert time.monotonic() < begun + READY_SECONDS, f"{kind} was not ready after {READY_SECONDS} s"
            await asyncio.sleep(0.01)
        self.kills.append(Kill(kind, found, time.monotonic() - begun))
        if found and kind in WORKERS:
            self._rests[kind] = begun + self.rest

    async def _moment(self, hands: Hands, kind: str, pid: int, stop: asyncio.Event) -> int | None:
        """Kill the process at a good moment; what it had in hand, None when it is gone or the loop has ended."""
        deadline = time.monotonic() + PATIENCE
        while not stop.is_set() and self._pid(kind) == pid:
            found = await in_hand(hands, kind)
            late = time.monotonic() > deadline
            if found or late:
                with contextlib.suppress(ProcessLookupError):  # it has just ended by itself
                    async with stopped(pid, for_real=kind != "nats"):
                        found = found if kind == "nats" else await in_hand(hands, kind)
                        if found or late:
                            os.kill(pid, signal.SIGKILL)
                            return found
            await asyncio.sleep(0.002)
        return None

    def _next_kind(self) -> str | None:
        """One of those that have had the smallest part of their share; None while those rest or start."""
        had = {kind: sum(kill.kind == kind for kill in self.kills) / SHARES[kind] for kind in SHARES}
        able = {kind: part for kind, part in had.items() if self._is_able(kind)}
        least = min(able.values(), default=math.inf)
        if least > min(had.values()) + LEAD:
            return None
        return self.rng.choice([kind for kind, part in able.items() if part == least])

    def _is_able(self, kind: str) -> bool:
        return self._rests.get(kind, 0.0) < time.monotonic() and self._pid(kind) is not None

    def _pid(self, kind: str) -> int | None:
        """Of the process of that kind that is ready."""
        rows = self.stack.rows()
        return next((row["pid"] for row in rows if row["service"] == kind and row["state"] == "ready"), None)


@contextlib.asynccontextmanager
async def stopped(pid: int, *, for_real: bool) -> AsyncIterator[None]:
    """The process stands still while the block lasts."""
    if not for_real:
        yield
        return
    os.kill(pid, signal.SIGSTOP)
    try:
        await asyncio.sleep(SETTLE)
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)

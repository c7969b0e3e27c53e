"""Kills processes of a stack while a loop runs on it, and remembers what it hit.

Victims are chosen at random from those kinds that have had the fewest kills. Where it can be told, the killer
waits for its moment: a command or delivery in the victim's hand, as NATS reports it.
"""

import asyncio
import contextlib
import json
import os
import random
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path

from events import names
from events.bus import Bus
from events.failure import BusError
from services.local import nats_server

IN_HAND_SECONDS, BETWEEN_SECONDS = 4.0, 0.5
"""How long at most it waits for a victim to have work in hand, and for one of which it cannot tell."""
WORKERS = ("train", "sample", "reward", "data", "checkpoint")
READY_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Kill:
    """One process that was killed. Example: Kill("train", in_hand=True, recovery=2.4)."""

    kind: str
    in_hand: bool
    recovery: float
    """Seconds until another process of its kind was ready."""


@dataclass(slots=True)
class Killer:
    """Kills until it is told to stop."""

    data_dir: Path
    base_model: str
    kinds: tuple[str, ...]
    rng: random.Random
    kills: list[Kill] = field(default_factory=list)

    async def run(self, stop: asyncio.Event, most: int) -> None:
        """Kill one process after another, up to `most`, until `stop` is set."""
        bus = await Bus.connect(nats_server.address(self.data_dir).url, name="killer", timeout=1.0)
        try:
            while not stop.is_set() and len(self.kills) < most:
                await self._kill_one(bus, stop)
        finally:
            await bus.close()

    async def _kill_one(self, bus: Bus, stop: asyncio.Event) -> None:
        if (kind := self._next_kind()) is None or (pid := self._pid(kind)) is None:
            return await asyncio.sleep(0.02)
        in_hand = await self._wait_for_work(bus, kind, stop)
        if stop.is_set() or self._pid(kind) != pid:
            return
        os.kill(pid, signal.SIGKILL)
        begun = time.monotonic()
        if await self._ready(kind, stop, other_than=pid) is not None:
            self.kills.append(Kill(kind, in_hand, time.monotonic() - begun))

    def _next_kind(self) -> str | None:
        """One of those that were killed least often, of what runs now."""
        running = [kind for kind in self.kinds if self._pid(kind) is not None]
        if not running:
            return None
        counts = {kind: sum(kill.kind == kind for kill in self.kills) for kind in running}
        fewest = min(counts.values())
        return self.rng.choice([kind for kind, count in counts.items() if count <= fewest + 1])

    async def _ready(self, kind: str, stop: asyncio.Event, other_than: int) -> int | None:
        """The next ready process of a kind, None when the loop ends first."""
        deadline = time.monotonic() + READY_SECONDS
        while not stop.is_set() and time.monotonic() < deadline:
            pid = self._pid(kind)
            if pid is not None and pid != other_than:
                return pid
            await asyncio.sleep(0.01)
        assert stop.is_set(), f"{kind} was not ready after {READY_SECONDS:.0f} s"
        return None

    def _pid(self, kind: str) -> int | None:
        rows = json.loads((self.data_dir / "processes.json").read_text())
        return next((row["pid"] for row in rows if row["service"] == kind and row["state"] == "ready"), None)

    async def _wait_for_work(self, bus: Bus, kind: str, stop: asyncio.Event) -> bool:
        """Whether the victim had work in hand when this returned."""
        most = IN_HAND_SECONDS if kind in WORKERS else BETWEEN_SECONDS
        deadline = time.monotonic() + self.rng.uniform(0, most)
        while not stop.is_set() and time.monotonic() < deadline:
            with contextlib.suppress(BusError, Exception):
                if await self._in_hand(bus, kind):
                    return True
            await asyncio.sleep(0.005)
        return False

    async def _in_hand(self, bus: Bus, kind: str) -> bool:
        if kind == "train":
            stream, root = names.run_stream(self.base_model), f"run.{names.token(self.base_model)}.*.*"
            commands = await bus.subjects(stream, f"{root}.cmd.*")
            results = set(await bus.subjects(stream, f"{root}.result.*"))
            return any(subject.replace(".cmd.", ".result.") not in results for subject in commands)
        consumers = {
            "sample": ("SAMPLE", names.sample_consumer(self.base_model)),
            "reward": ("REWARD", "reward"),
            "data": ("DATA", "data"),
            "checkpoint": ("CHECKPOINT", "checkpoint"),
        }
        if kind not in consumers:
            return False
        return (await bus.js.consumer_info(*consumers[kind])).num_ack_pending > 0

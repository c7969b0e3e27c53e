"""Whether this replica shall take work, and whether it has some.

A replica takes work while an activation is open (or always, where nobody activates). One that was cut off with
work at hand stays open for a while, so that the next one finds it as it was. Knows nothing of HTTP, queues or
runs: workers ask `open`, are told when it changes, and say what they have in hand.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Literal

KEPT_SECONDS = 10.0
"""How long a replica goes on after its last activation broke off or reached its deadline."""

Ending = Literal["idle", "deadline", "draining", "gone"]


class Calm:
    """Counts what goes on; tells when nothing has for a while."""

    def __init__(self) -> None:
        self.count = 0
        self._since = time.monotonic()
        self._nothing = asyncio.Event()
        self._nothing.set()

    def begin(self) -> None:
        self.count += 1
        self._nothing.clear()

    def end(self) -> None:
        self.count -= 1
        self._since = time.monotonic()
        if not self.count:
            self._nothing.set()

    def touch(self) -> None:
        """As if something had just ended."""
        self._since = time.monotonic()

    @contextlib.contextmanager
    def during(self) -> Iterator[None]:
        """Something goes on while the block lasts."""
        self.begin()
        try:
            yield
        finally:
            self.end()

    async def lasts(self, seconds: float) -> None:
        """Return once nothing has gone on for `seconds`."""
        while True:
            await self._nothing.wait()
            left = self._since + seconds - time.monotonic()
            if left <= 0:
                return
            await asyncio.sleep(left)


class Activity:
    """One replica's permission to work, and what it does with it."""

    def __init__(self, *, always: bool = True, linger: float = 0.0) -> None:
        self._always = always
        self._linger = linger
        self._kept: asyncio.TimerHandle | None = None
        self._was_open = always
        self._listeners: list[Callable[[], None]] = []
        self._opened = asyncio.Event()
        self._drained = asyncio.Event()
        self._closing: set[asyncio.Task[None]] = set()
        self.activations = 0
        self.draining = False
        """The process ends: no more work is taken, whoever asks."""
        self.ready = asyncio.Event()
        """The replica can work."""
        self.work = Calm()
        """Commands in hand, results on their way."""
        self.presence = Calm()
        """Whatever is a reason not to end the process: requests, activations, work, a start not yet finished."""
        self.hand_over: Callable[[], Awaitable[None]] = _nothing_held
        """Gives back what this replica holds; called when it has stopped taking work and has none in hand."""
        if always:
            self._opened.set()

    # The worker's side

    @property
    def open(self) -> bool:
        """Whether work may be taken."""
        return not self.draining and (self._always or self.activations > 0 or self._kept is not None)

    async def until_open(self) -> None:
        await self._opened.wait()

    def on_change(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call `listener` whenever `open` or the number of activations changes. Returns what ends that."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def begin(self) -> None:
        """A piece of work is in hand now."""
        self.work.begin()
        self.presence.begin()

    def end(self) -> None:
        """A piece of work is done, or given back."""
        self.work.end()
        self.presence.end()

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """A piece of work is in hand while the block lasts."""
        self.begin()
        try:
            yield
        finally:
            self.end()

    # The platform's side

    async def hold(self, seconds: float, gone: Awaitable[object]) -> Ending:
        """Be active until there is no work, for at most `seconds`, or until `gone`; tells what ended it."""
        with self.presence.during():
            self._count(+1)
            ending: Ending = "gone"
            try:
                ending = await self._ending(seconds, gone)
            finally:
                if self.activations == 1 and ending in ("deadline", "gone"):
                    self._keep(KEPT_SECONDS)
                self._count(-1)
            if ending == "idle" and not self.open:
                await self._give_back()
            return ending

    async def _ending(self, seconds: float, gone: Awaitable[object]) -> Ending:
        ways: dict[asyncio.Future[object], Ending] = {
            asyncio.ensure_future(self._until_idle()): "idle",
            asyncio.ensure_future(self._drained.wait()): "draining",
            asyncio.ensure_future(gone): "gone",
        }
        try:
            done, _ = await asyncio.wait(ways, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            return ways[next(iter(done))] if done else "deadline"
        finally:
            for way in ways:
                way.cancel()

    async def _until_idle(self) -> None:
        await self.ready.wait()
        self.work.touch()  # the worker needs a moment to find its work
        await self.work.lasts(self._linger)

    async def drain(self, patience: float) -> None:
        """Take no more work, finish what is in hand, give back what is held; then activations end."""
        self.draining = True
        self._changed()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await self._give_back()
        self._drained.set()

    async def _give_back(self) -> None:
        await self.work.lasts(0.0)
        await self.hand_over()

    def _count(self, change: int) -> None:
        self.activations += change
        if change > 0 and self._kept is not None:
            self._kept.cancel()
            self._kept = None
        self._changed()

    def _keep(self, seconds: float) -> None:
        self._kept = asyncio.get_running_loop().call_later(seconds, self._let_go)

    def _let_go(self) -> None:
        self._kept = None
        self._changed()
        if not self.open:
            closing = asyncio.ensure_future(self._give_back())
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    def _changed(self) -> None:
        if self.open:
            self._opened.set()
        else:
            self._opened.clear()
        for listener in list(self._listeners):
            listener()


async def _nothing_held() -> None:
    """A replica that holds nothing has nothing to give back."""

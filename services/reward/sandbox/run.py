"""One run: a guest's life as the service sees it, and how it ended."""

import asyncio
import math
import os
import signal
import time
from collections.abc import Sequence

from services.reward.sandbox.guest import FIRST_OWN, OUT_OF_MEMORY
from services.reward.sandbox.limits import Ended, How, Limits
from services.reward.sandbox.streams import Streams
from services.reward.sandbox.warm import Guest, SandboxError, Warm
from services.reward.sandbox.watch import Watched
from services.reward.sandbox.wire import News, Order

STREAMS = FIRST_OWN
LAST_WORDS = 2000
CONFINED_SECONDS = 60.0
"""Within which a guest must be confined; milliseconds but on a machine that stands still."""
UNLIMITED = 1 << 40
ROUNDING = 0.98
"""Of a limit of processor time, by which the kernel's two clocks may differ."""


class Run:
    """Killed at most once, for the first reason given."""

    def __init__(
        self, limits: Limits, without: frozenset[str], stdin: bytes, payload: bytes, fds: Sequence[int]
    ) -> None:
        self.limits = limits
        self.without = without
        self._killed: How | None = None
        self._guest: Guest | None = None
        most = UNLIMITED if "output limit" in without else limits.output_bytes
        self._clock: asyncio.TimerHandle | None = None
        self._begin = time.perf_counter()
        self.streams = Streams(stdin, payload, fds, most, self._begins, lambda: self.kill("output"))

    def kill(self, how: How) -> None:
        """At once, or as soon as it exists."""
        self._killed = self._killed or how
        if self._guest is not None:
            self._guest.kill()

    async def live(self, warm: Warm, order: Order, watched: set[Watched]) -> Ended:
        """From order to end. Raises SandboxError if it did not come to run the guest's code."""
        try:
            try:
                self._guest = guest = await warm.order(order, self._fds())
            finally:
                self.streams.give()
            if self._killed:
                guest.kill()
            news = await self._until_ended(guest, order, watched)
            seconds = time.perf_counter() - self._begin
        finally:
            self.streams.finish()
            self._set_clock(math.inf)
        return self._judge(news, seconds)

    def _fds(self) -> list[int]:
        """The guest's descriptors, as `wire.Order` orders them."""
        stdin, stdout, stderr, report, *more = self.streams.theirs
        return [stdin, stdout, stderr, stdout if "report pipe" in self.without else report, *more]

    def _begins(self) -> None:
        """It goes on to its code: now its time runs."""
        self._begin = time.perf_counter()
        self._set_clock(math.inf if "wall clock" in self.without else self.limits.seconds)

    def _set_clock(self, seconds: float) -> None:
        if self._clock is not None:
            self._clock.cancel()
        self._clock = None
        if seconds < math.inf:
            self._clock = asyncio.get_running_loop().call_later(seconds, self.kill, "time")

    async def _until_ended(self, guest: Guest, order: Order, watched: set[Watched]) -> News:
        looked_at = Watched(guest, self.limits, order.scratch, self.without, self.kill)
        watched.add(looked_at)
        if not self.streams.begun:
            self._set_clock(CONFINED_SECONDS)
        try:
            return await guest.ended
        finally:
            watched.discard(looked_at)

    def _judge(self, news: News, seconds: float) -> Ended:
        stdout, stderr = self.streams.said("stdout"), self.streams.said("stderr")
        report = stdout if "report pipe" in self.without else self.streams.said("report")
        how, code = self._how(news)
        if not self.streams.begun:
            words = stderr.decode(errors="replace").strip()[-LAST_WORDS:]
            raise SandboxError(f"a guest could not be confined (it ended by {how} {code}):\n{words}")
        return Ended(how, code, stdout, stderr, report, seconds)

    def _how(self, news: News) -> tuple[How, int | None]:
        code = os.waitstatus_to_exitcode(news.status)
        if self._killed is not None:
            return self._killed, signal.SIGKILL if self._killed == "signal" else None
        if code in (-signal.SIGKILL, -signal.SIGXCPU):
            by_clock = news.cpu_seconds >= math.ceil(self.limits.cpu_seconds) * ROUNDING
            return ("cpu" if by_clock else "memory"), None
        if code == OUT_OF_MEMORY:
            return "memory", None
        return ("exit", code) if code >= 0 else ("signal", -code)

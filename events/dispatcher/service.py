"""One service: hears of new work at once, looks at the truth again and again, keeps activations open.

What it hears is a hint, and a lost one costs a few seconds; what it reads decides. Nothing is owned: another
dispatcher beside this one costs spare replicas.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping

import httpx
import structlog

from events import tasks
from events.bus import Bus
from events.dispatcher import plan
from events.dispatcher.backlog import Backlog
from events.dispatcher.plan import Scale, Slots
from events.dispatcher.post import post
from events.failure import BusError
from events.platform import ServiceSpec

log = structlog.get_logger(__name__)

LOOK_SECONDS = 3.0
"""How often the backlog is read though nothing was heard."""


class ActivatedService:
    """Keeps one service's activations."""

    def __init__(
        self,
        bus: Bus,
        spec: ServiceSpec,
        backlog: Backlog,
        http: httpx.AsyncClient,
        refused: Callable[[], Awaitable[None]],
    ) -> None:
        """`refused` is awaited when an activation was not answered: the platform may know why."""
        self._bus = bus
        self.spec = spec
        self.backlog = backlog
        self._http = http
        self._refused = refused
        self._scale = Scale(spec.most, spec.capacity)
        self._posts: set[asyncio.Task[None]] = set()
        self._look_now = asyncio.Event()
        self._failure: BaseException | None = None
        self.slots = Slots()

    @property
    def waits(self) -> bool:
        """Whether there is work for it, as far as is known."""
        return self.slots.backlog > 0

    async def run(self) -> None:
        """Go on until cancelled; open activations break off then."""
        stop = await self._bus.hear(self.backlog.subject, self._hear)
        try:
            while True:
                self._look_now.clear()
                if self._failure is not None:
                    raise self._failure
                await self._look()
                self._open()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._pause()):
                        await self._look_now.wait()
        finally:
            await tasks.end(*self._posts)
            if not self._bus.client.is_closed:
                await stop()

    def rest(self, resting: bool) -> None:
        """Try seldom until something comes, or no longer seldom."""
        self.slots = plan.rest(self.slots, resting)

    def becomes(self, spec: ServiceSpec) -> bool:
        """What holds from now on, if it is still the same work; activations that are open are left to end."""
        if (spec.kind, spec.base, spec.capacity) != (self.spec.kind, self.spec.base, self.spec.capacity):
            return False
        if spec != self.spec:
            self.spec, self._scale = spec, Scale(spec.most, spec.capacity)
            self.look()
        return True

    def look(self) -> None:
        """Read the backlog soon: something has changed."""
        self._look_now.set()

    def _pause(self) -> float:
        """Seconds until the next look: sooner when a refused attempt may be repeated."""
        left = self.slots.not_before - time.monotonic()
        return max(0.01, left) if self.waits and 0 < left < LOOK_SECONDS else LOOK_SECONDS

    async def _look(self) -> None:
        try:
            backlog = await self.backlog.read()
        except BusError as error:
            log.info("backlog.unread", service=self.spec.name, reason=str(error))
        else:
            self.slots = plan.read(self.slots, backlog)  # the slots as they are now, not before the reading

    def _hear(self, subject: str, headers: Mapping[str, str]) -> None:
        self.slots = plan.heard(self.slots, self.backlog.hear(subject, headers))
        self._open()

    def _open(self) -> None:
        count = plan.to_open(self._scale, self.slots, time.monotonic())
        self.slots = plan.posted(self.slots, count)
        for _ in range(count):
            task = asyncio.create_task(self._hold())
            self._posts.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        """What went wrong with us, and not with the service, ends this process."""
        self._posts.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._failure = task.exception()
            self.look()

    async def _hold(self) -> None:
        """One activation from its posting to its end."""
        well = await post(self._http, self.spec)
        if well:
            self.slots = plan.answered(self.slots)
        else:
            await self._refused()
            self.slots = plan.refused(self.slots, time.monotonic())
        self.look()

"""A connection to NATS that comes back by itself, and what is said on it to who listens at that moment.

What is said while it is away is heard by nobody: `on_reconnect` tells who must look again. Knows nothing of streams.
"""

import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping

import structlog
from cloudevents.core.exceptions import BaseCloudEventException
from cloudevents.core.v1.event import CloudEvent
from nats.aio.client import Client
from nats.aio.msg import Msg

from events import envelope, metrics
from events.failure import BusUnavailable
from events.retry import SILENCE, answering

log = structlog.get_logger(__name__)

FOLLOWED_BYTES = 8 * 1024 * 1024
"""Kept of events for one who follows them and does not take them."""
PENDING_BYTES = 64 * 1024 * 1024
"""Kept of what is sent while the connection is away."""
ASK_SECONDS = 5.0
"""How long an answer is waited for."""
PING_SECONDS = 10
"""How often a silent connection is probed; two lost answers end it."""


class Connection:
    """One connection; cheap to share, safe to use from one event loop."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.reconnects = 0
        """How often the connection was lost and found again."""
        self._on_reconnect: set[Callable[[], None]] = set()

    async def open(self, url: str, *, name: str) -> None:
        """Connect and keep reconnecting for ever; waits for the first connection."""
        await self.client.connect(
            url,
            name=name,
            max_reconnect_attempts=-1,
            reconnect_time_wait=0.1,  # type: ignore[arg-type]  # seconds, of any kind
            allow_reconnect=True,
            ping_interval=PING_SECONDS,
            pending_size=PENDING_BYTES,
            error_cb=_note,
            disconnected_cb=self._disconnected,
            reconnected_cb=self._reconnected,
        )

    async def close(self) -> None:
        if not self.client.is_closed:
            await self.client.close()

    async def _disconnected(self) -> None:
        if not self.client.is_closed:  # else it is we who have ended it
            metrics.DISCONNECTIONS.inc()

    async def _reconnected(self) -> None:
        self.reconnects += 1
        for listener in list(self._on_reconnect):
            listener()

    def on_reconnect(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call `listener` after every reconnection: what came meanwhile is lost. Returns what ends that."""
        self._on_reconnect.add(listener)
        return lambda: self._on_reconnect.discard(listener)

    # Said and heard, without being stored

    async def tell(self, subject: str) -> None:
        """Say something, without content, to who listens at this moment. Raises BusUnavailable."""
        with answering(subject):
            await self.client.publish(subject)

    async def ask(self, subject: str) -> bytes:
        """What whoever listens there answers. Raises BusUnavailable."""
        with answering(subject):
            return (await self.client.request(subject, timeout=ASK_SECONDS)).data

    async def answer(self, subject: str, found: Callable[[str], Awaitable[bytes]], group: str) -> None:
        """Answer whoever asks there, one of a group each time, for as long as the connection lasts.

        `found` may raise BusUnavailable: then whoever asks hears nothing, and asks again.
        """

        async def on_message(message: Msg) -> None:
            with contextlib.suppress(BusUnavailable):
                await message.respond(await found(message.subject))

        await self.client.subscribe(subject, queue=group, cb=on_message)

    async def listen(self, subject: str, heard: Callable[[str], None]) -> Callable[[], Awaitable[None]]:
        """Call `heard(subject)` for every core message; returns the function that stops it."""
        return await self.hear(subject, lambda subject, _: heard(subject))

    async def hear(
        self, subject: str, heard: Callable[[str, Mapping[str, str]], None]
    ) -> Callable[[], Awaitable[None]]:
        """As `listen`, with the headers."""

        async def on_message(message: Msg) -> None:
            heard(message.subject, message.headers or {})

        subscription = await self.client.subscribe(subject, cb=on_message)
        return subscription.unsubscribe

    async def follow(self, subject: str) -> AsyncGenerator[CloudEvent, None]:
        """The events on a subject from now on (facts, live). Nothing is remembered between calls; who takes them more
        slowly than they come misses some, and all miss what cannot be read."""
        subscription = await self.client.subscribe(subject, pending_bytes_limit=FOLLOWED_BYTES)
        try:
            async for message in subscription.messages:
                try:
                    event = envelope.received(message.subject, message.headers, message.data)
                except (ValueError, BaseCloudEventException) as error:
                    log.error("fact.unreadable", subject=message.subject, reason=repr(error))
                    continue
                yield event
        finally:
            if not self.client.is_closed:
                await subscription.unsubscribe()


async def _note(error: Exception) -> None:
    """Reconnection is automatic, and operations that fail meanwhile raise where they are awaited."""
    if isinstance(error, (OSError, *SILENCE)):
        log.info("nats.away", reason=repr(error))
    else:
        log.error("nats.error", exc_info=error)

"""Continuous pull from a JetStream consumer: demand in, deliveries out, no polling.

nats-py 2.16 only fetches batches. A `Puller` keeps a number of wanted messages open at the server; what
arrives lies in a queue. Requests that the server ends (expired, consumer gone) are reckoned back, and a
reconnection forgets them all, so that demand is never lost and never doubled.
"""

import asyncio
import contextlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from cloudevents.core.v1.event import CloudEvent
from nats.aio.client import Client
from nats.aio.msg import Msg

from events import envelope
from events.bus import Bus
from events.retry import SILENCE

ACK = "$JS.ACK."
"""How the subjects begin on which deliveries are acknowledged."""
EXPIRES = 30.0
"""Seconds that a request for messages stays open at the server."""


class ConsumerGone(Exception):
    """The consumer no longer exists, or can no longer be trusted; make it again."""


class DemandEnded(Exception):
    """A request expired, the connection was away and with it all demand, or there is room for more."""


@dataclass(frozen=True, slots=True, eq=False)
class Delivery:
    """One message in hand; each delivery is itself alone."""

    message: Msg
    subject: str
    sequence: int
    """Its place in the stream."""
    consumed: int
    """Its place among the consumer's deliveries: 1, 2, 3, …"""
    delivered: int
    """How often it has been delivered, this time included."""
    time: datetime
    pending: int
    """Messages that the consumer had not delivered yet when it delivered this one."""

    @property
    def event(self) -> CloudEvent:
        return envelope.received(self.subject, self.message.headers, self.message.data)


class Puller:
    """Pulls from one consumer; `want` raises demand, `next` waits for a message, `take` waits for nothing."""

    def __init__(
        self, bus: Bus, stream: str, consumer: str, *, arrived: Callable[[], None] | None = None
    ) -> None:
        """`arrived` is called when there is something to take, or demand must be stated anew."""
        self._bus = bus
        self._arrived = arrived or _nobody_is_told
        self.pending = 0
        """Messages known to wait at the consumer; there may be more, and others may take them."""
        self.gone = False
        """The consumer no longer exists, as far as `take` has seen."""
        self._client: Client = bus.client
        self._request_subject = f"{bus.api}.CONSUMER.MSG.NEXT.{stream}.{consumer}"
        self._queue: asyncio.Queue[Delivery | Exception] = asyncio.Queue()
        self._outstanding = 0
        self._renewed = 0.0

    async def start(self) -> "Puller":
        self._inbox = self._client.new_inbox()
        self._subscription = await self._client.subscribe(self._inbox, cb=self._received)
        self._forget = self._bus.on_reconnect(self._reconnected)
        return self

    async def close(self) -> list[Delivery]:
        """Ask for no more; what was on its way is given back: it is in our hand all the same."""
        self._forget()
        await asyncio.shield(
            self._drain()
        )  # of a connection on which this was cut short, nats-py reads no more
        return self.take()

    async def _drain(self) -> None:
        with contextlib.suppress(*SILENCE):  # what was on its way is lost with the connection
            if self._client.is_connected:
                await self._subscription.drain()  # type: ignore[no-untyped-call]
            elif not self._client.is_closed:
                await self._subscription.unsubscribe()

    async def want(self, wanted: int, *, seconds: float | None = None) -> None:
        """Keep about `wanted` messages asked for, those already waiting here included, for `seconds` or `EXPIRES`.

        Asks again once half of it is used up: a consumer admits 512 open requests, however small.
        """
        now = asyncio.get_running_loop().time()
        if self._outstanding and now - self._renewed > EXPIRES + 5.0:
            self._outstanding = 0  # the server went away without ending the request
        missing = wanted - self._outstanding - self._queue.qsize()
        if missing <= 0 or 2 * missing < wanted:
            return
        self._outstanding += missing
        self._renewed = now
        request = {"batch": missing, "expires": int((seconds or EXPIRES) * 1e9)}
        await self._client.publish(self._request_subject, json.dumps(request).encode(), reply=self._inbox)

    async def next(self, timeout: float) -> Delivery | None:
        """The next message; None after `timeout` seconds, or when demand must be stated anew.

        Raises ConsumerGone.
        """
        try:
            async with asyncio.timeout(timeout):  # wait_for may swallow a cancellation
                item = await self._queue.get()
        except TimeoutError:
            return None
        if isinstance(item, DemandEnded):
            return None
        if isinstance(item, Exception):
            raise item
        return item

    def take(self) -> list[Delivery]:
        """All messages that are already here."""
        items = [self._queue.get_nowait() for _ in range(self._queue.qsize())]
        self.gone = self.gone or any(isinstance(item, ConsumerGone) for item in items)
        return [item for item in items if isinstance(item, Delivery)]

    def wake(self) -> None:
        """Let `next` return, because demand has changed."""
        self._put(DemandEnded())

    def _put(self, item: Delivery | Exception) -> None:
        self._queue.put_nowait(item)
        self._arrived()

    def _reconnected(self) -> None:
        self._outstanding = 0
        self.wake()

    async def _received(self, message: Msg) -> None:
        status = (message.headers or {}).get("Status")
        if message.reply.startswith(ACK):  # what was stored may have a header of that name, too
            self._outstanding = max(0, self._outstanding - 1)
            delivery = _delivery(message)
            self.pending = delivery.pending
            self._put(delivery)
        elif status is not None and status != "100":  # 100 is a heartbeat
            self._ended(status, message)

    def _ended(self, status: str, message: Msg) -> None:
        """A request ended early; `Nats-Pending-Messages` of it will not come."""
        headers = message.headers or {}
        reason = headers.get("Description", "").lower()
        pending = int(headers.get("Nats-Pending-Messages", self._outstanding))
        self._outstanding = max(0, self._outstanding - pending)
        self.pending = 0
        if status in ("404", "503") or "deleted" in reason:
            self._put(ConsumerGone(f"{self._request_subject}: {status} {reason}"))
        elif "exceeded" not in reason:  # over a limit, asking again at once would only be refused again
            self.wake()


def _delivery(message: Msg) -> Delivery:
    # $JS.ACK.<stream>.<consumer>.<delivered>.<stream sequence>.<consumer sequence>.<time ns>.<pending>
    parts = message.reply.split(".")
    return Delivery(
        message=message,
        subject=message.subject,
        sequence=int(parts[5]),
        consumed=int(parts[6]),
        delivered=int(parts[4]),
        time=datetime.fromtimestamp(int(parts[7]) / 1e9, UTC),
        pending=int(parts[8]),
    )


def _nobody_is_told() -> None:
    """Whoever waits for `next` hears of it anyway."""

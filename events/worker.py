"""Work queues: pull what the budget admits, keep it alive, have it handled; what becomes of it, outcomes.py says.

A worker that dies simply stops its heartbeats, and the message comes back; that is a death, not an attempt.
Heartbeats begin when a delivery arrives, so that one which waits here for room stays ours. Nothing is pulled
while the replica is not active. Each tenant's commands have a consumer of their own, and the budget goes to whoever
has the least of it.

A command that only waits for somebody outside takes nothing of the budget either, but one of many places of its own:
however many wait, those that work go on.

A lasting command waits more than it works, for hours perhaps. It takes nothing of the budget, counts its own deaths,
and gives itself back (`GivenBack`) when the replica is to take no more work, or stops where it finds itself overtaken.
"""

import asyncio
import contextlib
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager

import structlog
from cloudevents.core.exceptions import BaseCloudEventException
from cloudevents.core.v1.event import CloudEvent

from events import claims, metrics, names, tasks, tenants, trace
from events.activity import Activity
from events.blobs import Blobs
from events.bus import Bus
from events.failure import (
    BusUnavailable,
    CommandFailed,
    Failure,
    GivenBack,
    Overtaken,
    WorkerBroken,
)
from events.outcomes import Outcomes
from events.pull import Delivery
from events.queues import Answer, Handler, Queue
from events.retry import SILENCE, again_when_stored
from events.shares import Room
from events.tenants import TenantQueues

log = structlog.get_logger(__name__)

ACK_WAIT = 10.0
"""Seconds without a heartbeat after which a delivery is given to somebody else."""
FIRST_WANTED = 8
"""Deliveries asked for at once before the worker knows what they cost."""
MOST_OUTSIDE = 1024
"""Commands in hand that wait for somebody outside."""


class QueueWorker:
    """Runs a handler over a queue, as many commands at once as the budget admits."""

    def __init__(
        self,
        bus: Bus,
        blobs: Blobs,
        queue: Queue,
        handler: Handler,
        *,
        budget: int,
        activity: Activity | None = None,
    ) -> None:
        """Without an `activity` it works always."""
        self._bus = bus
        self._blobs = blobs
        self._queue = queue
        self._handler = handler
        self._outcomes = Outcomes(bus, blobs, queue)
        self._activity = activity or Activity()
        self._room, self._outside = Room(budget), Room(MOST_OUTSIDE)
        self._mean_cost = max(1.0, budget / FIRST_WANTED)
        self._news = asyncio.Event()
        self._in_hand: dict[Delivery, asyncio.Task[None]] = {}
        self._waiting: set[Delivery] = set()
        self._broken: asyncio.Future[None] | None = None

    @property
    def in_hand(self) -> int:
        """Commands being worked on or waiting here for room."""
        return len(self._in_hand)

    async def run(self) -> None:
        """Work until cancelled; what is in hand then goes back to the queue. Raises WorkerBroken."""
        self._broken = asyncio.get_running_loop().create_future()
        forget = self._activity.on_change(self._news.set)
        loops = [asyncio.create_task(self._keep_alive()), asyncio.create_task(self._pull_for_ever())]
        try:
            done, _ = await asyncio.wait({*loops, self._broken}, return_when=asyncio.FIRST_COMPLETED)
            await done.pop()
        finally:
            forget()
            await tasks.end(*loops)
            in_hand = dict(self._in_hand)
            await tasks.end(*in_hand.values())
            await self._give_back(list(in_hand))

    async def _give_back(self, deliveries: list[Delivery]) -> None:
        """Offer what is not settled to others at once, without waiting for our silence to be noticed."""
        with contextlib.suppress(*SILENCE):
            for delivery in deliveries:
                if not delivery.message.is_acked:
                    await delivery.message.nak()

    async def _pull_for_ever(self) -> None:
        while True:
            await self._activity.until_open()
            await self._pull_all()

    async def _pull_all(self) -> None:
        """Pull until the replica is no longer active."""
        queue = self._queue
        queues = TenantQueues(
            self._bus, queue.stream, queue.consumer, queue.filter, ack_wait=ACK_WAIT, wake=self._news.set
        )
        await queues.open()
        try:
            while self._activity.open:
                self._news.clear()
                await queues.follow()
                for delivery in queues.take():
                    self._begin(delivery)
                if not self._waiting and (self._room.left > 0 or queue.outside is not None):
                    await queues.ask(self._room.shares(queues.pending, self._mean_cost))
                await self._hear_news()
        finally:
            for delivery in await queues.close():
                self._begin(delivery)

    async def _hear_news(self) -> None:
        """Wait for some, but not for ever: it may have been missed."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(tenants.LOOK_SECONDS):
                await self._news.wait()

    def _begin(self, delivery: Delivery) -> None:
        task = asyncio.create_task(self._work(delivery))
        self._in_hand[delivery] = task
        self._waiting.add(delivery)
        self._activity.begin()
        task.add_done_callback(lambda done: self._finished(delivery, done))

    def _finished(self, delivery: Delivery, task: "asyncio.Task[None]") -> None:
        self._waiting.discard(delivery)
        self._news.set()
        self._activity.end()
        del self._in_hand[delivery]
        if task.cancelled() or (error := task.exception()) is None:
            return
        log.error("delivery.lost", subject=delivery.subject, exc_info=error)
        if isinstance(error, WorkerBroken) and self._broken is not None and not self._broken.done():
            self._broken.set_exception(error)

    async def _keep_alive(self) -> None:
        while True:
            await asyncio.sleep(ACK_WAIT / 3)
            for delivery in list(self._in_hand):
                await delivery.message.in_progress()

    async def _work(self, delivery: Delivery) -> None:
        try:
            event = delivery.event
        except (ValueError, BaseCloudEventException) as error:
            log.error("delivery.unreadable", subject=delivery.subject, exc_info=error)
            await delivery.message.term()
            return
        trace.take_up(event.get_extension("traceparent"))
        if delivery.delivered > 1 and await self._outcomes.settled_before(delivery, event):
            return
        try:
            answer = await self._handle(delivery, event)
        except CommandFailed as error:
            await self._outcomes.failed(delivery, event, error.failure)
        except (BusUnavailable, WorkerBroken):
            raise  # says nothing of the command: it comes back
        except GivenBack as reason:
            log.info("command.given_back", subject=delivery.subject, reason=str(reason))
            await delivery.message.nak(delay=reason.delay or None)
        except Overtaken as reason:
            log.info("command.overtaken", subject=delivery.subject, reason=str(reason))
        except Exception as error:
            log.error("command.failed", subject=delivery.subject, id=event.get_id(), exc_info=error)
            await self._outcomes.failed(
                delivery, event, Failure(message=str(error), category="server", retryable=True)
            )
        else:
            await self._outcomes.succeeded(delivery, event, answer)

    @again_when_stored
    async def _handle(self, delivery: Delivery, event: CloudEvent) -> Answer | None:
        """Run the handler within the budget; one that is dearer than all of it runs alone."""
        data = await claims.data_of(self._blobs, event)
        if self._queue.lasting(event):
            self._waiting.discard(delivery)
            self._news.set()
            return await self._handler(event, data)
        tenant = names.tenant_part(self._queue.filter, delivery.subject)
        try:
            async with self._place(tenant, event, data):
                self._waiting.discard(delivery)
                self._news.set()
                with _in_hand(event):
                    return await self._handler(event, data)
        finally:
            self._news.set()

    def _place(self, tenant: str, event: CloudEvent, data: bytes) -> AbstractAsyncContextManager[None]:
        """What the command takes while it is handled."""
        if self._queue.outside is not None and self._queue.outside(event, data):
            return self._outside.place(tenant, 1)
        cost = max(1, self._queue.cost(event, data))
        self._mean_cost = 0.9 * self._mean_cost + 0.1 * cost
        return self._room.place(tenant, cost)


@contextlib.contextmanager
def _in_hand(event: CloudEvent) -> Iterator[None]:
    """What is done for a command, to be counted and traced."""
    kind, subject = metrics.kind_of(event.get_type()), event.get_subject() or ""
    with (
        metrics.IN_HAND_SECONDS.labels(kind).time(),
        trace.span(kind, kind="consumer", command=event.get_id(), subject=subject),
    ):
        yield

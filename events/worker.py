"""Work queues: pull what the budget admits, keep it alive, answer once, acknowledge last.

A delivery is acknowledged when its result is durable. A worker that dies simply stops its heartbeats, and the
message comes back; that is a death, not an attempt. Failures that a worker lives to report are counted apart:
after three the message goes to the dead letters and its future fails. Deaths have a bound of their own.
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
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field

import structlog
from cloudevents.core.exceptions import BaseCloudEventException
from cloudevents.core.v1.event import CloudEvent

from events import catalog, claims, envelope, facts, metrics, names, tasks, tenants, trace
from events.activity import Activity
from events.blobs import Blobs
from events.bus import Bus
from events.failure import (
    BusUnavailable,
    CommandFailed,
    Failure,
    GivenBack,
    NotFound,
    Overtaken,
    WorkerBroken,
)
from events.pull import Delivery
from events.retry import SILENCE, again_when_stored, again_when_unavailable
from events.shares import Room
from events.streams import ATTEMPTS, DEAD, DEAD_DAYS, FACT_DAYS, RESULT_DAYS, RESULTS
from events.tenants import TenantQueues

log = structlog.get_logger(__name__)

ACK_WAIT = 10.0
"""Seconds without a heartbeat after which a delivery is given to somebody else."""
MAX_FAILURES = 3
MAX_DEATHS = 5
FIRST_WANTED = 8
"""Deliveries asked for at once before the worker knows what they cost."""
MOST_OUTSIDE = 1024
"""Commands in hand that wait for somebody outside."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a handler made of a command."""

    data: bytes
    content_type: str = envelope.JSON
    facts: list[CloudEvent] = field(default_factory=list)


Handler = Callable[[CloudEvent, bytes], Awaitable[Answer | None]]
"""(command, data) → answer; None when nobody waits for one. Raises UserError, ServerError or anything."""


@dataclass(frozen=True, slots=True)
class Queue:
    """A work queue and where its results go."""

    stream: str
    consumer: str
    """First part of the names of its consumers."""
    filter: str
    """`<queue>.>`: what follows begins with the tenant's token."""
    result_subject: Callable[[CloudEvent], str] | None
    """Of a command; None for commands without a result."""
    tenant: Callable[[CloudEvent], str]
    cost: Callable[[CloudEvent, bytes], int] = lambda _event, _data: 1
    """How much of the worker's budget a command takes."""
    outside: Callable[[CloudEvent, bytes], bool] | None = None
    """Whether a command only waits for somebody outside; None: none does."""
    lasting: Callable[[CloudEvent], bool] = lambda _event: False
    """Whether a command waits more than it works."""
    settled: Callable[[CloudEvent], Awaitable[None]] | None = None
    """Called between a command's durable result and its acknowledgement, again when that was cut short."""


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
        if delivery.delivered > 1 and await self._settled_before(delivery, event):
            return
        try:
            answer = await self._handle(delivery, event)
        except CommandFailed as error:
            await self._failed(delivery, event, error.failure)
        except (BusUnavailable, WorkerBroken):
            raise  # says nothing of the command: it comes back
        except GivenBack as reason:
            log.info("command.given_back", subject=delivery.subject, reason=str(reason))
            await delivery.message.nak(delay=reason.delay or None)
        except Overtaken as reason:
            log.info("command.overtaken", subject=delivery.subject, reason=str(reason))
        except Exception as error:
            log.error("command.failed", subject=delivery.subject, id=event.get_id(), exc_info=error)
            await self._failed(
                delivery, event, Failure(message=str(error), category="server", retryable=True)
            )
        else:
            await self._succeeded(delivery, event, answer)

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

    async def _settled_before(self, delivery: Delivery, event: CloudEvent) -> bool:
        """A redelivery whose result stands is acknowledged; one that killed too many workers fails."""
        if self._queue.result_subject is not None:
            stored = await self._bus.first(RESULTS, self._queue.result_subject(event))
            if stored is not None:
                await self._settle(delivery, event)
                return True
        if self._queue.lasting(event):
            return False
        deaths = delivery.delivered - 1 - await self._failures(delivery.subject)
        if deaths < MAX_DEATHS:
            return False
        failure = Failure(message=f"{deaths} workers died over this command", category="server")
        await self._give_up(delivery, event, failure)
        return True

    async def _succeeded(self, delivery: Delivery, event: CloudEvent, answer: Answer | None) -> None:
        tenant = self._queue.tenant(event)
        if answer is not None:
            for fact in answer.facts:
                await self._publish(tenant, fact)
            await self._resolve(event, catalog.RESOLVED, answer.data, answer.content_type)
        metrics.answered(event.get_type(), delivery.time)
        await self._settle(delivery, event)

    @again_when_stored
    async def _publish(self, tenant: str, fact: CloudEvent) -> None:
        await facts.publish(
            self._bus, tenant, await claims.lend(self._bus, self._blobs, tenant, fact, FACT_DAYS)
        )

    async def _settle(self, delivery: Delivery, event: CloudEvent, kept: str | None = None) -> None:
        """The result is durable: what follows from it, then the acknowledgement, and what was kept for it goes.

        kept: a payload that is still wanted.
        """
        try:
            if self._queue.settled is not None:
                await self._queue.settled(event)
        except NotFound:
            log.info("command.gone", subject=delivery.subject)  # settled before: its payload went with it
        except BusUnavailable:
            raise  # comes back
        except Exception as error:
            log.error("dead.letter", stream=DEAD, subject=delivery.subject, exc_info=error)
            kept = await self._bury(delivery, event)
        await delivery.message.ack()
        if event.get_extension("dataref") != kept:
            await claims.drop(self._blobs, event)
        if delivery.delivered > 1:
            await self._bus.purge(ATTEMPTS, names.attempts_subject(delivery.subject))

    async def _bury(self, delivery: Delivery, event: CloudEvent) -> str | None:
        """Keep a command to be looked at; returns its payload in the blob store, if it has one there."""
        with contextlib.suppress(NotFound):  # its payload is gone: the rest says something too
            whole = await claims.unclaimed(self._blobs, event)
            event = await claims.lend(self._bus, self._blobs, self._queue.tenant(event), whole, DEAD_DAYS)
        metrics.DEAD_LETTERS.labels(metrics.kind_of(event.get_type())).inc()
        await self._bus.append(names.dead_subject(delivery.subject), event)
        return event.get_extension("dataref") or None

    async def _failed(self, delivery: Delivery, event: CloudEvent, failure: Failure) -> None:
        if failure.category == "user" or not failure.retryable:
            await self._resolve_failed(delivery, event, failure)
            await self._settle(delivery, event)
            return
        failures = await self._failures(delivery.subject) + 1
        if failures >= MAX_FAILURES:
            await self._give_up(delivery, event, failure)
            return
        record = envelope.make_event(
            catalog.FAILED,
            id=event.get_id(),
            tenant=self._queue.tenant(event),
            service="worker",
            subject=delivery.subject,
            data=envelope.json_data({"failures": failures, "message": failure.message}),
        )
        await self._bus.append(names.attempts_subject(delivery.subject), record)
        await delivery.message.nak(delay=2.0 ** (failures - 1))

    async def _failures(self, subject: str) -> int:
        stored = await self._bus.last(ATTEMPTS, names.attempts_subject(subject))
        return 0 if stored is None else int(envelope.json_of(stored.event)["failures"])

    async def _give_up(self, delivery: Delivery, event: CloudEvent, failure: Failure) -> None:
        log.error("dead.letter", stream=DEAD, subject=delivery.subject, reason=failure.message)
        kept = await self._bury(delivery, event)
        await self._resolve_failed(delivery, event, failure)
        await self._settle(delivery, event, kept)

    async def _resolve_failed(self, delivery: Delivery, event: CloudEvent, failure: Failure) -> None:
        await self._resolve(event, catalog.FAILED, failure.model_dump_json().encode())
        metrics.answered(event.get_type(), delivery.time, failure)

    @again_when_stored
    @again_when_unavailable
    async def _resolve(
        self, event: CloudEvent, type_: str, data: bytes, content_type: str = envelope.JSON
    ) -> None:
        if self._queue.result_subject is None:
            return
        tenant = self._queue.tenant(event)
        result = envelope.make_event(
            type_,
            id=event.get_id(),
            tenant=tenant,
            service="worker",
            subject=event.get_subject() or "",
            data=data,
            content_type=content_type,
        )
        result = await claims.lend(self._bus, self._blobs, tenant, result, RESULT_DAYS)
        await self._bus.append_once(RESULTS, self._queue.result_subject(event), result)


@contextlib.contextmanager
def _in_hand(event: CloudEvent) -> Iterator[None]:
    """What is done for a command, to be counted and traced."""
    kind, subject = metrics.kind_of(event.get_type()), event.get_subject() or ""
    with (
        metrics.IN_HAND_SECONDS.labels(kind).time(),
        trace.span(kind, kind="consumer", command=event.get_id(), subject=subject),
    ):
        yield

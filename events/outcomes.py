"""What becomes of a delivery: its result is durable first, then what follows from it, then the acknowledgement.

Failures that a worker lives to report are counted; after three the command goes to the dead letters and its future
fails. Deaths (it came back, and nobody said why) have a bound of their own. What is cut short between two steps is
done again when the command comes back, and comes to the same. Knows nothing of budgets and heartbeats.
"""

import contextlib
from dataclasses import dataclass

import structlog
from cloudevents.core.v1.event import CloudEvent

from events import catalog, claims, envelope, facts, metrics, names
from events.blobs import Blobs
from events.bus import Bus
from events.failure import BusUnavailable, Failure, NotFound
from events.pull import Delivery
from events.queues import Answer, Queue
from events.retry import again_when_stored, again_when_unavailable
from events.streams import DEAD, DEAD_DAYS, FACT_DAYS, RESULT_DAYS, attempts_of, results_of

log = structlog.get_logger(__name__)

MAX_FAILURES = 3
MAX_DEATHS = 5


@dataclass(slots=True)
class Outcomes:
    """Of one queue's deliveries."""

    bus: Bus
    blobs: Blobs
    queue: Queue

    @property
    def _results(self) -> str:
        return results_of(self.queue.stream)

    @property
    def _attempts(self) -> str:
        return attempts_of(self.queue.stream)

    async def settled_before(self, delivery: Delivery, event: CloudEvent) -> bool:
        """A redelivery whose result stands is acknowledged; one that killed too many workers fails."""
        if self.queue.result_subject is not None:
            stored = await self.bus.first(self._results, self.queue.result_subject(event))
            if stored is not None:
                await self.settle(delivery, event)
                return True
        if self.queue.lasting(event):
            return False
        deaths = delivery.delivered - 1 - await self._failures(delivery.subject)
        if deaths < MAX_DEATHS:
            return False
        failure = Failure(message=f"{deaths} workers died over this command", category="server")
        await self._give_up(delivery, event, failure)
        return True

    async def succeeded(self, delivery: Delivery, event: CloudEvent, answer: Answer | None) -> None:
        """The handler is through."""
        tenant = self.queue.tenant(event)
        if answer is not None:
            for fact in answer.facts:
                await self._publish(tenant, fact)
            await self._resolve(event, catalog.RESOLVED, answer.data, answer.content_type)
        metrics.answered(event.get_type(), delivery.time)
        await self.settle(delivery, event)

    async def failed(self, delivery: Delivery, event: CloudEvent, failure: Failure) -> None:
        """The handler, or the command, is at fault: the end of it, or one attempt of several."""
        if failure.category == "user" or not failure.retryable:
            await self._resolve_failed(delivery, event, failure)
            await self.settle(delivery, event)
            return
        failures = await self._failures(delivery.subject) + 1
        if failures >= MAX_FAILURES:
            await self._give_up(delivery, event, failure)
            return
        record = envelope.make_event(
            catalog.FAILED,
            id=event.get_id(),
            tenant=self.queue.tenant(event),
            service="worker",
            subject=delivery.subject,
            data=envelope.json_data({"failures": failures, "message": failure.message}),
        )
        await self.bus.append(names.attempts_subject(delivery.subject), record)
        await delivery.message.nak(delay=2.0 ** (failures - 1))

    async def settle(self, delivery: Delivery, event: CloudEvent, kept: str | None = None) -> None:
        """The result is durable: what follows from it, then the acknowledgement, and what was kept for it goes.

        kept: a payload that is still wanted.
        """
        try:
            if self.queue.settled is not None:
                await self.queue.settled(event)
        except NotFound:
            log.info("command.gone", subject=delivery.subject)  # settled before: its payload went with it
        except BusUnavailable:
            raise  # comes back
        except Exception as error:
            log.error("dead.letter", stream=DEAD, subject=delivery.subject, exc_info=error)
            kept = await self._bury(delivery, event)
        await delivery.message.ack()
        if event.get_extension("dataref") != kept:
            await claims.drop(self.blobs, event)
        if delivery.delivered > 1:
            await self.bus.purge(self._attempts, names.attempts_subject(delivery.subject))

    # Results

    @again_when_stored
    async def _publish(self, tenant: str, fact: CloudEvent) -> None:
        subject = names.fact_subject(tenant, fact.get_type())
        fact = await claims.lend(self.bus, self.blobs, tenant, fact, FACT_DAYS, on=subject)
        await facts.publish(self.bus, tenant, fact)

    async def _resolve_failed(self, delivery: Delivery, event: CloudEvent, failure: Failure) -> None:
        await self._resolve(event, catalog.FAILED, failure.model_dump_json().encode())
        metrics.answered(event.get_type(), delivery.time, failure)

    @again_when_stored
    @again_when_unavailable
    async def _resolve(
        self, event: CloudEvent, type_: str, data: bytes, content_type: str = envelope.JSON
    ) -> None:
        if self.queue.result_subject is None:
            return
        tenant, subject = self.queue.tenant(event), self.queue.result_subject(event)
        result = envelope.make_event(
            type_,
            id=event.get_id(),
            tenant=tenant,
            service="worker",
            subject=event.get_subject() or "",
            data=data,
            content_type=content_type,
        )
        result = await claims.lend(self.bus, self.blobs, tenant, result, RESULT_DAYS, on=subject)
        await self.bus.append_once(self._results, subject, result)

    # Dead letters

    async def _failures(self, subject: str) -> int:
        stored = await self.bus.last(self._attempts, names.attempts_subject(subject))
        return 0 if stored is None else int(envelope.json_of(stored.event)["failures"])

    async def _give_up(self, delivery: Delivery, event: CloudEvent, failure: Failure) -> None:
        log.error("dead.letter", stream=DEAD, subject=delivery.subject, reason=failure.message)
        kept = await self._bury(delivery, event)
        await self._resolve_failed(delivery, event, failure)
        await self.settle(delivery, event, kept)

    async def _bury(self, delivery: Delivery, event: CloudEvent) -> str | None:
        """Keep a command to be looked at; returns its payload in the blob store, if it has one there."""
        tenant, subject = self.queue.tenant(event), names.dead_subject(delivery.subject)
        with contextlib.suppress(NotFound):  # its payload is gone: the rest says something too
            whole = await claims.unclaimed(self.blobs, event)
            event = await claims.lend(self.bus, self.blobs, tenant, whole, DEAD_DAYS, on=subject)
        metrics.DEAD_LETTERS.labels(metrics.kind_of(event.get_type())).inc()
        await self.bus.append(subject, event)
        return event.get_extension("dataref") or None

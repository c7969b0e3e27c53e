"""A training run is a durable log: commands go in at the edges, results come from whoever holds the run.

Promises: the first entry of a number is that command, a retried one changes nothing; once a result stands on
its subject it is the result. Who may write results is lease.py's matter, ordering the pure function in order.py.
"""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

from cloudevents.core.v1.event import CloudEvent
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from events import catalog, claims, envelope, ids, names
from events.blobs import Blobs
from events.bus import Bus
from events.failure import Conflict, Failure
from events.lease import Head
from events.order import Entry
from events.pull import ConsumerGone, Delivery, Puller
from events.records import RunRecord
from events.retry import again_when_unavailable, until_available


class RunLog:
    """The edge's side: appends commands and rejections under their numbers."""

    def __init__(self, bus: Bus, blobs: Blobs) -> None:
        self._bus = bus
        self._blobs = blobs

    async def submit(
        self,
        tenant: str,
        run: RunRecord,
        number: int,
        type_: str,
        data: bytes,
        content_type: str = envelope.JSON,
    ) -> None:
        """Append a command; if its number is taken, the entry that stands is the command."""
        event = envelope.make_event(
            type_,
            id=ids.future_id(run.run_id, number),
            tenant=tenant,
            service="gateway",
            subject=run.run_id,
            data=data,
            content_type=content_type,
            number=str(number),
        )
        await self._bus.ensure_run_stream(run.base)
        await self._append_first(
            tenant, run, number, await claims.keep(self._blobs, run.base, tenant, run.run_id, event)
        )

    async def reject(self, tenant: str, run: RunRecord, number: int, message: str) -> None:
        """Append the caller's fault under the number: the entry is itself the result."""
        failure = Failure(message=message, category="user")
        await self.submit(tenant, run, number, catalog.REJECTED, failure.model_dump_json().encode())

    @again_when_unavailable
    async def _append_first(self, tenant: str, run: RunRecord, number: int, event: CloudEvent) -> None:
        subject = names.run_subject(run.base, tenant, run.run_id, "cmd", number)
        try:
            await self._bus.append(subject, event, expect_last=0)
        except Conflict:
            return  # a retry, or the same write whose acknowledgement was lost


class LogReader:
    """The trainer's side: every command of a base model's runs, in stream order, from the beginning."""

    def __init__(self, bus: Bus, base: str) -> None:
        self._bus = bus
        self._base = base
        self._stream = names.run_stream(base)
        self._next = 1

    async def entries(self) -> AsyncIterator[tuple[str, Entry]]:
        """(root subject of the run, entry), without payloads; waits for more when all is read."""
        await self._ensure_stream()
        while True:
            puller = await self._open()
            try:
                async for delivery in self._deliveries(puller):
                    self._next = delivery.sequence + 1
                    root, _, number = delivery.subject.rpartition(".cmd.")
                    event = delivery.event
                    claim = event.get_extension("dataref")
                    yield root, Entry(int(number), delivery.sequence, event.get_type(), delivery.time, claim)
            except ConsumerGone:
                continue  # go on where we were
            finally:
                await puller.close()

    async def _deliveries(self, puller: Puller) -> AsyncIterator[Delivery]:
        """What the consumer gives, without a hole. Raises ConsumerGone.

        Nothing is acknowledged: what was on its way when the connection broke is not sent again by this
        consumer, so a reconnection or a hole in its count ends it.
        """
        connection = self._bus.reconnects
        consumed = 0
        while True:
            await puller.want(1024)
            delivery = await puller.next(timeout=10.0)
            if self._bus.reconnects != connection:
                raise ConsumerGone("the connection broke")
            if delivery is None:
                continue
            consumed += 1
            if delivery.consumed != consumed:
                raise ConsumerGone(f"delivery {consumed} of the consumer was lost")
            yield delivery

    @until_available
    async def _ensure_stream(self) -> None:
        await self._bus.ensure_run_stream(self._base)

    @until_available
    async def _open(self) -> Puller:
        config = ConsumerConfig(
            filter_subject=names.run_filter(self._base, "cmd"),
            deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
            opt_start_seq=self._next,
            ack_policy=AckPolicy.NONE,
            headers_only=True,
            mem_storage=True,
            inactive_threshold=60.0,
        )
        consumer = (await self._bus.ensure_consumer(self._stream, config)).name
        return await Puller(self._bus, self._stream, consumer).start()

    @until_available
    async def heads(self) -> dict[str, Head]:
        """Where each run's log begins, by root subject; a run without a snapshot begins at 0."""
        stored = await self._bus.last_of_each(self._stream, names.head_filter(self._base))
        return {
            one.subject.removesuffix(".head"): Head.model_validate_json(envelope.data_of(one.event))
            for one in stored
        }

    @until_available
    async def resolved(self) -> dict[str, set[int]]:
        """The numbers that have a result, by root subject of the run."""
        found: dict[str, set[int]] = {}
        for subject in await self._bus.subjects(self._stream, names.run_filter(self._base, "result")):
            root, _, number = subject.rpartition(".result.")
            found.setdefault(root, set()).add(int(number))
        return found


def released(number: int) -> bytes:
    """Payload of the tombstone of a number that nobody sent in time."""
    message = f"operation {number} never arrived in time; its place was given up"
    return Failure(message=message, category="server").model_dump_json().encode()


def gap_deadline(since: datetime, patience: float) -> float:
    """Seconds until a gap that opened at `since` is given up."""
    return (since + timedelta(seconds=patience) - datetime.now(UTC)).total_seconds()

"""A training run is a durable log: commands go in at the edges, results come from whoever holds the run.

Promises: the first entry of a number is that command, a retried one changes nothing; a result is written only
under the lease that its writer took, so that a holder who lost the run can write nothing; once a result stands
on its subject it is the result. Ordering itself is the pure function in order.py.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

from cloudevents.core.v1.event import CloudEvent
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay, wait_exponential_jitter

from events import blobs as claims
from events import catalog, envelope, names
from events.blobs import Blobs
from events.bus import Bus, Stored, again_when_unavailable, until_available
from events.failure import BusUnavailable, Conflict, Failure, RekindleError, StreamFull
from events.order import Entry
from events.pull import ConsumerGone, Delivery, Puller
from events.records import RunRecord

WRITE_SECONDS = 60.0
"""How long a result that cannot be written is tried again."""


class LeaseLost(RekindleError):
    """Somebody else holds the run now: drop it from memory and retry nothing."""


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
            id=names.future_id(run.run_id, number),
            tenant=tenant,
            service="gateway",
            subject=run.run_id,
            data=data,
            content_type=content_type,
            number=str(number),
        )
        await self._bus.ensure_run_stream(run.base)
        await self._append_first(tenant, run, number, await claims.check_in(self._blobs, tenant, event))

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
                    yield (
                        root,
                        Entry(int(number), delivery.sequence, delivery.event.get_type(), delivery.time),
                    )
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
        consumer = await self._bus.ensure_consumer(self._stream, config)
        return await Puller(self._bus, self._stream, consumer).start()

    @until_available
    async def resolved(self) -> dict[str, set[int]]:
        """The numbers that have a result, by root subject of the run."""
        found: dict[str, set[int]] = {}
        for subject in await self._bus.subjects(self._stream, names.run_filter(self._base, "result")):
            root, _, number = subject.rpartition(".result.")
            found.setdefault(root, set()).add(int(number))
        return found


class RunHolder:
    """The right to write one run's results, under one epoch.

    Writes of a run go out one at a time, each awaited. After silence the holder looks before it writes again.
    """

    def __init__(self, bus: Bus, blobs: Blobs, base: str, root: str, epoch: int, lease: int) -> None:
        self._bus = bus
        self._blobs = blobs
        self._stream = names.run_stream(base)
        self.root = root
        self.epoch = epoch
        self._fence = (f"{root}.lease", lease)
        self._lock = asyncio.Lock()

    @classmethod
    async def take(cls, bus: Bus, blobs: Blobs, base: str, tenant: str, root: str) -> "RunHolder":
        """Take the run: append the next epoch. Raises Conflict when somebody else took it meanwhile."""
        epoch, lease = await _append_epoch(bus, names.run_stream(base), tenant, root, secrets.token_hex(8))
        return cls(bus, blobs, base, root, epoch, lease)

    async def payload(self, entry: Entry) -> tuple[CloudEvent, bytes]:
        """The command of an entry and its data."""
        stored = await self._read(entry.sequence)
        return stored.event, await claims.check_out(self._blobs, stored.event)

    @again_when_unavailable
    async def resolved(self) -> set[int]:
        """The numbers of this run that have a result. Under our lease no others come but our own."""
        subjects = await self._bus.subjects(self._stream, f"{self.root}.result.*")
        return {int(subject.rpartition(".")[2]) for subject in subjects}

    @again_when_unavailable
    async def result(self, number: int) -> Stored | None:
        """The result of a command, None when it has none yet."""
        return await self._bus.first(self._stream, f"{self.root}.result.{number}")

    @again_when_unavailable
    async def _read(self, sequence: int) -> Stored:
        stored = await self._bus.at(self._stream, sequence)
        assert stored is not None, "an entry that was read stays until its purge"
        return stored

    async def write(self, subject: str, event: CloudEvent) -> None:
        """Write one fenced entry. Raises LeaseLost when the run has another holder."""
        async with self._lock:
            doubtful = False
            async for attempt in AsyncRetrying(
                retry=retry_if_exception_type((BusUnavailable, StreamFull)),
                wait=wait_exponential_jitter(multiplier=0.02, max=2.0, jitter=0.05),
                stop=stop_after_delay(WRITE_SECONDS),
                reraise=True,
            ):
                with attempt:
                    if doubtful and await self._stands(subject, event):
                        return
                    doubtful = True
                    await self._append(subject, event)

    async def _append(self, subject: str, event: CloudEvent) -> None:
        try:
            await self._bus.append(subject, event, fence=self._fence)
        except Conflict as error:
            raise LeaseLost(f"{self.root}: epoch {self.epoch} is over") from error

    async def _stands(self, subject: str, event: CloudEvent) -> bool:
        """Whether a write whose acknowledgement was lost has happened; the lease must still be ours."""
        lease = await self._bus.last(self._stream, self._fence[0])
        if lease is None or lease.sequence != self._fence[1]:
            raise LeaseLost(f"{self.root}: epoch {self.epoch} is over")
        last = await self._bus.last(self._stream, subject)
        return last is not None and last.event.get_id() == event.get_id()


@again_when_unavailable
async def _append_epoch(bus: Bus, stream: str, tenant: str, root: str, holder: str) -> tuple[int, int]:
    """(epoch, stream sequence) of the new lease; after silence it may turn out to be ours already."""
    subject = f"{root}.lease"
    last = await bus.last(stream, subject)
    standing: dict[str, Any] = {"epoch": 0, "holder": ""} if last is None else envelope.json_of(last.event)
    if last is not None and standing["holder"] == holder:
        return int(standing["epoch"]), last.sequence
    epoch = int(standing["epoch"]) + 1
    event = envelope.make_event(
        catalog.LEASE,
        id=f"{root}@{epoch}",
        tenant=tenant,
        service="train",
        subject=root,
        data=envelope.json_data({"epoch": epoch, "holder": holder}),
    )
    return epoch, await bus.append(subject, event, expect_last=0 if last is None else last.sequence)


def released(number: int) -> bytes:
    """Payload of the tombstone of a number that nobody sent in time."""
    message = f"operation {number} never arrived in time; its place was given up"
    return Failure(message=message, category="server").model_dump_json().encode()


def gap_deadline(since: datetime, patience: float) -> float:
    """Seconds until a gap that opened at `since` is given up."""
    return (since + timedelta(seconds=patience) - datetime.now(UTC)).total_seconds()

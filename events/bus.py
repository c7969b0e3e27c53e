"""The connection to NATS JetStream: streams and consumers, appending, removing, and (reads.py) reading back.

Promises: `append` returns only when the stream has stored the message; a compare-and-set that loses raises
`Conflict`; silence raises `BusUnavailable`, after which the write may or may not have happened.
Knows nothing of runs, results or services.
"""

import contextlib
from datetime import UTC, datetime

from cloudevents.core.v1.event import CloudEvent
from nats.aio.client import Client
from nats.js.api import ConsumerConfig, ConsumerInfo, StreamConfig
from nats.js.errors import APIError, BadRequestError, NotFoundError

from events import envelope, names, streams
from events.failure import BusUnavailable, Conflict, StreamFull
from events.reads import API, Reads
from events.retry import SILENCE, answering, unanswered

WRONG_LAST_SEQUENCE = 10071
FULL_CODES = frozenset({10077, 10047, 10023, 10054})
STREAM_NAME_IN_USE = 10058
LAST_SEQUENCE = "Nats-Expected-Last-Subject-Sequence"
LAST_SEQUENCE_SUBJECT = "Nats-Expected-Last-Subject-Sequence-Subject"
CONSUMERS_PAGE = 256
"""Consumers that the server describes at once."""


class Bus(Reads):
    """One connection; cheap to share, safe to use from one event loop."""

    def __init__(self, client: Client, *, replicas: int = 1, timeout: float = 5.0, api: str = API) -> None:
        super().__init__(client, replicas=replicas, timeout=timeout, api=api)
        self._known_runs: set[str] = set()

    @classmethod
    async def connect(
        cls, url: str, *, name: str, replicas: int = 1, timeout: float = 5.0, api: str = API
    ) -> "Bus":
        """Connect and keep reconnecting for ever; waits for the first connection."""
        bus = cls(Client(), replicas=replicas, timeout=timeout, api=api)
        await bus.open(url, name=name)
        return bus

    @property
    def makes(self) -> bool:
        """Whether it makes shared streams and consumers of queues; others do otherwise, and it asks them."""
        return self.api == API

    # Streams

    async def ensure_shared_streams(self) -> None:
        """Nothing is made, and nothing is waited for, where others do it: what needs a stream tries again."""
        for config in streams.shared(self._replicas) if self.makes else ():
            await self.ensure_stream(config)

    async def ensure_run_stream(self, base: str) -> None:
        """Make the run stream of a base model if this connection has not seen it yet."""
        if base not in self._known_runs:
            await self.ensure_stream(streams.runs(base, self._replicas))
            self._known_runs.add(base)

    async def ensure_stream(self, config: StreamConfig) -> None:
        """Make a stream, or bring the one that stands to `config`. Raises BusUnavailable."""
        with answering(f"stream {config.name}"):
            try:
                await self.js.add_stream(config)
            except BadRequestError as error:
                if error.err_code != STREAM_NAME_IN_USE:
                    raise
                await self.js.update_stream(config)

    async def ensure_consumer(self, stream: str, config: ConsumerConfig) -> ConsumerInfo:
        """Make a consumer, or find the durable one of that name. Raises BusUnavailable."""
        with answering(f"consumer of {stream}"):
            return await self.js.add_consumer(stream, config)

    async def remove_consumer(self, stream: str, name: str) -> None:
        """Remove a consumer; nothing happens if there is none. Raises BusUnavailable."""
        with contextlib.suppress(NotFoundError), answering(f"consumer of {stream}"):
            await self.js.delete_consumer(stream, name)

    async def unsettled(self, stream: str) -> dict[str, int]:
        """By name of each consumer: entries that it has not delivered, or that are not acknowledged."""
        found: dict[str, int] = {}
        while True:
            with answering(f"consumers of {stream}"):
                page = await self.js.consumers_info(stream, offset=len(found))
            found |= {one.name: (one.num_pending or 0) + (one.num_ack_pending or 0) for one in page}
            if len(page) < CONSUMERS_PAGE:
                return found

    # Writing

    async def append(
        self,
        subject: str,
        event: CloudEvent,
        *,
        expect_last: int | None = None,
        fence: tuple[str, int] | None = None,
        headers: dict[str, str] | None = None,
    ) -> int:
        """Store `event`; returns its stream sequence.

        `expect_last`: the last sequence on this very subject (0 = none yet). `fence`: (subject, sequence) that
        must still be the last of another subject. Raises Conflict, StreamFull or BusUnavailable.
        """
        assert expect_last is None or fence is None, "JetStream checks one subject per message"
        head, data = envelope.to_message(event)
        head |= headers or {}
        if expect_last is not None:
            head[LAST_SEQUENCE] = str(expect_last)
        if fence is not None:
            head[LAST_SEQUENCE_SUBJECT], head[LAST_SEQUENCE] = fence[0], str(fence[1])
        try:
            ack = await self.js.publish(subject, data, headers=head)
        except APIError as error:
            raise _as_bus_error(error, subject) from error
        except SILENCE as error:
            raise BusUnavailable(f"{subject}: {unanswered(error)}") from error
        return ack.seq

    async def append_once(self, stream: str, subject: str, event: CloudEvent) -> None:
        """Store `event` on a subject that takes one message; what stands there already stays.

        Raises StreamFull when it is the stream that takes no more, or BusUnavailable.
        """
        try:
            await self.append(subject, event)
        except StreamFull:
            if await self.first(stream, subject) is None:
                raise

    async def append_later(self, subject: str, event: CloudEvent, at: datetime) -> int:
        """Have the stream itself append `event` on `subject` at that time; a later call for the subject replaces it.

        Only for streams that take messages for later. Raises as `append`.
        """
        when = at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        schedule = {"Nats-Schedule": f"@at {when}", "Nats-Schedule-Target": subject}
        return await self.append(names.later_subject(subject), event, headers=schedule)

    async def remove(self, stream: str, sequence: int) -> None:
        """Remove one entry; nothing happens if it is gone."""
        with contextlib.suppress(NotFoundError, BadRequestError), answering(stream):
            await self.js.delete_msg(stream, sequence)

    async def purge(self, stream: str, subject_filter: str, *, before: int | None = None) -> None:
        """Remove what lies on the subjects that match, all of it or what stands before a place in the stream."""
        assert before is None or before > 0, "the server takes 0 for all"
        with contextlib.suppress(NotFoundError), answering(stream):
            await self.js.purge_stream(stream, subject=subject_filter, seq=before)


def _as_bus_error(error: APIError, subject: str) -> Exception:
    if error.err_code == WRONG_LAST_SEQUENCE:
        return Conflict(f"{subject}: somebody wrote first")
    if error.err_code in FULL_CODES:
        return StreamFull(f"{subject}: {error.description}")
    return BusUnavailable(f"{subject}: {error.description}")

"""The connection to NATS JetStream: append, read back, pull, listen.

Promises: `append` returns only when the stream has stored the message; a compare-and-set that loses raises
`Conflict`; silence raises `BusUnavailable`, after which the write may or may not have happened. Knows nothing
of runs, results or services.
"""

import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import nats
from cloudevents.core.v1.event import CloudEvent
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import ConnectionClosedError, NoRespondersError
from nats.js import JetStreamContext
from nats.js.api import StreamConfig
from nats.js.errors import APIError, BadRequestError, NotFoundError, ServiceUnavailableError

from events import envelope, streams
from events.failure import BusUnavailable, Conflict, StreamFull

WRONG_LAST_SEQUENCE = 10071
WRITE_IN_FLIGHT = 10164
FULL_CODES = frozenset({10077, 10047, 10023, 10054})
STREAM_NAME_IN_USE = 10058
LAST_SEQUENCE = "Nats-Expected-Last-Subject-Sequence"
LAST_SEQUENCE_SUBJECT = "Nats-Expected-Last-Subject-Sequence-Subject"


@dataclass(frozen=True, slots=True)
class Stored:
    """One entry of a stream."""

    subject: str
    sequence: int
    """Its place in the stream."""
    time: datetime
    """When the stream stored it."""
    event: CloudEvent


class Bus:
    """One connection; cheap to share, safe to use from one event loop."""

    def __init__(self, client: Client, *, replicas: int = 1, timeout: float = 5.0) -> None:
        self.client = client
        self.js: JetStreamContext = client.jetstream(timeout=timeout)
        self._replicas = replicas
        self._known_runs: set[str] = set()

    @classmethod
    async def connect(cls, url: str, *, name: str, replicas: int = 1) -> "Bus":
        """Connect and keep reconnecting for ever; waits for the first connection."""
        client = await nats.connect(
            url,
            name=name,
            max_reconnect_attempts=-1,
            reconnect_time_wait=0.1,
            allow_reconnect=True,
            pending_size=64 * 1024 * 1024,
            error_cb=_quiet,
        )
        return cls(client, replicas=replicas)

    async def close(self) -> None:
        if not self.client.is_closed:
            await self.client.close()

    # Streams

    async def ensure_shared_streams(self) -> None:
        for config in streams.shared(self._replicas):
            await self.ensure_stream(config)

    async def ensure_run_stream(self, base: str) -> None:
        """Make the run stream of a base model if this connection has not seen it yet."""
        if base not in self._known_runs:
            await self.ensure_stream(streams.runs(base, self._replicas))
            self._known_runs.add(base)

    async def ensure_stream(self, config: StreamConfig) -> None:
        try:
            await self.js.add_stream(config)
        except BadRequestError as error:
            if error.err_code != STREAM_NAME_IN_USE:
                raise
            await self.js.update_stream(config)

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
        except (TimeoutError, NoRespondersError, ConnectionClosedError) as error:
            raise BusUnavailable(f"{subject}: no acknowledgement") from error
        return ack.seq

    # Reading

    async def last(self, stream: str, subject: str) -> Stored | None:
        """The newest entry on a subject."""
        return await self._direct(stream, {"last_by_subj": subject})

    async def first(self, stream: str, subject: str) -> Stored | None:
        """The oldest entry on a subject; where the first write wins, this is the truth."""
        return await self._direct(stream, {"seq": 1, "next_by_subj": subject})

    async def at(self, stream: str, sequence: int) -> Stored | None:
        """The entry at a place in the stream."""
        return await self._direct(stream, {"seq": sequence})

    async def _direct(self, stream: str, request: dict[str, Any]) -> Stored | None:
        try:
            reply = await self.client.request(
                f"$JS.API.DIRECT.GET.{stream}", json.dumps(request).encode(), 5.0
            )
        except NoRespondersError:
            return None  # no such stream
        except (TimeoutError, ConnectionClosedError) as error:
            raise BusUnavailable(f"{stream}: no answer") from error
        headers = reply.headers or {}
        return None if headers.get("Status", "").startswith("404") else _stored(headers, reply.data)

    async def last_of_each(self, stream: str, subject_filter: str) -> list[Stored]:
        """The newest entry on every subject that matches, by one batched direct get."""
        inbox = self.client.new_inbox()
        subscription = await self.client.subscribe(inbox)
        found: list[Stored] = []
        try:
            request = json.dumps({"multi_last": [subject_filter], "batch": 100_000}).encode()
            await self.client.publish(f"$JS.API.DIRECT.GET.{stream}", request, reply=inbox)
            while True:
                reply = await subscription.next_msg(timeout=10.0)
                headers = reply.headers or {}
                if headers.get("Status"):
                    return found  # 204 ends the batch, 404 and 503 mean nothing there
                found.append(_stored(headers, reply.data))
        except TimeoutError as error:
            raise BusUnavailable(f"{stream}: no answer") from error
        finally:
            await subscription.unsubscribe()

    async def subjects(self, stream: str, subject_filter: str) -> list[str]:
        """Names of the subjects that hold something."""
        try:
            info = await self.js.stream_info(stream, subjects_filter=subject_filter)
        except NotFoundError:
            return []
        except (TimeoutError, ServiceUnavailableError) as error:
            raise BusUnavailable(f"{stream}: no answer") from error
        return list(info.state.subjects or {})

    async def purge(self, stream: str, subject_filter: str) -> None:
        """Remove everything on the subjects that match."""
        with contextlib.suppress(NotFoundError):
            await self.js.purge_stream(stream, subject=subject_filter)

    # Listening, without a consumer

    async def listen(self, subject: str, heard: Callable[[str], None]) -> Callable[[], Awaitable[None]]:
        """Call `heard(subject)` for every core message; returns the function that stops it."""

        async def on_message(message: Msg) -> None:
            heard(message.subject)

        subscription = await self.client.subscribe(subject, cb=on_message)
        return subscription.unsubscribe

    async def follow(self, subject: str) -> AsyncIterator[CloudEvent]:
        """The events on a subject from now on (facts, live). Nothing is remembered between calls."""
        subscription = await self.client.subscribe(subject)
        try:
            async for message in subscription.messages:
                yield envelope.from_message(message.headers, message.data)
        finally:
            await subscription.unsubscribe()


def _stored(headers: dict[str, str], data: bytes) -> Stored:
    return Stored(
        subject=headers["Nats-Subject"],
        sequence=int(headers["Nats-Sequence"]),
        time=parse_time(headers["Nats-Time-Stamp"]),
        event=envelope.from_message(headers, data),
    )


def parse_time(text: str) -> datetime:
    """NATS writes nanoseconds, which datetime does not read."""
    seconds, _, fraction = text.rstrip("Z").partition(".")
    moment = datetime.fromisoformat(seconds).replace(tzinfo=UTC)
    return moment.replace(microsecond=int(fraction[:6].ljust(6, "0"))) if fraction else moment


def _as_bus_error(error: APIError, subject: str) -> Exception:
    if error.err_code == WRONG_LAST_SEQUENCE:
        return Conflict(f"{subject}: somebody wrote first")
    if error.err_code in FULL_CODES:
        return StreamFull(f"{subject}: {error.description}")
    return BusUnavailable(f"{subject}: {error.description}")


async def _quiet(_: Exception) -> None:
    """Reconnection is automatic; operations that fail meanwhile raise where they are awaited."""

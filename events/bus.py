"""The connection to NATS JetStream: append, read back, pull, listen.

Promises: `append` returns only when the stream has stored the message; a compare-and-set that loses raises
`Conflict`; silence raises `BusUnavailable`, after which the write may or may not have happened. A read sees
every write that was acknowledged before it, on replicated streams too; silence is never read as "not there".
Knows nothing of runs, results or services.
"""

import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import structlog
from cloudevents.core.v1.event import CloudEvent
from nats import errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.js import JetStreamContext
from nats.js.api import ConsumerConfig, ConsumerInfo, StreamConfig
from nats.js.errors import APIError, BadRequestError, NoStreamResponseError, NotFoundError
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_exponential_jitter

from events import envelope, metrics, names, streams
from events.failure import BusUnavailable, Conflict, StreamFull

log = structlog.get_logger(__name__)

WRONG_LAST_SEQUENCE = 10071
FULL_CODES = frozenset({10077, 10047, 10023, 10054})
STREAM_NAME_IN_USE = 10058
LAST_SEQUENCE = "Nats-Expected-Last-Subject-Sequence"
LAST_SEQUENCE_SUBJECT = "Nats-Expected-Last-Subject-Sequence-Subject"
PAGE = 500
"""Subjects read by one batched get; the server refuses more than 1,024."""
CONSUMERS_PAGE = 256
"""Consumers that the server describes at once."""
WALK_PAGE = 64
"""Entries read by one batched get of a walk; they may be large."""
FOLLOWED_BYTES = 8 * 1024 * 1024
"""Kept of events for one who follows them and does not take them."""
PING_SECONDS = 10
"""How often a silent connection is probed; two lost answers end it."""

SILENCE = (
    TimeoutError,
    errors.NoRespondersError,
    NoStreamResponseError,
    errors.ConnectionClosedError,
    errors.ConnectionDrainingError,
    errors.ConnectionReconnectingError,
    errors.StaleConnectionError,
    errors.OutboundBufferLimitError,
)
"""The ways in which nats-py says that nobody answered."""

again_when_unavailable = retry(
    retry=retry_if_exception_type(BusUnavailable),
    wait=wait_exponential_jitter(multiplier=0.05, max=2.0, jitter=0.05),
    stop=stop_after_delay(30),
    reraise=True,
)
"""Tries a function that can be repeated again while the bus is away, for 30 s."""

until_available = retry(
    retry=retry_if_exception_type(BusUnavailable),
    wait=wait_exponential_jitter(multiplier=0.05, max=2.0, jitter=0.05),
)
"""The same without an end, for work that nobody waits for in person."""


@contextlib.contextmanager
def answering(what: str) -> Iterator[None]:
    """Whatever goes unanswered or is refused within raises BusUnavailable; NotFoundError passes."""
    try:
        yield
    except SILENCE as error:
        raise BusUnavailable(f"{what}: no answer") from error
    except NotFoundError:
        raise
    except APIError as error:
        raise BusUnavailable(f"{what}: {error.description}") from error


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
        self._timeout = timeout
        self._known_runs: set[str] = set()
        self._on_reconnect: set[Callable[[], None]] = set()
        self.reconnects = 0
        """How often the connection was lost and found again."""

    @classmethod
    async def connect(cls, url: str, *, name: str, replicas: int = 1, timeout: float = 5.0) -> "Bus":
        """Connect and keep reconnecting for ever; waits for the first connection."""
        client = Client()
        bus = cls(client, replicas=replicas, timeout=timeout)
        await client.connect(
            url,
            name=name,
            max_reconnect_attempts=-1,
            reconnect_time_wait=0.1,  # type: ignore[arg-type]  # seconds, of any kind
            allow_reconnect=True,
            ping_interval=PING_SECONDS,
            pending_size=64 * 1024 * 1024,
            error_cb=_note,
            disconnected_cb=bus._disconnected,
            reconnected_cb=bus._reconnected,
        )
        return bus

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

    async def end(self, stream: str) -> int:
        """Place of the newest entry; 0 when there never was one. Raises BusUnavailable."""
        with answering(stream):
            return (await self.js.stream_info(stream)).state.last_seq

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
            raise BusUnavailable(f"{subject}: no acknowledgement") from error
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

    # Reading

    async def last(self, stream: str, subject: str) -> Stored | None:
        """The newest entry on a subject. Raises BusUnavailable, as all reads do."""
        return await self._read(stream, {"last_by_subj": subject})

    async def first(self, stream: str, subject: str) -> Stored | None:
        """The oldest entry on a subject; where the first write wins, this is the truth."""
        return await self._read(stream, {"seq": 1, "next_by_subj": subject})

    async def at(self, stream: str, sequence: int) -> Stored | None:
        """The entry at a place in the stream."""
        return await self._read(stream, {"seq": sequence})

    async def _read(self, stream: str, request: dict[str, Any]) -> Stored | None:
        # Any replica answers a direct get, one that lags too; only the leader knows all that was acknowledged.
        return await (self._direct if self._replicas == 1 else self._ask_leader)(stream, request)

    async def _direct(self, stream: str, request: dict[str, Any]) -> Stored | None:
        with answering(stream):
            try:
                reply = await self._request(f"DIRECT.GET.{stream}", request)
            except errors.NoRespondersError:
                if await self._exists(stream):
                    raise
                return None
        headers = reply.headers or {}
        status = headers.get("Status", "")
        if status and not status.startswith("404"):
            raise BusUnavailable(f"{stream}: {status} {headers.get('Description', '')}")
        return None if status else _stored(headers, reply.data)

    async def _ask_leader(self, stream: str, request: dict[str, Any]) -> Stored | None:
        place = {"seq": request.get("seq"), "next": "next_by_subj" in request}
        subject = request.get("last_by_subj") or request.get("next_by_subj")
        with answering(stream):
            try:
                found = await self.js.get_msg(stream, subject=subject, **place)
            except NotFoundError:
                return None
        assert found.subject and found.seq, "an entry has its place"
        event = envelope.from_message(found.headers, found.data or b"")
        return Stored(found.subject, found.seq, parse_time(str(found.time)), event)

    async def _exists(self, stream: str) -> bool:
        try:
            await self.js.stream_info(stream)
        except NotFoundError:
            return False
        return True

    async def _request(self, what: str, request: dict[str, Any]) -> Msg:
        return await self.client.request(f"$JS.API.{what}", json.dumps(request).encode(), self._timeout)

    async def last_of_each(self, stream: str, subject_filter: str) -> list[Stored]:
        """The newest entry on every subject that matches."""
        subjects = await self.subjects(stream, subject_filter)
        pages = [subjects[start : start + PAGE] for start in range(0, len(subjects), PAGE)]
        return [stored for page in pages for stored in await self._last_of(stream, page)]

    async def _last_of(self, stream: str, subjects: list[str]) -> list[Stored]:
        """The newest entries on up to `PAGE` subjects, by batched direct gets."""
        found: dict[str, Stored] = {}
        inbox = self.client.new_inbox()
        subscription = await self.client.subscribe(inbox)
        try:
            with answering(stream):
                while missing := [subject for subject in subjects if subject not in found]:
                    request = json.dumps({"multi_last": missing, "batch": PAGE}).encode()
                    await self.client.publish(f"$JS.API.DIRECT.GET.{stream}", request, reply=inbox)
                    page = await self._page(stream, subscription)
                    found |= {stored.subject: stored for stored in page}
                    if not page:
                        break  # the others have been purged since
        finally:
            await subscription.unsubscribe()
        return list(found.values())

    async def walk(self, stream: str, subject_filter: str) -> AsyncIterator[Stored]:
        """Every entry on the subjects that match, oldest first, up to the end as it is when that is reached."""
        subscription = await self.client.subscribe(inbox := self.client.new_inbox())
        place = 1
        try:
            while True:
                request = json.dumps(
                    {"seq": place, "next_by_subj": subject_filter, "batch": WALK_PAGE}
                ).encode()
                await self.client.publish(f"$JS.API.DIRECT.GET.{stream}", request, reply=inbox)
                page = await self._page(stream, subscription)
                for stored in page:
                    yield stored
                if len(page) < WALK_PAGE:
                    return
                place = page[-1].sequence + 1
        finally:
            await subscription.unsubscribe()

    async def _page(self, stream: str, subscription: Subscription) -> list[Stored]:
        """The answers to one batched get; none when nothing is left. Raises BusUnavailable."""
        page: list[Stored] = []
        with answering(stream):
            while not (status := _status(reply := await subscription.next_msg(self._timeout))):
                page.append(_stored(reply.headers or {}, reply.data))
        if status not in ("204", "404"):
            raise BusUnavailable(f"{stream}: {status}")
        return page

    async def subjects(self, stream: str, subject_filter: str) -> list[str]:
        """Names of the subjects that hold something, in alphabetical order."""
        found: list[str] = []
        while True:
            request = {"subjects_filter": subject_filter, "offset": len(found)}
            with answering(stream):
                reply = json.loads((await self._request(f"STREAM.INFO.{stream}", request)).data)
            if "error" in reply:
                if reply["error"]["code"] == 404:
                    return []
                raise BusUnavailable(f"{stream}: {reply['error'].get('description', '')}")
            page = reply["state"].get("subjects") or {}
            found += sorted(page)
            if not page or len(found) >= reply.get("total", 0):
                return found

    async def remove(self, stream: str, sequence: int) -> None:
        """Remove one entry; nothing happens if it is gone."""
        with contextlib.suppress(NotFoundError, BadRequestError), answering(stream):
            await self.js.delete_msg(stream, sequence)

    async def purge(self, stream: str, subject_filter: str, *, before: int | None = None) -> None:
        """Remove what lies on the subjects that match, all of it or what stands before a place in the stream."""
        assert before is None or before > 0, "the server takes 0 for all"
        with contextlib.suppress(NotFoundError), answering(stream):
            await self.js.purge_stream(stream, subject=subject_filter, seq=before)

    # Listening, without a consumer

    async def listen(self, subject: str, heard: Callable[[str], None]) -> Callable[[], Awaitable[None]]:
        """Call `heard(subject)` for every core message; returns the function that stops it."""

        async def on_message(message: Msg) -> None:
            heard(message.subject)

        subscription = await self.client.subscribe(subject, cb=on_message)
        return subscription.unsubscribe

    async def hear(
        self, subject: str, heard: Callable[[str, Mapping[str, str]], None]
    ) -> Callable[[], Awaitable[None]]:
        """As `listen`, with the headers."""

        async def on_message(message: Msg) -> None:
            heard(message.subject, message.headers or {})

        subscription = await self.client.subscribe(subject, cb=on_message)
        return subscription.unsubscribe

    async def tell(self, subject: str) -> None:
        """Say something, without content, to who listens at this moment; nothing is stored."""
        with answering(subject):
            await self.client.publish(subject)

    async def follow(self, subject: str) -> AsyncGenerator[CloudEvent, None]:
        """The events on a subject from now on (facts, live). Nothing is remembered between calls; who takes them more
        slowly than they come misses some."""
        subscription = await self.client.subscribe(subject, pending_bytes_limit=FOLLOWED_BYTES)
        try:
            async for message in subscription.messages:
                yield envelope.from_message(message.headers, message.data)
        finally:
            if not self.client.is_closed:
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


def _status(reply: Msg) -> str:
    return (reply.headers or {}).get("Status", "").partition(" ")[0]


async def _note(error: Exception) -> None:
    """Reconnection is automatic, and operations that fail meanwhile raise where they are awaited."""
    if isinstance(error, (OSError, *SILENCE)):
        log.info("nats.away", reason=repr(error))
    else:
        log.error("nats.error", exc_info=error)

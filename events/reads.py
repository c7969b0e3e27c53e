"""Reading streams back.

Promises: a read sees every write that was acknowledged before it, on replicated streams too; silence is never read as
"not there", it raises BusUnavailable. Knows nothing of writing.
"""

import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from cloudevents.core.v1.event import CloudEvent
from nats import errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError

from events import envelope
from events.connection import Connection
from events.failure import BusUnavailable
from events.retry import answering

API = "$JS.API"
PAGE = 500
"""Subjects read by one batched get; the server refuses more than 1,024."""
WALK_PAGE = 64
"""Entries read by one batched get of a walk; they may be large."""


@dataclass(frozen=True)
class Stored:
    """One entry of a stream."""

    subject: str
    sequence: int
    """Its place in the stream."""
    time: datetime
    """When the stream stored it."""
    headers: Mapping[str, str]
    data: bytes

    @cached_property
    def event(self) -> CloudEvent:
        """Raises as `envelope.received` for what is none."""
        return envelope.received(self.subject, self.headers, self.data)


class Reads(Connection):
    """A connection that reads streams; all of it raises BusUnavailable."""

    def __init__(self, client: Client, *, replicas: int = 1, timeout: float = 5.0, api: str = API) -> None:
        """api: how subjects of JetStream's API begin; other than `API`, streams are lent by another account."""
        super().__init__(client)
        self.api = api
        self.js: JetStreamContext = client.jetstream(timeout=timeout, prefix=api)
        self._replicas = replicas
        self._timeout = timeout

    # One entry

    async def last(self, stream: str, subject: str) -> Stored | None:
        """The newest entry on a subject."""
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
        headers, status = reply.headers or {}, _status(reply)
        if status not in ("", "404"):
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
        time = parse_time(str(found.time))
        return Stored(found.subject, found.seq, time, found.headers or {}, found.data or b"")

    async def _exists(self, stream: str) -> bool:
        try:
            await self.js.stream_info(stream)
        except NotFoundError:
            return False
        return True

    async def _request(self, what: str, request: dict[str, Any]) -> Msg:
        return await self.client.request(f"{self.api}.{what}", json.dumps(request).encode(), self._timeout)

    # Many

    async def last_of_each(self, stream: str, subject_filter: str, *, surely: bool = False) -> list[Stored]:
        """The newest entry on every subject that matches.

        surely: none that a replica which lags does not know yet, or knows as it was; they are read one by one.
        """
        subjects = await self.subjects(stream, subject_filter)
        if surely and self._replicas > 1:
            found = [await self.last(stream, subject) for subject in subjects]
            return [stored for stored in found if stored is not None]
        pages = [subjects[start : start + PAGE] for start in range(0, len(subjects), PAGE)]
        return [stored for page in pages for stored in await self._last_of(stream, page)]

    async def _last_of(self, stream: str, subjects: list[str]) -> list[Stored]:
        """The newest entries on up to `PAGE` subjects."""
        found: dict[str, Stored] = {}
        async with self._paged(stream) as page_of:
            while missing := [subject for subject in subjects if subject not in found]:
                page = await page_of({"multi_last": missing, "batch": PAGE})
                found |= {stored.subject: stored for stored in page}
                if not page:
                    break  # the others have been purged since
        return list(found.values())

    async def walk(self, stream: str, subject_filter: str) -> AsyncIterator[Stored]:
        """Every entry on the subjects that match, oldest first, up to the end as it is when that is reached."""
        place = 1
        async with self._paged(stream) as page_of:
            while True:
                page = await page_of({"seq": place, "next_by_subj": subject_filter, "batch": WALK_PAGE})
                for stored in page:
                    yield stored
                if len(page) < WALK_PAGE:
                    return
                place = page[-1].sequence + 1

    @contextlib.asynccontextmanager
    async def _paged(self, stream: str) -> AsyncIterator[Callable[[dict[str, Any]], Awaitable[list[Stored]]]]:
        """Batched direct gets: what asks for one, and returns its answers."""
        subscription = await self.client.subscribe(inbox := self.client.new_inbox())

        async def page_of(request: dict[str, Any]) -> list[Stored]:
            with answering(stream):
                await self.client.publish(
                    f"{self.api}.DIRECT.GET.{stream}", json.dumps(request).encode(), reply=inbox
                )
                return await self._page(stream, subscription)

        try:
            yield page_of
        finally:
            await subscription.unsubscribe()

    async def _page(self, stream: str, subscription: Subscription) -> list[Stored]:
        """The answers to one batched get; none when nothing is left."""
        page: list[Stored] = []
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

    async def end(self, stream: str) -> int:
        """Place of the newest entry; 0 when there never was one."""
        with answering(stream):
            return (await self.js.stream_info(stream)).state.last_seq


def _stored(headers: dict[str, str], data: bytes) -> Stored:
    return Stored(
        subject=headers["Nats-Subject"],
        sequence=int(headers["Nats-Sequence"]),
        time=parse_time(headers["Nats-Time-Stamp"]),
        headers=headers,
        data=data,
    )


def parse_time(text: str) -> datetime:
    """NATS writes nanoseconds, which datetime does not read."""
    seconds, _, fraction = text.rstrip("Z").partition(".")
    moment = datetime.fromisoformat(seconds).replace(tzinfo=UTC)
    return moment.replace(microsecond=int(fraction[:6].ljust(6, "0"))) if fraction else moment


def _status(reply: Msg) -> str:
    """What the server says in place of an entry; an entry may have a header of that name, too."""
    headers = reply.headers or {}
    return "" if "Nats-Subject" in headers else headers.get("Status", "").partition(" ")[0]

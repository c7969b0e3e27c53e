"""Reads and writes records: one entry a record in a stream, the newest is what holds.

Kinds that are written once are remembered here; of one that is forgotten all the same, everybody is told.
"""

import contextlib
from collections.abc import Callable
from typing import TypeVar

from cachetools import LRUCache

from events import catalog, envelope, names
from events.bus import Bus
from events.confined import CONFINED_RECORDS
from events.failure import Conflict, NotFound
from events.reads import Stored
from events.records import IMMUTABLE, KINDS, Record
from events.streams import FUNCTIONS, RECORDS

R = TypeVar("R", bound=Record)


def _stream(kind: type[Record]) -> str:
    """Where records of a kind lie."""
    return FUNCTIONS if KINDS[kind] in CONFINED_RECORDS else RECORDS


class Records:
    """Reads and writes records of all kinds."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._cache: LRUCache[str, Record] = LRUCache(maxsize=16384)

    async def get(self, kind: type[R], tenant: str, key: str) -> R:
        """Raises NotFound."""
        subject = names.record_subject(KINDS[kind], tenant, key)
        cached = self._cache.get(subject)
        if isinstance(cached, kind):
            return cached
        stored = await self._bus.last(_stream(kind), subject)
        if stored is None:
            raise NotFound(f"{KINDS[kind]} {key!r} does not exist")
        return self._remember(kind, stored)

    async def get_anew(self, kind: type[R], tenant: str, key: str) -> R:
        """As `get`, whatever is remembered. Raises NotFound."""
        self._cache.pop(names.record_subject(KINDS[kind], tenant, key), None)
        return await self.get(kind, tenant, key)

    async def create(self, tenant: str, key: str, record: R) -> R:
        """Write `record` unless there is one; returns what stands."""
        try:
            await self._write(tenant, key, record, expect_last=0)
        except Conflict:
            return await self.get(type(record), tenant, key)
        return record

    async def replace(self, tenant: str, key: str, record: R) -> None:
        """Write `record` whatever stands; for kinds that may change."""
        assert type(record) not in IMMUTABLE, "this kind is written once"
        await self._write(tenant, key, record, expect_last=None)

    async def change(self, kind: type[R], tenant: str, key: str, make: Callable[[R | None], R]) -> R:
        """Replace a record by what `make` makes of it, None where there is none; again when others were faster.

        Returns what stands then. `make` may raise, and may return what it was given: then nothing is written.
        """
        assert kind not in IMMUTABLE, "this kind is written once"
        subject = names.record_subject(KINDS[kind], tenant, key)
        while True:
            stored = await self._bus.last(_stream(kind), subject)
            old = None if stored is None else self._remember(kind, stored)
            new = make(old)
            if new == old:
                return new
            with contextlib.suppress(Conflict):
                await self._write(tenant, key, new, expect_last=0 if stored is None else stored.sequence)
                return new

    async def delete(self, kind: type[Record], tenant: str, key: str) -> None:
        """Forget a record of a kind that may change; nothing happens if there is none."""
        assert kind not in IMMUTABLE, "this kind is written once"
        await self._bus.purge(_stream(kind), names.record_subject(KINDS[kind], tenant, key))

    async def start(self) -> None:
        """Hear of records that are forgotten, so that none is remembered here that is gone; remember nothing over a
        time in which nothing could be heard."""
        self._bus.on_reconnect(self._cache.clear)
        await self._bus.listen(names.forgotten_subject("record.>"), self._forgotten)

    def _forgotten(self, subject: str) -> None:
        self._cache.pop(subject.removeprefix(names.forgotten_subject("")), None)

    async def amend(self, kind: type[R], tenant: str, key: str, **changes: object) -> None:
        """Change a record that others remember; nothing happens if there is none any more."""
        subject = names.record_subject(KINDS[kind], tenant, key)
        while (stored := await self._bus.last(_stream(kind), subject)) is not None:
            record = self._remember(kind, stored).model_copy(update=changes)
            with contextlib.suppress(Conflict):
                await self._write(tenant, key, record, expect_last=stored.sequence)
                return await self._say_forgotten(subject)

    async def forget(self, kind: type[Record], tenant: str, key: str) -> None:
        """Remove a record of any kind, also from what others remember."""
        subject = names.record_subject(KINDS[kind], tenant, key)
        await self._bus.purge(_stream(kind), subject)
        await self._say_forgotten(subject)

    async def forget_this(self, tenant: str, key: str, record: Record) -> None:
        """Remove this very record, as `forget`; another one that has come to stand in its place stays."""
        kind = type(record)
        subject = names.record_subject(KINDS[kind], tenant, key)
        stored = await self._bus.last(_stream(kind), subject)
        if stored is not None and kind.model_validate_json(envelope.data_of(stored.event)) == record:
            await self._bus.purge(_stream(kind), subject, before=stored.sequence + 1)
        await self._say_forgotten(subject)

    async def _say_forgotten(self, subject: str) -> None:
        self._cache.pop(subject, None)
        await self._bus.tell(names.forgotten_subject(subject))

    async def all(self, kind: type[R], tenant: str) -> list[R]:
        """All records of a kind, in no particular order."""
        found = await self._bus.last_of_each(_stream(kind), names.record_filter(KINDS[kind], tenant))
        return [self._remember(kind, stored) for stored in found]

    async def _write(self, tenant: str, key: str, record: Record, expect_last: int | None) -> None:
        kind = KINDS[type(record)]
        event = envelope.make_event(
            catalog.RECORD,
            id=key,
            tenant=tenant,
            service="records",
            subject=key,
            data=record.model_dump_json().encode(),
        )
        await self._bus.append(names.record_subject(kind, tenant, key), event, expect_last=expect_last)

    def _remember(self, kind: type[R], stored: Stored) -> R:
        record = kind.model_validate_json(envelope.data_of(stored.event))
        if kind in IMMUTABLE:
            self._cache[stored.subject] = record
        return record

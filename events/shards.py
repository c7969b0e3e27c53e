"""A request too large for one worker: cut into shards, each a command of a work queue, joined when all are done.

A manifest beside the results says how many shards there are; shard k = 1, 2, … has its result under number k,
and the whole request under number 0. Whichever worker settles the last shard joins them: every worker writes
its result before it looks, so the last to look sees all. A worker that dies between the two is followed by
another, which finds the result and looks again. Knows nothing of what the shards carry.
"""

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cloudevents.core.v1.event import CloudEvent
from pydantic import BaseModel, ConfigDict

from events import catalog, claims, envelope, ids, names
from events.blobs import Blobs
from events.bus import Bus
from events.failure import Conflict, Failure, StreamFull
from events.reads import Stored
from events.retry import again_when_unavailable
from events.streams import RESULT_DAYS, SCORES

WHOLE = 0
"""Number of the joined result."""

ShardResult = bytes | Failure
Join = Callable[[Sequence[ShardResult]], bytes]
"""Results in shard order → the result of the whole."""


class Manifest(BaseModel):
    """What a request was cut into. Example: Manifest(shards=4, digest="9f86d081…")."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    shards: int
    digest: str
    """sha256 of the request: another one under the same id is a mistake."""


class AnotherRequest(ValueError):
    """The id belongs to a request with other content."""


@dataclass(frozen=True, slots=True)
class Sharding:
    """How one queue names its shards. Example: Sharding("reward", names.reward_subject, catalog.SCORE)."""

    queue: str
    subject: Callable[[str, str, int], str]
    """(tenant, request, shard) → subject of the command."""
    type: str
    """Of the command."""

    async def submit(
        self, bus: Bus, blobs: Blobs, tenant: str, request: str, shards: Sequence[bytes], *, digest: str
    ) -> None:
        """Append every shard that is neither queued nor done; a repeated call changes nothing.

        Raises AnotherRequest when `request` stands for other content, StreamFull or BusUnavailable.
        """
        done: set[str] = set()
        if not await self._declare(bus, tenant, request, Manifest(shards=len(shards), digest=digest)):
            done = set(await bus.subjects(SCORES, names.result_filter(self.queue, tenant, request)))
        if self._result(tenant, request, WHOLE) in done:
            return
        await asyncio.gather(
            *(
                self._append(bus, blobs, tenant, request, shard, data)
                for shard, data in enumerate(shards, start=1)
                if self._result(tenant, request, shard) not in done
            )
        )

    async def _declare(self, bus: Bus, tenant: str, request: str, manifest: Manifest) -> bool:
        """The first manifest stands; whether this is it, so that nothing of the request can be there yet."""
        subject = names.manifest_subject(self.queue, tenant, request)
        event = self._event(catalog.MANIFEST, tenant, request, request, manifest.model_dump_json().encode())
        try:
            await bus.append(subject, event)
        except StreamFull:
            found = await self._manifest(bus, tenant, request)
            if found is None:
                raise
            if found != manifest:
                raise AnotherRequest(f"{request} was used before, for a request with other content") from None
            return False
        return True

    async def _append(
        self, bus: Bus, blobs: Blobs, tenant: str, request: str, shard: int, data: bytes
    ) -> None:
        event = self._event(self.type, tenant, request, ids.future_id(request, shard), data)
        subject = self.subject(tenant, request, shard)
        try:
            event = await claims.lend(bus, blobs, tenant, event, claims.COMMAND_DAYS, on=subject)
            await bus.append(subject, event, expect_last=0)
        except Conflict:
            return  # it is queued already

    @again_when_unavailable
    async def join(self, bus: Bus, blobs: Blobs, tenant: str, request: str, join: Join) -> None:
        """Write the result of the whole once all shards have theirs; before that, and after, nothing happens."""
        manifest = await self._manifest(bus, tenant, request)
        if manifest is None:
            return  # older than the results are kept
        held = await bus.subjects(SCORES, names.result_filter(self.queue, tenant, request))
        wanted = [self._result(tenant, request, shard) for shard in range(1, manifest.shards + 1)]
        whole = self._result(tenant, request, WHOLE)
        if whole in held or not set(wanted) <= set(held):
            return
        stored = await asyncio.gather(*(bus.first(SCORES, subject) for subject in wanted))
        if None in stored:
            return  # they have just expired
        results = [await self._read(blobs, one) for one in stored if one is not None]
        event = self._event(catalog.RESOLVED, tenant, request, ids.future_id(request, WHOLE), join(results))
        event = await claims.lend(bus, blobs, tenant, event, RESULT_DAYS, on=whole)
        await bus.append_once(SCORES, whole, event)

    async def _manifest(self, bus: Bus, tenant: str, request: str) -> Manifest | None:
        stored = await bus.first(SCORES, names.manifest_subject(self.queue, tenant, request))
        return None if stored is None else Manifest.model_validate_json(envelope.data_of(stored.event))

    async def _read(self, blobs: Blobs, stored: Stored) -> ShardResult:
        data = await claims.data_of(blobs, stored.event)
        return data if stored.event.get_type() == catalog.RESOLVED else Failure.model_validate_json(data)

    def _result(self, tenant: str, request: str, number: int) -> str:
        return names.result_subject(self.queue, tenant, request, number)

    def _event(self, type_: str, tenant: str, request: str, id: str, data: bytes) -> CloudEvent:
        return envelope.make_event(
            type_, id=id, tenant=tenant, service=self.queue, subject=request, data=data
        )


def digest_of(data: bytes) -> str:
    """Identity of a request's content."""
    return hashlib.sha256(data).hexdigest()

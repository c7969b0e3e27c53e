"""What becomes of open sessions: those whose clients have died end, and unnamed weights of the others do not pile up.

A session is dead when nothing was heard of its client for days: no word, no command. Days in which the bus was away
do not count: nobody could be heard. Unnamed weights are for sampling at once; they go when they are a day old, nobody
has sampled from them for a day, nobody waits to, and their run has newer ones. Times are those of the bus, as far as
it knows them. Repeated, a look does no harm: it goes on where the last attempt ended.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from events import envelope, idle, names, samplers
from events.checkpoints import CheckpointEntry
from events.commands import ReleaseCommand
from events.failure import NotFound
from events.idle import LookCommand
from events.records import KINDS, RunRecord, SamplerRecord, SessionRecord
from events.streams import RECORDS, RESULTS, SAMPLE
from rekindle.types import TinkerPath
from services.checkpoint.release import Release

log = structlog.get_logger(__name__)
FRESH = timedelta(days=1)
"""Weights that were written, or sampled from, this recently are wanted. Results of samples are kept for a day."""


@dataclass(frozen=True, slots=True)
class Weights:
    """Unnamed weights, and the samplers that were opened for them."""

    entry: CheckpointEntry
    written: datetime
    """When the entry came to be as it is."""
    samplers: list[SamplerRecord]


@dataclass(slots=True)
class Sessions:
    """Looks after sessions that are open."""

    release: Release
    patience: timedelta
    """How long nothing may be heard of one."""

    async def look(self, tenant: str, command: LookCommand, now: datetime) -> None:
        """End the session if its client is dead, else drop what it does not need, and look again. Raises
        BusUnavailable.

        now: when the bus said so, however long ago that is.
        """
        late = command.is_late(now)
        try:
            session = await self.release.records.get(SessionRecord, tenant, command.session_id)
            heard = max(await self._last_heard(tenant, session), command.heard or session.created)
            if session.ended is None and not late and now - heard > self.patience:
                session = await self._end(tenant, session)
        except NotFound:
            return
        if session.ended is not None:
            await self.release(tenant, ReleaseCommand(session_id=session.session_id))
            return
        # First, so that it is looked after whatever becomes of the rest.
        await idle.plan_look(self.release.bus, tenant, session.session_id, now, heard)
        if not late:
            await self._drop_weights(tenant, session.session_id, now)

    # Sessions whose clients are dead

    async def _end(self, tenant: str, session: SessionRecord) -> SessionRecord:
        """What stands then: not ended, if the client was heard meanwhile. Raises NotFound."""

        def ended(standing: SessionRecord | None) -> SessionRecord:
            if standing is None:
                raise NotFound(session.session_id)
            silent = standing.seen == session.seen and standing.ended is None
            return standing.model_copy(update={"ended": "expired"}) if silent else standing

        log.info("session.expired", session=session.session_id)
        return await self.release.records.change(SessionRecord, tenant, session.session_id, ended)

    async def _last_heard(self, tenant: str, session: SessionRecord) -> datetime:
        """By the client's word, or the newest command or result of what is the session's, as far as they are kept."""
        id, times = session.session_id, [session.created, *([session.seen] if session.seen else [])]
        times += await self._newest(RECORDS, names.record_subject(KINDS[SessionRecord], tenant, id))
        for run in await self.release.records.all(RunRecord, tenant):
            if run.session_id == id:
                root = names.run_root(run.base, tenant, run.run_id)
                times += await self._newest(names.run_stream(run.base), f"{root}.>")
        for sampler in await self.release.records.all(SamplerRecord, tenant):
            if sampler.session_id == id:
                asked = await self._asked(tenant, sampler)
                times += [sampler.created, *asked, *await self._answered(tenant, sampler)]
        return max(times)

    async def _asked(self, tenant: str, sampler: SamplerRecord) -> list[datetime]:
        """When it was last asked for what it has not answered; none: it has answered all."""
        subjects = names.sampler_filter(sampler.base, tenant, sampler.owner, sampler.sampler_id)
        return await self._newest(SAMPLE, subjects)

    async def _answered(self, tenant: str, sampler: SamplerRecord) -> list[datetime]:
        """When it last answered, as far as that is kept."""
        return await self._newest(RESULTS, names.result_filter("sample", tenant, sampler.sampler_id))

    async def _newest(self, stream: str, subjects: str) -> list[datetime]:
        stored = await self.release.bus.last(stream, subjects)
        return [] if stored is None else [stored.time]

    # Unnamed weights

    async def _drop_weights(self, tenant: str, session_id: str, now: datetime) -> None:
        everybodys = await self.release.records.all(SamplerRecord, tenant)
        unnamed: dict[str, list[SamplerRecord]] = {}
        for one in everybodys:
            if one.ephemeral and one.session_id == session_id and one.path is not None:
                unnamed.setdefault(one.path, []).append(one)
        found = [weights for path in unnamed if (weights := await self._weights(tenant, path, unnamed[path]))]
        alive = sorted((one.entry for one in found if one.entry.alive()), key=lambda entry: entry.number)
        newest = {entry.run_id: entry.path for entry in alive}
        others = {one.path for one in everybodys if one not in unnamed.get(one.path or "", [])}
        for weights in found:
            if weights.entry.path in others or weights.entry.path in newest.values():
                continue
            if not await self._is_fresh(tenant, weights, now):
                await self._drop(tenant, weights)

    async def _weights(self, tenant: str, path: str, opened: list[SamplerRecord]) -> Weights | None:
        """None where they have not been saved yet."""
        where = TinkerPath.parse(path)
        try:
            run = await self.release.records.get(RunRecord, tenant, where.run_id)
        except NotFound:
            return None  # they went with their run
        subject = names.checkpoint_subject(run.base, tenant, run.run_id, where.kind, where.name)
        stored = await self.release.bus.last(names.run_stream(run.base), subject)
        if stored is None:
            return None
        entry = CheckpointEntry.model_validate_json(envelope.data_of(stored.event))
        return Weights(entry, stored.time, opened)

    async def _is_fresh(self, tenant: str, weights: Weights, now: datetime) -> bool:
        times = [weights.written] if weights.entry.alive() else []
        for sampler in weights.samplers:
            if await self._asked(tenant, sampler):
                return True  # it will be answered, however late
            times += [sampler.created, *await self._answered(tenant, sampler)]
        return any(now - time <= FRESH for time in times)

    async def _drop(self, tenant: str, weights: Weights) -> None:
        release, entry = self.release, weights.entry
        try:
            if entry.alive():
                await release.checkpoints.change(tenant, entry, deleted=True)
        except NotFound:
            return  # saved over at this moment, or somebody else drops it
        await release.blobs.delete(entry.blob)
        for sampler in weights.samplers:
            await samplers.close(release.bus, release.blobs, release.records, tenant, sampler)
        log.info("weights.dropped", path=entry.path)

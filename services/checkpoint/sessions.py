"""What becomes of open sessions: those whose clients have died end, and unnamed weights of the others do not pile up.

A session is dead when nothing was heard of its client for days: no word, no command. Unnamed weights are for sampling
at once; they go when they are a day old, nobody has sampled from them for a day, and their run has newer ones.
Repeated, a look does no harm: it goes on where the last attempt ended.
"""

import contextlib
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from events import idle, names, samplers
from events.commands import ReleaseCommand
from events.failure import NotFound
from events.records import RunRecord, SamplerRecord, SessionRecord
from events.streams import RESULTS, SAMPLE
from rekindle.types import TinkerPath
from services.checkpoint.release import Release

log = structlog.get_logger(__name__)
FRESH = timedelta(days=1)
"""Samplers that were used, or made, this recently are wanted. Results of samples are kept for a day."""


@dataclass(slots=True)
class Sessions:
    """Looks after sessions that are open."""

    release: Release
    patience: timedelta
    """How long nothing may be heard of one."""

    async def look(self, tenant: str, session_id: str, now: datetime) -> None:
        """End the session if its client is dead, else drop what it does not need, and look again. Raises
        BusUnavailable.
        """
        try:
            session = await self.release.records.get(SessionRecord, tenant, session_id)
            if session.ended is None and now - await self._last_heard(tenant, session) > self.patience:
                session = await self._end(tenant, session)
        except NotFound:
            return
        if session.ended is not None:
            await self.release(tenant, ReleaseCommand(session_id=session_id))
            return
        await self._drop_weights(tenant, session_id, now)
        await idle.plan_look(self.release.bus, tenant, session_id, now)

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
        """By the client's word, or the newest command or result of what is the session's."""
        times = [session.created, *([session.seen] if session.seen else [])]
        for run in await self.release.records.all(RunRecord, tenant):
            if run.session_id == session.session_id:
                root = names.run_root(run.base, tenant, run.run_id)
                times += await self._newest(names.run_stream(run.base), f"{root}.>")
        for sampler in await self._samplers(tenant, session.session_id):
            times += [sampler.created, *await self._used(tenant, sampler)]
        return max(times)

    async def _samplers(self, tenant: str, session_id: str) -> list[SamplerRecord]:
        found = await self.release.records.all(SamplerRecord, tenant)
        return [sampler for sampler in found if sampler.session_id == session_id]

    async def _used(self, tenant: str, sampler: SamplerRecord) -> list[datetime]:
        """When it was last asked, and when it last answered, as far as that is kept."""
        id = sampler.sampler_id
        asked = await self._newest(SAMPLE, names.sampler_filter(sampler.base, tenant, sampler.owner, id))
        return asked + await self._newest(RESULTS, names.result_filter("sample", tenant, id))

    async def _newest(self, stream: str, subjects: str) -> list[datetime]:
        stored = await self.release.bus.last(stream, subjects)
        return [] if stored is None else [stored.time]

    async def _drop_weights(self, tenant: str, session_id: str, now: datetime) -> None:
        found = sorted(await self._samplers(tenant, session_id), key=lambda one: one.created)
        newest = {one.owner: one.path for one in found if one.ephemeral}
        wanted = {*newest.values(), *(one.path for one in found if not one.ephemeral)}
        for sampler in found:
            if sampler.path not in wanted and not await self._is_fresh(tenant, sampler, now):
                await self._drop(tenant, sampler)

    async def _is_fresh(self, tenant: str, sampler: SamplerRecord, now: datetime) -> bool:
        times = [sampler.created, *await self._used(tenant, sampler)]
        return any(now - time <= FRESH for time in times)

    async def _drop(self, tenant: str, sampler: SamplerRecord) -> None:
        release = self.release
        assert sampler.path is not None, "unnamed weights have a path all the same"
        with contextlib.suppress(NotFound):  # dropped before, or never saved
            entry = await release.checkpoints.find(tenant, TinkerPath.parse(sampler.path))
            await release.checkpoints.change(tenant, entry, deleted=True)
            await release.blobs.delete(entry.blob)
        await samplers.close(release.bus, release.blobs, release.records, tenant, sampler)
        log.info("weights.dropped", path=sampler.path)

"""What becomes of a session's things when it ends, and of a run that is deleted.

Promises: after a release nothing of a run is left in streams or blob store but its named checkpoints and the
records that they need; deleting a run removes those too. Repeated, or at once with another, a release does no harm:
it goes on where the last attempt ended. The run's lease is taken first, so that a trainer that still holds it can
write nothing more.
"""

import contextlib
from dataclasses import dataclass

import structlog
from tenacity import retry, retry_if_exception_type, stop_after_attempt

from events import blob_keys, idle, names, samplers
from events.blobs import Blobs
from events.bus import Bus
from events.checkpoints import Checkpoints
from events.commands import ReleaseCommand
from events.failure import Conflict, NotFound
from events.lease import RunHolder
from events.record_store import Records
from events.records import RunRecord, SamplerRecord, SessionRecord

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Release:
    """Releases sessions and runs."""

    bus: Bus
    blobs: Blobs
    records: Records
    checkpoints: Checkpoints

    async def __call__(self, tenant: str, command: ReleaseCommand) -> None:
        """Do what the command says."""
        if command.run_id is not None:
            await self._delete_run(tenant, command.run_id)
        else:
            for run in await self._runs(tenant, command.session_id):
                await self._release_run(tenant, run)
            for sampler in await self.records.all(SamplerRecord, tenant):
                if sampler.session_id == command.session_id:
                    await samplers.close(self.bus, self.blobs, self.records, tenant, sampler)
        await self._forget_session(tenant, command.session_id)

    async def _runs(self, tenant: str, session_id: str) -> list[RunRecord]:
        runs = await self.records.all(RunRecord, tenant)
        return [run for run in runs if run.session_id == session_id]

    async def _delete_run(self, tenant: str, run_id: str) -> None:
        try:
            run = await self.records.get(RunRecord, tenant, run_id)
        except NotFound:
            return
        await self._release_run(tenant, run, named=True)

    async def _release_run(self, tenant: str, run: RunRecord, *, named: bool = False) -> None:
        """Everything of the run but named checkpoints, or these too; without any, its record too."""
        stream, root = names.run_stream(run.base), names.run_root(run.base, tenant, run.run_id)
        begun = bool(await self.bus.subjects(stream, f"{root}.>"))
        if begun:
            await self._seize(tenant, run, root)  # only now does nobody save anything more
        if named:
            await self._delete_named(tenant, run)
        kept = {entry.blob for entry in await self.checkpoints.of_run(tenant, run, surely=True)}
        if begun:
            for part in ("cmd.*", "result.*", "head", *(() if kept else ("checkpoint.>",)), "lease"):
                await self.bus.purge(stream, f"{root}.{part}")
        await self._drop_blobs(tenant, run, kept)
        if not kept:
            await self.records.forget(RunRecord, tenant, run.run_id)
            await self.bus.purge(stream, f"{root}.>")  # what came until nobody knew the run any more
        elif not run.closed:
            await self.records.amend(RunRecord, tenant, run.run_id, closed=True)
        await self.bus.tell(names.closed_subject(root))

    async def _delete_named(self, tenant: str, run: RunRecord) -> None:
        for entry in await self.checkpoints.of_run(tenant, run, surely=True):
            with contextlib.suppress(NotFound):  # somebody else has deleted it at this moment
                await self.checkpoints.change(tenant, entry, deleted=True)

    @retry(retry=retry_if_exception_type(Conflict), stop=stop_after_attempt(100), reraise=True)
    async def _seize(self, tenant: str, run: RunRecord, root: str) -> None:
        """Take the lease, whoever else does so at this moment: each attempt is after somebody's success."""
        await RunHolder.take(self.bus, self.blobs, run.base, tenant, root)

    async def _drop_blobs(self, tenant: str, run: RunRecord, kept: set[str]) -> None:
        folder = blob_keys.run_folder(run.base, tenant, run.run_id)
        if not kept:
            await self.blobs.delete(folder)
            return
        for kind in await self.blobs.under(folder):
            for version in await self.blobs.under(kind):
                if not any(blob.startswith(f"{version}/") for blob in kept):
                    await self.blobs.delete(version)

    async def _forget_session(self, tenant: str, session_id: str) -> None:
        """A session that has ended goes with the last of its runs."""
        try:
            session = await self.records.get(SessionRecord, tenant, session_id)
        except NotFound:
            return
        if session.ended is not None and not await self._runs(tenant, session_id):
            await self.records.delete(SessionRecord, tenant, session_id)
            await idle.drop_look(self.bus, tenant, session_id)
            log.info("session.released", session=session_id)

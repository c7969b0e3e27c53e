"""Weights leave and enter a run: files in the blob store, made real by a fenced entry in the log."""

import asyncio
import shutil
from dataclasses import dataclass

from cloudevents.core.v1.event import CloudEvent

from events import blob_keys, catalog, facts, names
from events.blobs import Blobs
from events.checkpoints import CheckpointEntry, Checkpoints, entry_event
from events.failure import NotFound, ServerError, UserError
from events.lease import LeaseLost, RunHolder
from events.record_store import Records
from events.records import RunRecord
from events.retry import again_when_unavailable
from events.weights import LoadCommand, SaveCommand
from services.model.base import BaseModel
from services.train.run import TrainRun, load_state, save_state


@dataclass(slots=True)
class Exports:
    """Saves and loads checkpoints of one base model's runs."""

    blobs: Blobs
    checkpoints: Checkpoints
    records: Records
    base: BaseModel

    async def save(
        self,
        holder: RunHolder,
        tenant: str,
        run_id: str,
        number: int,
        state: TrainRun,
        command: SaveCommand,
    ) -> tuple[CheckpointEntry, list[CloudEvent]]:
        """Write `state` (a copy that nobody changes) and its entry; returns the entry and its facts.

        The same command again finds its own entry, or that of a later one which has saved over it. Raises UserError
        when the name is taken.
        """
        run, standing = await self._look(tenant, run_id, command)
        if standing is not None and standing.number >= number:
            await self._tidy(standing)
            await self._plan_expiry(tenant, standing)
            return standing, _facts(tenant, standing, command)
        if standing is not None and standing.alive() and not command.overwrite:
            raise UserError(
                f"path: checkpoint {command.name!r} exists already; choose another name or overwrite"
            )
        entry = await self._write(holder, tenant, run, number, state, command)
        subject = names.checkpoint_subject(run.base, tenant, run.run_id, command.kind, command.name)
        try:
            await holder.write(subject, entry_event(tenant, "train", entry))
        except LeaseLost:
            _, found = await self._look(tenant, run_id, command)
            if found is None or found.blob != entry.blob:
                await self.blobs.delete(entry.blob)  # nobody will ever name it
            raise
        if standing is not None and not standing.deleted:
            await self._plan_collection(tenant, standing)
        await self._tidy(entry)
        await self._plan_expiry(tenant, entry)
        return entry, _facts(tenant, entry, command)

    @again_when_unavailable
    async def _plan_collection(self, tenant: str, entry: CheckpointEntry) -> None:
        await self.checkpoints.plan_collection(tenant, entry)

    @again_when_unavailable
    async def _plan_expiry(self, tenant: str, entry: CheckpointEntry) -> None:
        await self.checkpoints.plan_expiry(tenant, entry)

    @again_when_unavailable
    async def _look(
        self, tenant: str, run_id: str, command: SaveCommand
    ) -> tuple[RunRecord, CheckpointEntry | None]:
        """The run, and what stands under the name."""
        run = await self.records.get(RunRecord, tenant, run_id)
        return run, await self.checkpoints.latest(tenant, run, command.kind, command.name)

    async def _write(
        self,
        holder: RunHolder,
        tenant: str,
        run: RunRecord,
        number: int,
        state: TrainRun,
        command: SaveCommand,
    ) -> CheckpointEntry:
        folder = self.blobs.staging(f"save-{names.id_token(run.run_id)}-{number}")
        try:
            await asyncio.to_thread(save_state, folder, state, optimizer=command.optimizer)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        version = f"{command.name}@{number}"
        key = blob_keys.checkpoint_key(run.base, tenant, run.run_id, command.kind, version, holder.epoch)
        size = await self.blobs.put_folder(key, folder)
        return CheckpointEntry(
            run_id=run.run_id,
            base=run.base,
            kind=command.kind,
            name=command.name,
            number=number,
            step=state.step,
            lora=run.lora,
            blob=key,
            size_bytes=size,
            created=command.created,
            expires=command.expires,
            user_metadata=command.user_metadata,
            ephemeral=command.sampler_id is not None,
        )

    async def _tidy(self, entry: CheckpointEntry) -> None:
        """Remove what an earlier holder wrote of the same save before it died."""
        version, _, epoch = entry.blob.rpartition("/")
        for key in await self.blobs.under(version):
            if int(key.rpartition("/")[2]) < int(epoch):
                await self.blobs.delete(key)

    async def load(self, command: LoadCommand) -> TrainRun:
        """The state in a checkpoint. Raises ServerError when it is gone."""
        try:
            async with self.blobs.folder(command.blob) as folder:
                return await asyncio.to_thread(load_state, folder, self.base, optimizer=command.optimizer)
        except NotFound as error:
            raise ServerError(f"path: the files of {command.path} no longer exist") from error


def _facts(tenant: str, entry: CheckpointEntry, command: SaveCommand) -> list[CloudEvent]:
    type_ = catalog.CHECKPOINT_SAVED if command.kind == "weights" else catalog.WEIGHTS_PUBLISHED
    fact = facts.make_fact(
        type_,
        tenant=tenant,
        service="train",
        subject=entry.run_id,
        id=f"{entry.path}@{entry.number}",
        data={"path": entry.path, "step": entry.step, "size_bytes": entry.size_bytes},
    )
    return [fact]

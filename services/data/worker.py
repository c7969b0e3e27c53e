"""Makes versions: takes uploads in, derives, gathers rollouts; lets uploads expire, collects what was deleted; has RL
runs driven and triggers fired.

Promises: a command that comes again after a death finds its own versions; when a command is settled, well or
not, its upload, its staging folder and every file that no record names are gone.
"""

import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio.to_thread
from cloudevents.core.v1.event import CloudEvent
from pydantic import TypeAdapter

from events import blob_keys, catalog, claims, facts, ids, names
from events.edge import Edge
from events.failure import NotFound, UserError
from events.queues import Answer, Queue
from events.records import UploadRecord
from events.streams import DATA, RESULTS
from events.worker import QueueWorker
from rekindle.types.datasets import MAX_PARTS, DatasetVersion, DatasetVersions, Split
from services.data import jail, rollouts
from services.data.child import DeriveTask, IngestTask
from services.data.commands import EXPIRY, CollectCommand, DeriveCommand, GatherCommand
from services.data.datasets import Datasets, Draft
from services.data.rl.drive import drive
from services.data.rl.fires import FireCommand
from services.data.rl.queue import DriveCommand
from services.data.rl.triggers import Triggers
from services.data.settings import DataSettings
from services.data.summary import Summary

DICT = TypeAdapter(dict[str, object])


@dataclass(frozen=True, slots=True)
class Job:
    """A command that makes versions."""

    tenant: str
    id: str
    """Of its future."""
    staging: Path
    """A folder of its own; what is left in it goes with the end of the job."""

    def blob(self, part: int) -> str:
        return blob_keys.dataset_key(self.tenant, self.id, part)


class DataWorker:
    """Works off the queue of the data service."""

    def __init__(self, edge: Edge, settings: DataSettings, triggers: Triggers) -> None:
        self._edge, self._triggers = edge, triggers
        self._bus, self._blobs, self._records = edge.bus, edge.blobs, edge.records
        self._datasets = Datasets(edge.records)
        self._limits = settings.limits
        self._makers: dict[str, Callable[[Job, bytes], Awaitable[Answer]]] = {
            catalog.TAKE_IN: self._take_in,
            catalog.DERIVE: self._derive,
            catalog.GATHER_ROLLOUTS: self._gather,
        }
        queue = Queue(
            stream=DATA,
            consumer="data",
            filter=names.DATA_FILTER,
            result_subject=_result_subject,
            tenant=_tenant,
            lasting=lambda event: event.get_type() == catalog.DRIVE,
            settled=self.settled,
        )
        self._worker = QueueWorker(
            edge.bus, edge.blobs, queue, self.handle, budget=settings.tasks, activity=edge.activity
        )

    async def run(self) -> None:
        await self._worker.run()

    async def handle(self, event: CloudEvent, data: bytes) -> Answer | None:
        """Run one command. Raises UserError for what is wrong with what was sent."""
        if event.get_type() in self._makers:
            return await self._make(event, data)
        if event.get_type() == catalog.FIRE:
            await self._triggers.fire(_tenant(event), FireCommand.model_validate_json(data))
        elif event.get_type() == catalog.DRIVE:
            await drive(self._edge, _tenant(event), DriveCommand.model_validate_json(data))
        elif event.get_type() == catalog.EXPIRE_UPLOAD:
            await self._expire(_tenant(event), UploadRecord.model_validate_json(data))
        else:
            await self._collect(_tenant(event), CollectCommand.model_validate_json(data))
        return None

    async def _make(self, event: CloudEvent, data: bytes) -> Answer:
        staging = self._blobs.staging(blob_keys.staging_name(event.get_id()))
        try:
            return await self._makers[event.get_type()](Job(_tenant(event), event.get_id(), staging), data)
        finally:
            await anyio.to_thread.run_sync(_remove, staging)

    # Making versions

    async def _take_in(self, job: Job, data: bytes) -> Answer:
        upload = UploadRecord.model_validate_json(data)
        versions = await self._datasets.made_by(job.tenant, upload.name, job.id)
        if not versions:
            async with self._parts(job.tenant, upload) as paths:
                task = IngestTask(
                    limits=self._limits,
                    parent=os.getpid(),
                    paths=paths,
                    format=upload.format,
                    compression=upload.compression,
                    size_bytes=upload.size_bytes,
                    sha256=upload.sha256,
                    folder=job.staging / "version",
                )
                (summary,) = await jail.run(task)
            blob = await self._keep(job, 0, task.folder)
            draft = Draft(
                summary,
                blob,
                {"op": "upload", "sha256": upload.sha256},
                format=upload.format,
                description=upload.description,
            )
            versions = await self._datasets.add(job.tenant, upload.name, job.id, [draft])
        return _one(versions[0].about, [_uploaded(job.tenant, versions[0].about)])

    @asynccontextmanager
    async def _parts(self, tenant: str, upload: UploadRecord) -> AsyncIterator[tuple[Path, ...]]:
        try:
            async with self._blobs.gathered(blob_keys.upload_key(tenant, upload.upload_id)) as folder:
                yield tuple(sorted(folder.iterdir(), key=lambda path: int(path.name)))
        except NotFound as error:
            raise UserError("upload: it was dropped; send the file again") from error

    async def _derive(self, job: Job, data: bytes) -> Answer:
        command = DeriveCommand.model_validate_json(data)
        how = DICT.validate_json(command.derivation.model_dump_json(exclude_none=True))
        try:
            source = await self._datasets.version(job.tenant, command.name, command.version)
            versions = await self._datasets.derived(job.tenant, command.name, command.version, how)
            drafts = []
            if len(versions) != len(_parts_of(command)):  # never made, or partly deleted since
                async with self._blobs.folder(source.blob) as folder:
                    drafts = await self._derived(job, command, folder, how)
        except NotFound as error:
            raise UserError(str(error)) from error
        if drafts:
            versions = await self._datasets.add(job.tenant, command.name, job.id, drafts)
        if isinstance(command.derivation, Split):
            found = DatasetVersions(versions=tuple(one.about for one in versions))
            return Answer(found.model_dump_json().encode())
        return _one(versions[0].about)

    async def _derived(
        self, job: Job, command: DeriveCommand, source: Path, how: dict[str, object]
    ) -> list[Draft]:
        parts = _parts_of(command)
        folders = tuple(job.staging / str(number) for number in range(len(parts)))
        task = DeriveTask(
            limits=self._limits,
            parent=os.getpid(),
            source=source,
            derivation=command.derivation,
            folders=folders,
        )
        summaries = await jail.run(task)
        blobs = [await self._keep(job, number, folder) for number, folder in enumerate(folders)]
        return [
            Draft(summary, blob, how, parent=command.version, split=part)
            for summary, blob, part in zip(summaries, blobs, parts, strict=True)
        ]

    async def _gather(self, job: Job, data: bytes) -> Answer:
        command = GatherCommand.model_validate_json(data)
        versions = await self._datasets.made_by(job.tenant, command.name, job.id)
        if not versions:
            summary = await self._gathered(job, command)
            blob = await self._keep(job, 0, job.staging / "version")
            draft = Draft(summary, blob, {"op": "rollouts", "run_id": command.run_id})
            versions = await self._datasets.add(job.tenant, command.name, job.id, [draft])
        return _one(versions[0].about)

    async def _gathered(self, job: Job, command: GatherCommand) -> Summary:
        path = job.staging / "rollouts.jsonl"
        if not await rollouts.gather(self._bus, self._blobs, job.tenant, command.run_id, path):
            raise UserError(f"run {command.run_id!r} has sampled nothing in the days that facts are kept")
        task = IngestTask(
            limits=self._limits,
            parent=os.getpid(),
            paths=(path,),
            format="jsonl",
            compression="none",
            size_bytes=path.stat().st_size,
            sha256=None,
            folder=job.staging / "version",
        )
        (summary,) = await jail.run(task)
        return summary

    async def _keep(self, job: Job, part: int, folder: Path) -> str:
        """Move a version's files into the store, where they do not exist until a record names them."""
        blob = job.blob(part)
        await self._blobs.put_folder(blob, folder)
        return blob

    # Ending them

    async def settled(self, event: CloudEvent) -> None:
        """The command has its result: whatever it leaves behind goes."""
        if event.get_type() not in (*self._makers, catalog.FIRE):
            return
        tenant = _tenant(event)
        data = await claims.data_of(self._blobs, event)
        if event.get_type() == catalog.FIRE:
            if await self._bus.first(RESULTS, _result_subject(event)) is not None:  # only failures have one
                await self._triggers.given_up(tenant, FireCommand.model_validate_json(data))
            return
        if event.get_type() == catalog.TAKE_IN:
            upload = UploadRecord.model_validate_json(data)
            await self._drop(tenant, upload.upload_id, upload.attempt)
        await self._drop_unnamed(tenant, event)
        _remove(self._blobs.staging(blob_keys.staging_name(event.get_id())))

    async def _drop(self, tenant: str, upload_id: str, attempt: int) -> None:
        """Remove an upload that stands at this attempt; one that was announced since is another."""
        stands = await self._attempt(tenant, upload_id)
        if stands in (attempt, None):
            await self._blobs.delete(blob_keys.upload_key(tenant, upload_id))
        if stands == attempt:
            await self._records.delete(UploadRecord, tenant, upload_id)

    async def _attempt(self, tenant: str, upload_id: str) -> int | None:
        """None if there is no such upload."""
        try:
            return (await self._records.get(UploadRecord, tenant, upload_id)).attempt
        except NotFound:
            return None

    async def _drop_unnamed(self, tenant: str, event: CloudEvent) -> None:
        """Files of versions that never got a number, because others stand in their stead or it failed."""
        named = {
            one.blob
            for one in await self._datasets.made_by(tenant, event.get_subject() or "", event.get_id())
        }
        for part in range(MAX_PARTS if event.get_type() == catalog.DERIVE else 1):
            if (blob := blob_keys.dataset_key(tenant, event.get_id(), part)) not in named:
                await self._blobs.delete(blob)

    async def _expire(self, tenant: str, upload: UploadRecord) -> None:
        """Drop an upload that nobody went on with, unless a version is being made of it."""
        owner = ids.data_id(upload.upload_id)
        later = names.later_subject(names.data_subject(tenant, owner, EXPIRY))
        if await self._bus.first(DATA, later) is not None:
            return  # put off while this waited
        attempt = await self._attempt(tenant, upload.upload_id) or 0
        if attempt:
            queued = await self._bus.first(DATA, names.data_subject(tenant, owner, attempt))
            done = await self._bus.first(RESULTS, names.result_subject("data", tenant, owner, attempt))
            if queued or done:
                return
        await self._drop(tenant, upload.upload_id, attempt)

    async def _collect(self, tenant: str, command: CollectCommand) -> None:
        await self._blobs.delete(command.blob)
        await self._datasets.collected(tenant, command.name, command.blob)


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def _parts_of(command: DeriveCommand) -> list[str | None]:
    """Names of the versions to be made; one without a name unless it is a split."""
    return list(command.derivation.parts) if isinstance(command.derivation, Split) else [None]


def _one(version: DatasetVersion, said: list[CloudEvent] | None = None) -> Answer:
    return Answer(version.model_dump_json().encode(), facts=said or [])


def _uploaded(tenant: str, version: DatasetVersion) -> CloudEvent:
    return facts.make_fact(
        catalog.DATASET_UPLOADED,
        tenant=tenant,
        service="data",
        subject=version.name,
        id=f"dataset.uploaded/{version.name}@{version.version}",
        data=version.model_dump(mode="json"),
    )


def _tenant(event: CloudEvent) -> str:
    return names.tenant_of(event.get_source())


def _result_subject(event: CloudEvent) -> str:
    owner, number = ids.split_future_id(event.get_id())
    return names.result_subject("data", _tenant(event), owner, number)

"""Snapshots: the state of a run behind some number, so that its log need not be replayed from the beginning.

Promises the order of things: blob, then the fenced head that names it, then the purge of what it contains, then
the deletion of older blobs. A crash between any two leaves what a later holder can go on from; blobs that no
head names are removed when the run is taken. Taken only of a state whose every command has a durable result.
"""

import asyncio
import shutil
from dataclasses import dataclass

import structlog

from events import blob_keys, catalog, envelope, names
from events.blobs import Blobs
from events.failure import BlobsUnavailable, NotFound
from events.lease import Head, LeaseLost
from events.order import Entry
from services.model.base import BaseModel
from services.train.held import HeldRun
from services.train.run import TrainRun, load_state, save_state

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Snapshots:
    """Writes and reads the snapshots of one base model's runs."""

    blobs: Blobs
    name: str
    """Of the base model."""
    base: BaseModel

    async def save(
        self, run: HeldRun, number: int, state: TrainRun | None, *, answer: str | None = None
    ) -> None:
        """Make `state`, a copy that nobody changes, the one behind `number`; the log begins after it then.

        Every command up to `number` has its result, or is `number` itself and gets `answer` when this is done.
        """
        blob = None if state is None else await self._write(run, number, state)
        head = Head(number=number, blob=blob, epoch=run.ours.epoch, answer=answer)
        older = run.head
        try:
            await self._move(run, head)
        except LeaseLost:
            if blob is not None and (await run.ours.head()).blob != blob:
                await self.blobs.delete(blob)  # nobody will ever name it
            raise
        if answer is None:
            await self.purge(run, number)
        if older.blob is not None:
            await self.blobs.delete(older.blob)

    async def _write(self, run: HeldRun, number: int, state: TrainRun) -> str:
        folder = self.blobs.staging(f"snapshot-{names.id_token(run.run_id)}")
        try:
            await asyncio.to_thread(save_state, folder, state, optimizer=True, gradients=True)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        key = blob_keys.snapshot_key(self.name, run.tenant, run.run_id, number, run.ours.epoch)
        await self.blobs.put_folder(key, folder)
        return key

    async def _move(self, run: HeldRun, head: Head) -> None:
        event = envelope.make_event(
            catalog.HEAD,
            id=f"{run.root}@{head.number}-{head.epoch}{'-released' if head.released else ''}",
            tenant=run.tenant,
            service="train",
            subject=run.run_id,
            data=head.model_dump_json().encode(),
        )
        await run.ours.write(f"{run.root}.head", event)
        run.head = head

    async def purge(self, run: HeldRun, number: int) -> None:
        """Remove the commands up to `number`, which the head contains and which all have results."""
        gone = [entry for n, entry in run.entries.items() if n <= number]
        kept = [entry for n, entry in run.entries.items() if n > number] + run.order.beyond()
        if gone:
            await run.ours.purge(gone, _before(gone, kept))
        run.begin_at(run.head)

    async def release(self, run: HeldRun) -> None:
        """Say that the run is free."""
        await self._move(run, run.head.model_copy(update={"released": True, "epoch": run.ours.epoch}))

    async def load(self, run: HeldRun) -> None:
        """The state that the head contains. Raises BlobsUnavailable."""
        if run.head.blob is not None:
            try:
                async with self.blobs.folder(run.head.blob) as folder:
                    run.state = await asyncio.to_thread(
                        load_state, folder, self.base, optimizer=True, gradients=True
                    )
            except NotFound as error:  # what a head names is there: the store has lost it, or is another one
                raise BlobsUnavailable(f"run {run.run_id!r}: its snapshot is not in the store") from error
        run.applied = run.head.number + 1

    async def tidy(self, run: HeldRun) -> None:
        """Remove blobs that no head names: what a holder before us wrote and died. Never those of one after us."""
        for key in await self.blobs.under(blob_keys.snapshots_key(self.name, run.tenant, run.run_id)):
            if key != run.head.blob and int(key.rpartition("-")[2]) < run.ours.epoch:
                log.info("snapshot.orphan", run=run.run_id, blob=key)
                await self.blobs.delete(key)


def _before(gone: list[Entry], kept: list[Entry]) -> int:
    """A place in the stream up to which no kept command lies, and all that is gone if possible."""
    return min([max(entry.sequence for entry in gone) + 1, *(entry.sequence for entry in kept)])

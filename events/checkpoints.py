"""Checkpoint entries: which adapters exist, where their files lie, until when.

An entry is written once by the holder of the run, under its fence, and is the only thing that makes a blob
exist. Deleting, publishing and changing the time to live append a newer entry on the same subject.
"""

import contextlib
from datetime import UTC, datetime, timedelta

from cloudevents.core.v1.event import CloudEvent
from pydantic import BaseModel, ConfigDict

from events import catalog, envelope, names
from events.bus import Bus
from events.failure import Conflict, NotFound
from events.reads import Stored
from events.record_store import Records
from events.records import LoraShape, ModelRecord, PublishedRecord, RunRecord
from rekindle.types import InvalidField, TinkerPath
from rekindle.types.keys import EVERYONE
from rekindle.types.paths import Kind

KEPT_HOURS = 24
"""For so long the files of an entry stay that was saved over: loads and samples that wait name them."""


class CheckpointEntry(BaseModel):
    """One saved adapter version; immutable, its path is its identity."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run_id: str
    base: str
    kind: Kind
    """`weights` (with optimizer state), `sampler_weights` or `external_weights`."""
    name: str
    number: int
    """The command that saved it: the same command again finds its own entry."""
    step: int
    """Optimizer steps behind these weights: the policy version."""
    lora: LoraShape
    blob: str
    """Key of the folder in the blob store."""
    size_bytes: int
    created: datetime
    expires: datetime | None = None
    user_metadata: dict[str, str] = {}
    ephemeral: bool = False
    """Not listed; lives as long as the session."""
    public: bool = False
    deleted: bool = False

    @property
    def path(self) -> str:
        return str(TinkerPath(self.run_id, self.kind, self.name))

    def alive(self) -> bool:
        return not self.deleted and (self.expires is None or self.expires > datetime.now(UTC))


class Checkpoints:
    """Finds checkpoint entries."""

    def __init__(self, bus: Bus, records: Records) -> None:
        self._bus = bus
        self._records = records

    async def find(self, tenant: str, path: TinkerPath) -> CheckpointEntry:
        """The living entry of a path. Raises NotFound."""
        run = await self._records.get(RunRecord, tenant, path.run_id)
        entry = await self.latest(tenant, run, path.kind, path.name)
        if entry is None or not entry.alive():
            raise NotFound(f"checkpoint {path} does not exist")
        return entry

    async def readable(self, tenant: str, path: TinkerPath) -> CheckpointEntry:
        """The living entry of a path of the tenant's own, or that another has published. Raises NotFound."""
        owner = await self.owner(tenant, path)
        entry = await self.find(owner, path)
        if owner != tenant and not entry.public:
            raise NotFound(f"checkpoint {path} does not exist")
        return entry

    async def owner(self, tenant: str, path: TinkerPath) -> str:
        """Whose checkpoint a path names, as far as the tenant can know. Its entry says whether it may be read."""
        try:
            await self._records.get(RunRecord, tenant, path.run_id)
        except NotFound:
            with contextlib.suppress(NotFound):
                return (await self._records.get(PublishedRecord, EVERYONE, str(path))).tenant
        return tenant

    async def publish(self, tenant: str, entry: CheckpointEntry) -> None:
        """Let all tenants read a checkpoint. Raises NotFound, InvalidField for a path that is another's already."""
        mine = PublishedRecord(tenant=tenant)
        if await self._records.change(PublishedRecord, EVERYONE, entry.path, lambda old: old or mine) != mine:
            raise InvalidField("path", f"{entry.path} is published by somebody else")
        await self.change(tenant, entry, public=True)

    async def withdraw(self, tenant: str, entry: CheckpointEntry) -> None:
        """Let nobody else read it any more. Raises NotFound."""
        await self.change(tenant, entry, public=False)
        await self._unlist(tenant, entry)

    async def _unlist(self, tenant: str, entry: CheckpointEntry) -> None:
        """Nobody else finds it any more; what another has published under its path stays."""
        with contextlib.suppress(NotFound):
            if (await self._records.get(PublishedRecord, EVERYONE, entry.path)).tenant == tenant:
                await self._records.delete(PublishedRecord, EVERYONE, entry.path)

    async def latest(self, tenant: str, run: RunRecord, kind: Kind, name: str) -> CheckpointEntry | None:
        """The newest entry under a name, dead or alive."""
        subject = names.checkpoint_subject(run.base, tenant, run.run_id, kind, name)
        stored = await self._bus.last(names.run_stream(run.base), subject)
        return None if stored is None else _entry(stored)

    async def of_run(self, tenant: str, run: RunRecord, *, surely: bool = False) -> list[CheckpointEntry]:
        """Listed entries of one run, newest first; `surely`: for who deletes what is not among them."""
        subjects = names.run_subject(run.base, tenant, run.run_id, "checkpoint.>")
        return await self._listed(run.base, subjects, surely=surely)

    async def of_tenant(self, tenant: str) -> list[CheckpointEntry]:
        """Listed entries of all runs of a tenant, newest first."""
        found: list[CheckpointEntry] = []
        for model in await self._records.all(ModelRecord, EVERYONE):
            root = f"run.{names.token(model.name)}.{names.token(tenant)}.*.checkpoint.>"
            found += await self._listed(model.name, root)
        return sorted(found, key=lambda entry: entry.created, reverse=True)

    async def _listed(self, base: str, subject_filter: str, *, surely: bool = False) -> list[CheckpointEntry]:
        stored = await self._bus.last_of_each(names.run_stream(base), subject_filter, surely=surely)
        entries = [_entry(one) for one in stored]
        listed = [entry for entry in entries if entry.alive() and not entry.ephemeral]
        return sorted(listed, key=lambda entry: entry.created, reverse=True)

    async def change(self, tenant: str, entry: CheckpointEntry, **changes: object) -> CheckpointEntry:
        """Append a newer entry by somebody other than the run's holder: deleted, published, other expiry.

        Raises NotFound when `entry` has meanwhile been deleted, or saved over.
        """
        subject = names.checkpoint_subject(entry.base, tenant, entry.run_id, entry.kind, entry.name)
        while True:
            stored = await self._bus.last(names.run_stream(entry.base), subject)
            standing = None if stored is None else _entry(stored)
            if stored is None or standing is None or standing.number != entry.number or not standing.alive():
                raise NotFound(f"checkpoint {entry.path} does not exist")
            changed = standing.model_copy(update=changes)
            with contextlib.suppress(Conflict):
                event = entry_event(tenant, "checkpoint", changed)
                await self._bus.append(subject, event, expect_last=stored.sequence)
                if changed.deleted and changed.public:
                    await self._unlist(tenant, changed)
                return changed

    async def plan_expiry(self, tenant: str, entry: CheckpointEntry) -> None:
        """Have an entry looked at when its time to live has passed, if it has one."""
        if entry.expires is not None:
            event = entry_event(tenant, "checkpoint", entry, catalog.EXPIRE_CHECKPOINT)
            at = entry.expires + timedelta(seconds=1)  # plans are kept to the second
            await self._bus.append_later(names.ttl_subject(tenant, f"{entry.path}@{entry.number}"), event, at)

    async def plan_collection(self, tenant: str, entry: CheckpointEntry) -> None:
        """Have the files of an entry that was saved over removed, when no command that names them waits any more."""
        event = entry_event(tenant, "checkpoint", entry, catalog.COLLECT)
        subject = names.collect_subject(tenant, f"{entry.path}@{entry.number}")
        await self._bus.append_later(subject, event, datetime.now(UTC) + timedelta(hours=KEPT_HOURS))

    async def expire(self, tenant: str, entry: CheckpointEntry) -> str | None:
        """Mark an entry deleted whose time has passed; returns the blob to remove.

        None when there is none: it was given more time, which is planned, or it was saved over. Of one that is marked
        already the blob may still be there: whoever marked it may have died over that.
        """
        subject = names.checkpoint_subject(entry.base, tenant, entry.run_id, entry.kind, entry.name)
        while (stored := await self._bus.last(names.run_stream(entry.base), subject)) is not None:
            standing = _entry(stored)
            if standing.number != entry.number:
                return None
            if standing.deleted:
                return standing.blob
            if standing.alive():
                await self.plan_expiry(tenant, standing)
                return None
            event = entry_event(tenant, "checkpoint", standing.model_copy(update={"deleted": True}))
            with contextlib.suppress(Conflict):
                await self._bus.append(subject, event, expect_last=stored.sequence)
                if standing.public:
                    await self._unlist(tenant, standing)
                return standing.blob
        return None


def _entry(stored: Stored) -> CheckpointEntry:
    return CheckpointEntry.model_validate_json(envelope.data_of(stored.event))


def entry_event(
    tenant: str, service: str, entry: CheckpointEntry, type_: str = catalog.CHECKPOINT
) -> CloudEvent:
    return envelope.make_event(
        type_,
        id=f"{entry.path}@{entry.number}",
        tenant=tenant,
        service=service,
        subject=entry.run_id,
        data=entry.model_dump_json().encode(),
    )

"""Small named facts of the world: models, sessions, runs, samplers, uploads, datasets, functions, RL runs, triggers.

Runs and samplers are written once (the first write wins) and therefore cached; sessions and models may change.
"""

import contextlib
from collections.abc import Callable
from datetime import datetime
from typing import Literal, TypeVar

from cachetools import LRUCache
from pydantic import BaseModel, ConfigDict

from events import catalog, envelope, names
from events.bus import Bus
from events.failure import Conflict, Failure, NotFound
from events.reads import Stored
from events.streams import RECORDS
from rekindle.types import TinkerPath
from rekindle.types.datasets import Compression, DatasetVersion, Format
from rekindle.types.requests import ServiceInfo
from rekindle.types.rewards import FunctionInfo, SandboxInfo
from rekindle.types.rl import RlRunSpec, TriggerSpec

EVERYONE = "everyone"
"""Tenant of what all tenants share."""


class Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelRecord(Record):
    """A base model that is served. Example: ModelRecord(name="Qwen/Qwen3-8B", source="Qwen/Qwen3-8B", …)."""

    name: str
    """What clients call it."""
    source: str
    """Where weights and tokenizer come from (`events.model_files`)."""
    arch: str
    vocab_size: int
    context_length: int
    """Tokens of prompt and completion together."""
    trainable: bool = True
    sampleable: bool = True


class SessionRecord(Record):
    """One client's session; runs and samplers belong to it."""

    session_id: str
    created: datetime
    tags: list[str] = []
    user_metadata: dict[str, str] = {}
    project_id: str | None = None
    display_name: str | None = None
    ended: Literal["success", "errored", "interrupted"] | None = None
    """How the client ended it; None = not ended."""


class LoraShape(Record):
    """Which layers an adapter trains, and how it starts."""

    rank: int
    seed: int
    train_attn: bool = True
    train_mlp: bool = True
    train_unembed: bool = True


class RunRecord(Record):
    """A training run: fixed at its creation."""

    run_id: str
    session_id: str
    base: str
    lora: LoraShape
    created: datetime
    user_metadata: dict[str, str] = {}
    loaded_from: str | None = None
    """Checkpoint path that it starts from."""
    rejected: Failure | None = None
    """Why it never came to be; then nothing else of it exists."""
    closed: bool = False
    """Its session has ended: only named checkpoints are left."""


class SamplerRecord(Record):
    """What a sampling session samples from."""

    sampler_id: str
    session_id: str
    base: str
    path: str | None
    """Checkpoint path of the adapter, None = the bare base model."""
    ephemeral: bool = False
    """The adapter has no name of its own and ends with the session."""
    created: datetime
    rejected: Failure | None = None

    @property
    def owner(self) -> str:
        """The training run whose adapter it is, or the session of a bare base model."""
        return TinkerPath.parse(self.path).run_id if self.path else self.session_id


class ServiceRecord(Record):
    """How a service fares, as the dispatcher sees it."""

    about: ServiceInfo


class UploadRecord(Record):
    """A file that is being sent, in parts."""

    upload_id: str
    """Derives from all that was announced."""
    name: str
    format: Format
    compression: Compression
    size_bytes: int
    sha256: str
    part_bytes: int
    description: str | None = None
    created: datetime
    attempt: int = 0
    """Which command makes a version of it; 0 = parts are still being sent."""


class StoredVersion(Record):
    """A version and where it lies."""

    about: DatasetVersion
    blob: str
    """Key of its folder."""
    made_by: str
    """Id of the request: the same command again finds its own versions."""


class DatasetRecord(Record):
    """A dataset: all of it that must agree. It stays when all versions are deleted, so that no number returns."""

    name: str
    versions: tuple[StoredVersion, ...] = ()
    """Oldest first."""
    last: int = 0
    """The highest number given so far."""
    gone: tuple[str, ...] = ()
    """Blobs of deleted versions that have not been collected yet."""


class RowsRef(Record):
    """The rows of a version, as they stay whatever becomes of the dataset's name."""

    name: str
    version: int
    sha256: str
    blob: str
    """Key of the version's folder."""
    rows: int
    """How many of them are used, from the first."""


class RlRunRecord(Record):
    """A server-side RL run: all of it that is fixed at its creation."""

    run_id: str
    """Of its session too."""
    spec: RlRunSpec
    """With nothing left open: versions and seeds are numbers."""
    digest: str
    """sha256 of the spec as it was sent: another one under the same key is a mistake."""
    base: str
    lora: LoraShape
    dataset: RowsRef
    held_out: RowsRef | None = None
    """What it is evaluated on; None: it is not."""
    trigger: str | None = None
    """What started it; None: a person."""
    created: datetime

    @property
    def training_run(self) -> str:
        return names.model_id(self.run_id, 0)


class TriggerRecord(Record):
    """What a tenant wants to happen when a fact is said."""

    spec: TriggerSpec
    first: int
    """Place in the stream of facts from which on it sees them: those from before it was made are none of its."""
    created: datetime


class FunctionRecord(Record):
    """A reward function of a tenant's."""

    name: str
    versions: tuple[FunctionInfo, ...]
    """At least one, the one registered last at the end."""


class FunctionSource(Record):
    """The file of one version. Example: FunctionSource(name="brevity", version="9f86…", source="def …")."""

    name: str
    version: str
    source: str


class SandboxRecord(Record):
    """What holds untrusted code, as the reward replica that started last has found it."""

    found: SandboxInfo


class PublishedRecord(Record):
    """Whose a checkpoint is that others may read. The entry itself decides: it may have been withdrawn since."""

    tenant: str


KINDS: dict[type[Record], str] = {
    ModelRecord: "model",
    ServiceRecord: "service",
    SessionRecord: "session",
    RunRecord: "run",
    SamplerRecord: "sampler",
    UploadRecord: "upload",
    DatasetRecord: "dataset",
    TriggerRecord: "trigger",
    RlRunRecord: "rl_run",
    FunctionRecord: "function",
    FunctionSource: "source",
    SandboxRecord: "sandbox",
    PublishedRecord: "published",
}
IMMUTABLE = frozenset({RunRecord, SamplerRecord, RlRunRecord})

R = TypeVar("R", bound=Record)


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
        stored = await self._bus.last(RECORDS, subject)
        if stored is None:
            raise NotFound(f"{KINDS[kind]} {key!r} does not exist")
        return self._remember(kind, stored)

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
            stored = await self._bus.last(RECORDS, subject)
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
        await self._bus.purge(RECORDS, names.record_subject(KINDS[kind], tenant, key))

    async def start(self) -> None:
        """Hear of records that are forgotten, so that none is remembered here that is gone."""
        await self._bus.listen(names.forgotten_subject("record.>"), self._forgotten)

    def _forgotten(self, subject: str) -> None:
        self._cache.pop(subject.removeprefix(names.forgotten_subject("")), None)

    async def amend(self, kind: type[R], tenant: str, key: str, **changes: object) -> None:
        """Change a record that others remember; nothing happens if there is none any more."""
        subject = names.record_subject(KINDS[kind], tenant, key)
        while (stored := await self._bus.last(RECORDS, subject)) is not None:
            record = self._remember(kind, stored).model_copy(update=changes)
            with contextlib.suppress(Conflict):
                await self._write(tenant, key, record, expect_last=stored.sequence)
                return await self._say_forgotten(subject)

    async def forget(self, kind: type[Record], tenant: str, key: str) -> None:
        """Remove a record of any kind, also from what others remember."""
        subject = names.record_subject(KINDS[kind], tenant, key)
        await self._bus.purge(RECORDS, subject)
        await self._say_forgotten(subject)

    async def _say_forgotten(self, subject: str) -> None:
        self._cache.pop(subject, None)
        await self._bus.tell(names.forgotten_subject(subject))

    async def all(self, kind: type[R], tenant: str) -> list[R]:
        """All records of a kind, in no particular order."""
        found = await self._bus.last_of_each(RECORDS, names.record_filter(KINDS[kind], tenant))
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

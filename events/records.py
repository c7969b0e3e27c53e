"""Small named facts of the world: models, sessions, runs, samplers, uploads, datasets, functions, RL runs, triggers.

What is known of each; record_store.py reads and writes them. Runs and samplers are written once (the first write
wins); sessions and models may change.
"""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict

from events import ids
from events.failure import Failure
from rekindle.types import TinkerPath
from rekindle.types.datasets import Compression, DatasetVersion, Format
from rekindle.types.requests import ServiceInfo
from rekindle.types.rewards import FunctionInfo, SandboxInfo
from rekindle.types.rl import RlRunSpec, TriggerSpec


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
    seen: datetime | None = None
    """When the client last said that it lives, give or take an hour; None = never."""
    ended: Literal["success", "errored", "interrupted", "expired"] | None = None
    """How the client ended it, or that nothing was heard of it for too long; None = not ended."""


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
    session: str | None = None
    """Id of the session in which all lies that it makes, its state included; no other run has it, also none that gets
    this run's id when it is deleted. None: the run's id, as records from before have it."""
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
    def session_id(self) -> str:
        return self.session or self.run_id

    @property
    def training_run(self) -> str:
        return ids.model_id(self.session_id, 0)


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
"""Written once."""

"""JSON messages about what exists: training runs and checkpoints."""

from typing import Annotated, Literal

from pydantic import Field

from rekindle.types.fields import Count, Id, Message, Metadata, ModelName, Path, Time, TtlSeconds
from rekindle.types.models import OptimizerConfig
from rekindle.types.paths import CheckpointType

MAX_PAGE = 1000


class Cursor(Message):
    """Where in a list a page lies."""

    offset: Count
    limit: Count
    """The most that was asked for."""
    total_count: Count
    """All there are."""


class PageQuery(Message):
    """Query of a list."""

    offset: Count = 0
    limit: Annotated[int, Field(ge=1, le=MAX_PAGE)] = 20
    access_scope: Literal["owned", "accessible"] = "owned"
    """`accessible`: published ones of others as well."""


class CheckpointsQuery(PageQuery):
    """Query of the list of all checkpoints, whose pages are longer."""

    limit: Annotated[int, Field(ge=1, le=MAX_PAGE)] = 100


class Checkpoint(Message):
    """One entry of the catalogue. Example: `weights/000020` of run `s1:train:0`."""

    checkpoint_id: str
    """`<kind>/<name>`, see `TinkerPath`."""
    checkpoint_type: CheckpointType
    time: Time
    """When it was saved."""
    tinker_path: Path
    size_bytes: Count | None = None
    public: bool = False
    """Whether others may read it."""
    user_metadata: Metadata | None = None
    expires_at: Time | None = None
    """None: never."""


class CheckpointsListResponse(Message):
    checkpoints: tuple[Checkpoint, ...]
    """Newest first."""
    cursor: Cursor | None = None
    """None: the list is whole."""


class TrainingRun(Message):
    """A model and what became of it."""

    training_run_id: Id
    """Its model id."""
    base_model: ModelName
    model_owner: str
    is_lora: bool
    last_request_time: Time
    corrupted: bool = False
    lora_rank: Count | None = None
    last_checkpoint: Checkpoint | None = None
    """The newest of kind `weights`."""
    last_sampler_checkpoint: Checkpoint | None = None
    """The newest of kind `sampler_weights`."""
    user_metadata: Metadata | None = None


class TrainingRunsResponse(Message):
    training_runs: tuple[TrainingRun, ...]
    cursor: Cursor


class WeightsInfoRequest(Message):
    tinker_path: Path


class WeightsInfoResponse(Message):
    """What a client must know to go on from a checkpoint."""

    base_model: ModelName
    is_lora: bool
    optimizer_config: OptimizerConfig = OptimizerConfig()
    lora_rank: Count | None = None
    train_unembed: bool | None = None
    train_mlp: bool | None = None
    train_attn: bool | None = None


class CheckpointTtlRequest(Message):
    """Body of `PUT …/ttl`."""

    ttl_seconds: TtlSeconds | None = None
    """From now on; None: never expires."""


class CopyWeightsRequest(Message):
    """A copy under a run of its own, in a session or a project."""

    source_path: Path
    session_id: Id | None = None
    model_seq_id: Count | None = None
    """Number of the new run among the session's models."""
    destination_project_id: Id | None = None
    ttl_seconds: TtlSeconds | None = None
    """None: kept for ever; the source's expiry is not inherited."""
    weights_access_token: str | None = None


class CopyWeightsResponse(Message):
    tinker_path: Path


class ExternalWeightsUrlsResponse(Message):
    urls: dict[str, str]
    """URL by file, relative to the checkpoint; each works without an API key."""
    expires: Time

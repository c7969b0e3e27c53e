"""JSON messages of training: a model, its optimizer steps and its checkpoints.

A command names its model and its number (`seq_id`); numbers are used once and commands run in their order.
Training data travels as protobuf, see `datums`.
"""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from rekindle.types.errors import InvalidField
from rekindle.types.fields import (
    MAX_INT64,
    CheckpointName,
    Count,
    ExactMessage,
    Id,
    Message,
    Metadata,
    ModelName,
    Path,
    SeqId,
    TtlSeconds,
)

MAX_LORA_RANK = 512
Seed = Annotated[int, Field(ge=-MAX_INT64 - 1, le=MAX_INT64)]


def _only_adamw(kind: Any) -> Any:
    if kind != "adamw":
        raise ValueError(f"{kind!r} is not supported; supported: adamw")
    return kind


class LoraConfig(ExactMessage):
    """The adapter. Its scaling is 32 / rank, its dropout 0."""

    rank: Annotated[int, Field(ge=1, le=MAX_LORA_RANK)]
    seed: Seed | None = None
    """Of the random half of the adapter; None: the server chooses one."""
    train_unembed: bool = True
    """The output matrix."""
    train_mlp: bool = True
    train_attn: bool = True

    @model_validator(mode="after")
    def _trains_something(self) -> "LoraConfig":
        if not (self.train_unembed or self.train_mlp or self.train_attn):
            raise InvalidField(
                "train_attn", "at least one of train_attn, train_mlp, train_unembed must be true"
            )
        return self


class OptimizerConfig(Message):
    """The kind of optimizer, fixed for a model's life; its parameters come with every step."""

    type: Annotated[Literal["adamw"], BeforeValidator(_only_adamw)] = "adamw"


class CreateModelRequest(Message):
    """A new adapter on a base model, command 0 of the model `{session_id}:train:{model_seq_id}`."""

    session_id: Id
    model_seq_id: Count
    base_model: ModelName
    lora_config: LoraConfig
    """Required: only adapters are trained here."""
    optimizer_config: OptimizerConfig = OptimizerConfig()
    user_metadata: Metadata | None = None
    type: Literal["create_model"] = "create_model"


class CreateModelResponse(Message):
    model_id: Id
    type: Literal["create_model"] = "create_model"


class LoadWeightsRequest(Message):
    """Weights into a model: an existing one (model_id, seq_id), or a new one (session_id, model_seq_id)."""

    path: Path
    optimizer: bool
    """Whether moments and step count are restored too; False: they start fresh."""
    model_id: Id | None = None
    seq_id: SeqId | None = None
    session_id: Id | None = None
    model_seq_id: Count | None = None
    base_model: ModelName | None = None
    """For a new model: must be compatible with the checkpoint's. None: the checkpoint's."""
    user_metadata: Metadata | None = None
    optimizer_config: OptimizerConfig | None = None
    weights_access_token: str | None = None
    type: Literal["load_weights"] = "load_weights"

    @model_validator(mode="after")
    def _has_one_form(self) -> "LoadWeightsRequest":
        given = {
            name
            for name in ("model_id", "seq_id", "session_id", "model_seq_id")
            if getattr(self, name) is not None
        }
        if given not in ({"model_id", "seq_id"}, {"session_id", "model_seq_id"}):
            found = ", ".join(sorted(given)) or "neither"
            raise InvalidField(
                "model_id", f"expected model_id and seq_id, or session_id and model_seq_id; got {found}"
            )
        return self

    @property
    def creates_model(self) -> bool:
        """Whether this is command 0 of a new model."""
        return self.session_id is not None


class LoadWeightsResponse(Message):
    path: Path | None = None
    model_id: Id | None = None
    type: Literal["load_weights"] = "load_weights"


class AdamParams(ExactMessage):
    """One AdamW step. Nothing carries over from the step before."""

    learning_rate: Annotated[float, Field(ge=0)] = 1e-4
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.95
    eps: Annotated[float, Field(gt=0)] = 1e-12
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Decoupled."""
    grad_clip_norm: Annotated[float, Field(ge=0)] = 0.0
    """Largest global L2 norm of the gradient; 0: no clipping."""


class OptimStepRequest(ExactMessage):
    """Applies the accumulated gradient once and clears it."""

    model_id: Id
    seq_id: SeqId
    adam_params: AdamParams
    type: Literal["optim_step"] = "optim_step"

    @model_validator(mode="before")
    @classmethod
    def _refuse_other_optimizers(cls, data: Any) -> Any:
        other = data.get("optimizer_params") if isinstance(data, dict) else None
        if other is not None:
            kind = other.get("type") if isinstance(other, dict) else other
            raise InvalidField("optimizer_params", f"{kind!r} is not supported; send adam_params (adamw)")
        return data


class OptimStepResponse(Message):
    metrics: dict[str, float] | None = None
    """Any keys; given to the user as they are."""
    type: Literal["optim_step"] = "optim_step"


class SaveWeightsRequest(Message):
    """A checkpoint that can resume training: adapter, moments, step count."""

    model_id: Id
    seq_id: SeqId
    path: CheckpointName | None = None
    """The checkpoint's name, see `name`."""
    ttl_seconds: TtlSeconds | None = None
    """None: kept for ever."""
    overwrite: bool = False
    """Whether a checkpoint of that name is replaced; False: the save fails."""
    user_metadata: Metadata | None = None
    type: Literal["save_weights"] = "save_weights"

    @property
    def name(self) -> str:
        """The name given, or the command's number."""
        return self.path or f"{self.seq_id:06d}"


class SaveWeightsResponse(Message):
    path: Path
    type: Literal["save_weights"] = "save_weights"


class SaveWeightsForSamplerRequest(Message):
    """The adapter alone: under a name (`path`), or unnamed for one sampling session, with which it goes."""

    model_id: Id
    seq_id: SeqId
    path: CheckpointName | None = None
    sampling_session_seq_id: Count | None = None
    """Number of the sampling session to open; the counter is the session's, not the model's."""
    kind: Literal["snapshot", "inflight"] = "snapshot"
    """`inflight`: all inflight samplers of the model move on to these weights."""
    ttl_seconds: TtlSeconds | None = None
    """None: kept for ever; an unnamed one as long as its session."""
    user_metadata: Metadata | None = None
    type: Literal["save_weights_for_sampler"] = "save_weights_for_sampler"

    @model_validator(mode="after")
    def _is_named_or_not(self) -> "SaveWeightsForSamplerRequest":
        if (self.path is None) == (self.sampling_session_seq_id is None):
            raise InvalidField("path", "expected either path or sampling_session_seq_id")
        return self


class SaveWeightsForSamplerResponse(Message):
    """`path` for a named save, `sampling_session_id` for an unnamed one."""

    path: Path | None = None
    sampling_session_id: Id | None = None
    type: Literal["save_weights_for_sampler"] = "save_weights_for_sampler"


class SaveWeightsExternalRequest(Message):
    """The adapter in files for other tools."""

    model_id: Id
    seq_id: SeqId
    path: CheckpointName
    ttl_seconds: TtlSeconds | None = None
    """None: kept for ever."""
    age_encryption_recipients: tuple[str, ...] | None = None
    """Files are stored as they are: anything but None or empty is refused."""
    type: Literal["save_weights_external"] = "save_weights_external"

    @model_validator(mode="after")
    def _is_not_encrypted(self) -> "SaveWeightsExternalRequest":
        if self.age_encryption_recipients:
            raise InvalidField("age_encryption_recipients", "encryption is not supported; leave it out")
        return self


class SaveWeightsExternalResponse(Message):
    path: Path
    size_bytes: Count | None = None
    type: Literal["save_weights_external"] = "save_weights_external"


class GetInfoRequest(Message):
    model_id: Id
    type: Literal["get_info"] = "get_info"


class ModelData(Message):
    arch: str | None = None
    model_name: ModelName | None = None
    """The base model. Clients look their tokenizer up by it."""
    tokenizer_id: str | None = None
    """Overrides `model_name` as the tokenizer's name."""


class GetInfoResponse(Message):
    model_id: Id
    model_data: ModelData
    optimizer_config: OptimizerConfig = OptimizerConfig()
    is_lora: bool | None = None
    lora_rank: Count | None = None
    model_name: ModelName | None = None
    type: Literal["get_info"] = "get_info"

"""All JSON messages of the HTTP API, by endpoint. Paths are relative to `<base url>/api/v1/`.

| endpoint | request | answer, or result of the future |
|---|---|---|
| `client/config` | `ClientConfigRequest` | `ClientConfigResponse` |
| `client/dynamic_config` | `ClientConfigRequest` | `ClientDynamicConfigResponse` |
| `create_session` | `CreateSessionRequest` | `CreateSessionResponse` |
| `session_heartbeat` | `SessionHeartbeatRequest` | `SessionHeartbeatResponse` |
| `sessions/{id}/finish` | `FinishSessionRequest` | nothing |
| `sessions`, `sessions/{id}` | `PageQuery` | `ListSessionsResponse`, `GetSessionResponse` |
| `telemetry` | `TelemetrySendRequest` | `TelemetryResponse` |
| `get_server_capabilities` | – | `GetServerCapabilitiesResponse` |
| `services` | – | `ServicesResponse` |
| `retrieve_future` | `FutureRetrieveRequest` | a result, `RequestFailedResponse`, or 408 `PendingResponse` |
| `create_model` | `CreateModelRequest` | future of `CreateModelResponse` |
| `load_weights` | `LoadWeightsRequest` | future of `LoadWeightsResponse` |
| `forward_backward` | protobuf, `datums` | future of protobuf, `results` |
| `optim_step` | `OptimStepRequest` | future of `OptimStepResponse` |
| `save_weights` | `SaveWeightsRequest` | future of `SaveWeightsResponse` |
| `save_weights_for_sampler` | `SaveWeightsForSamplerRequest` | future of `SaveWeightsForSamplerResponse` |
| `save_weights_external` | `SaveWeightsExternalRequest` | future of `SaveWeightsExternalResponse` |
| `get_info` | `GetInfoRequest` | `GetInfoResponse` |
| `create_sampling_session` | `CreateSamplingSessionRequest` | `CreateSamplingSessionResponse` |
| `samplers/{id}` | – | `GetSamplerResponse` |
| `asample` | `SampleRequest` | future of protobuf, `results` |
| `training_runs`, `training_runs/{id}` | `PageQuery` | `TrainingRunsResponse`, `TrainingRun` |
| `checkpoints`, `training_runs/{id}/checkpoints` | `CheckpointsQuery`, none | `CheckpointsListResponse` |
| `training_runs/{id}/checkpoints/{kind}/{name}/ttl` | `CheckpointTtlRequest` | nothing |
| `…/external_weights/{name}/external_weights_urls` | – | `ExternalWeightsUrlsResponse` |
| `weights_info` | `WeightsInfoRequest` | `WeightsInfoResponse` |

Datasets, in `datasets`:

| endpoint | request | answer, or result of the future |
|---|---|---|
| `datasets` | `CreateDatasetRequest`, none | `Upload`, `DatasetsList` |
| `datasets/uploads/{id}`, `…/parts/{n}` | none, bytes | `Upload`, nothing |
| `datasets/uploads/{id}/complete` | – | future of `DatasetVersion` |
| `datasets/{name}`, `…/versions/{v}` | – | `Dataset`, `DatasetVersion` |
| `datasets/{name}/versions/{v}/rows`, `…/file` | `RowsQuery`, none | `RowsPage`, the Parquet file |
| `datasets/{name}/versions/{v}/derive` | `DeriveRequest` | future of `DatasetVersion`, of a split `DatasetVersions` |
| `training_runs/{id}/rollouts` | `ExportRolloutsRequest` | future of `DatasetVersion` |

A future is answered at once with `UntypedFuture`.
"""

from rekindle.types.catalogue import (
    MAX_PAGE,
    Checkpoint,
    CheckpointsListResponse,
    CheckpointsQuery,
    CheckpointTtlRequest,
    CopyWeightsRequest,
    CopyWeightsResponse,
    Cursor,
    ExternalWeightsUrlsResponse,
    PageQuery,
    TrainingRun,
    TrainingRunsResponse,
    WeightsInfoRequest,
    WeightsInfoResponse,
)
from rekindle.types.fields import (
    MAX_METADATA_CHARACTERS,
    MAX_TTL_SECONDS,
    MIN_TTL_SECONDS,
    CheckpointName,
    Count,
    ExactMessage,
    Id,
    Message,
    Metadata,
    ModelName,
    Path,
    SeqId,
    Time,
    TtlSeconds,
    first_mistake,
    parse_json,
)
from rekindle.types.models import (
    MAX_LORA_RANK,
    AdamParams,
    CreateModelRequest,
    CreateModelResponse,
    GetInfoRequest,
    GetInfoResponse,
    LoadWeightsRequest,
    LoadWeightsResponse,
    LoraConfig,
    ModelData,
    OptimizerConfig,
    OptimStepRequest,
    OptimStepResponse,
    SaveWeightsExternalRequest,
    SaveWeightsExternalResponse,
    SaveWeightsForSamplerRequest,
    SaveWeightsForSamplerResponse,
    SaveWeightsRequest,
    SaveWeightsResponse,
)
from rekindle.types.sampling import (
    MAX_SAMPLES,
    MAX_STOPS,
    MAX_TOPK,
    CreateSamplingSessionRequest,
    CreateSamplingSessionResponse,
    GetSamplerResponse,
    ModelInput,
    OtherChunk,
    SampleRequest,
    SamplingParams,
    TargetTokens,
    TextChunk,
    check_sample,
)
from rekindle.types.sessions import (
    ClientConfigRequest,
    ClientConfigResponse,
    ClientDynamicConfigResponse,
    CreateSessionRequest,
    CreateSessionResponse,
    ErrorCategory,
    FinishReason,
    FinishSessionRequest,
    FutureRetrieveRequest,
    GetServerCapabilitiesResponse,
    GetSessionResponse,
    ListSessionsResponse,
    PendingResponse,
    QueueState,
    RequestFailedResponse,
    ServiceInfo,
    ServicesResponse,
    ServiceState,
    SessionHeartbeatRequest,
    SessionHeartbeatResponse,
    SupportedModel,
    TelemetryResponse,
    TelemetrySendRequest,
    UntypedFuture,
)

__all__ = [
    "MAX_LORA_RANK",
    "MAX_METADATA_CHARACTERS",
    "MAX_PAGE",
    "MAX_SAMPLES",
    "MAX_STOPS",
    "MAX_TOPK",
    "MAX_TTL_SECONDS",
    "MIN_TTL_SECONDS",
    "AdamParams",
    "Checkpoint",
    "CheckpointName",
    "CheckpointTtlRequest",
    "CheckpointsListResponse",
    "CheckpointsQuery",
    "ClientConfigRequest",
    "ClientConfigResponse",
    "ClientDynamicConfigResponse",
    "CopyWeightsRequest",
    "CopyWeightsResponse",
    "Count",
    "CreateModelRequest",
    "CreateModelResponse",
    "CreateSamplingSessionRequest",
    "CreateSamplingSessionResponse",
    "CreateSessionRequest",
    "CreateSessionResponse",
    "Cursor",
    "ErrorCategory",
    "ExactMessage",
    "ExternalWeightsUrlsResponse",
    "FinishReason",
    "FinishSessionRequest",
    "FutureRetrieveRequest",
    "GetInfoRequest",
    "GetInfoResponse",
    "GetSamplerResponse",
    "GetServerCapabilitiesResponse",
    "GetSessionResponse",
    "Id",
    "ListSessionsResponse",
    "LoadWeightsRequest",
    "LoadWeightsResponse",
    "LoraConfig",
    "Message",
    "Metadata",
    "ModelData",
    "ModelInput",
    "ModelName",
    "OptimStepRequest",
    "OptimStepResponse",
    "OptimizerConfig",
    "OtherChunk",
    "PageQuery",
    "Path",
    "PendingResponse",
    "QueueState",
    "RequestFailedResponse",
    "SampleRequest",
    "SamplingParams",
    "SaveWeightsExternalRequest",
    "SaveWeightsExternalResponse",
    "SaveWeightsForSamplerRequest",
    "SaveWeightsForSamplerResponse",
    "SaveWeightsRequest",
    "SaveWeightsResponse",
    "SeqId",
    "ServiceInfo",
    "ServiceState",
    "ServicesResponse",
    "SessionHeartbeatRequest",
    "SessionHeartbeatResponse",
    "SupportedModel",
    "TargetTokens",
    "TelemetryResponse",
    "TelemetrySendRequest",
    "TextChunk",
    "Time",
    "TrainingRun",
    "TrainingRunsResponse",
    "TtlSeconds",
    "UntypedFuture",
    "WeightsInfoRequest",
    "WeightsInfoResponse",
    "check_sample",
    "first_mistake",
    "parse_json",
]

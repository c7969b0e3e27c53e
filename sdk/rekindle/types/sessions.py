"""JSON messages around the work: a client's configuration, its session, and futures.

Defaults of the configuration are those that the Tinker client assumes when a server says nothing.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from rekindle.types.fields import Count, Id, Message, Metadata, ModelName

QueueState = Literal["active", "paused_capacity", "paused_rate_limit"]
ErrorCategory = Literal["unknown", "server", "user"]
Label = Annotated[str, StringConstraints(max_length=1024)]
"""A short text for people."""


class ClientConfigRequest(Message):
    """Body of `client/config` and `client/dynamic_config`."""

    sdk_version: str


class ClientConfigResponse(Message):
    """Switches that a client reads once, when it is created."""

    pjwt_auth_enabled: bool = False
    """Exchange the API key for a JWT at `auth/token`."""
    credential_default_source: str = "api_key"
    sample_dispatch_bytes_semaphore_size: int = 10 * 1024 * 1024
    """Bytes of sampling requests being posted at once."""
    inflight_response_bytes_semaphore_size: int = 50 * 1024 * 1024
    """Bytes of announced results being fetched at once."""
    parallel_fwdbwd_chunks: bool = True
    """Post the parts of one call concurrently, the first one last; False: in order, one by one."""
    proto_compress_fwdbwd: bool = False
    """Compress training requests with zstd."""
    fwdbwd_max_chunk_len: int = 1024
    """Datums in a training request."""
    fwdbwd_max_chunk_bytes_count: int = 5_000_000
    """Estimated bytes of a training request, before compression; a larger datum goes alone."""
    fwdbwd_dispatch_bytes_semaphore_size: int = 50_000_000
    """Bytes of training requests being posted at once."""
    billing_exception_max_pause_duration_sec: int = 3600
    sample_no_retries: bool = False
    sample_enable_stuck_detection: bool = True
    """Fail after two hours without progress."""
    sample_max_concurrent_requests: int = 2000
    """Samples in flight per sampling client, each with a poll of its own."""
    use_pyqwest_transport: bool = True
    sample_use_retrieve_futures: bool = False
    """Poll once per sampling session at `retrieve_futures`."""
    custom_loss_server_side: bool = False
    """Upload custom losses; False: they are computed by the client."""
    sample_join_sampling_session: bool = False
    """Copies of a sampling client ask for their number at `join_sampling_session`."""


class ClientDynamicConfigResponse(Message):
    """Switches that a client reads again and again."""

    refresh_interval_sec: int = 300
    sample_cancel_enabled: bool = False
    """Report abandoned samples at `cancel_future`."""
    sample_cancel_max_batch_size: int = 64


class CreateSessionRequest(Message):
    """Opens a session: one client process and everything that it creates."""

    tags: Annotated[tuple[Label, ...], Field(max_length=256)] = ()
    user_metadata: Metadata | None = None
    sdk_version: str = ""
    project_id: Id | None = None
    display_name: Label | None = None
    type: Literal["create_session"] = "create_session"


class CreateSessionResponse(Message):
    """Messages are logged by the client, each at its level."""

    session_id: Id
    info_message: str | None = None
    warning_message: str | None = None
    error_message: str | None = None
    type: Literal["create_session"] = "create_session"


class SessionHeartbeatRequest(Message):
    """Sent every 10 seconds. The answer 410 says that the session is over."""

    session_id: Id
    type: Literal["session_heartbeat"] = "session_heartbeat"


class SessionHeartbeatResponse(Message):
    type: Literal["session_heartbeat"] = "session_heartbeat"


class FinishReason(Message):
    type: Literal["success", "errored", "interrupted"]


class FinishSessionRequest(Message):
    """Body of `sessions/{id}/finish`; the first reason stands."""

    reason: FinishReason
    detail: str | None = None


class TelemetrySendRequest(Message):
    """The client's own diagnostics. Accepted and dropped."""

    events: tuple[Any, ...] = ()
    platform: str = ""
    sdk_version: str = ""
    session_id: str = ""
    process_uuid: str = ""


class TelemetryResponse(Message):
    status: Literal["accepted"] = "accepted"


class SupportedModel(Message):
    """One base model of a server."""

    model_name: ModelName | None = None
    max_context_length: Count | None = None
    """Tokens, prompt and completion together."""
    trainable: bool | None = None
    sampleable: bool | None = None


class GetServerCapabilitiesResponse(Message):
    supported_models: tuple[SupportedModel, ...]


ServiceState = Literal["zero", "starting", "ready", "stopping", "failed"]


class ServiceInfo(Message):
    """One of the services behind a server. E.g. `{"name": "reward", "kind": "reward", "state": "zero"}`."""

    name: str
    kind: str
    """`train`, `sample`, `reward`, `data` or `checkpoint`."""
    base_model: ModelName | None = None
    """That it is for; None: all."""
    state: ServiceState | None = None
    """None: not known yet."""
    reason: str | None = None
    """Why its work waits, for people; None: it does not."""
    queued: Count = 0
    """Commands that wait or are in hand, as counted within the last seconds; of a trainer, runs that have some."""
    activations: Count = 0
    """Requests that are held open so that it works."""
    replicas: Count | None = None
    """Processes or pods; None: not known."""


class ServicesResponse(Message):
    """Answer of `GET services`; none where nobody starts services on demand."""

    services: tuple[ServiceInfo, ...]


class GetSessionResponse(Message):
    training_run_ids: tuple[Id, ...]
    sampler_ids: tuple[Id, ...]
    user_metadata: Metadata | None = None
    display_name: str | None = None


class ListSessionsResponse(Message):
    sessions: tuple[Id, ...]


class UntypedFuture(Message):
    """The immediate answer to every command; the result comes from `retrieve_future`."""

    request_id: Id
    model_id: Id | None = None
    sample_sequence_ids: tuple[str, ...] | None = None
    """For samples, where it is required: one id for each of `num_samples`, in the order of the result."""


class FutureRetrieveRequest(Message):
    """A long poll; the server chooses how long it holds it (the client gives up after 45 s)."""

    request_id: Id
    allow_metadata_only: bool = False
    """Whether the size may be announced before the result."""


class PendingResponse(Message):
    """Body of a 408: not ready, ask again. Example: `{"queue_state": "paused_capacity", …}`."""

    queue_state: QueueState = "active"
    queue_state_reason: str | None = None
    """Shown to the user where the state is not `active`."""


class RequestFailedResponse(Message):
    """The final failure of a command. No result may have a field of the name `error`."""

    error: str
    category: ErrorCategory
    """Whose fault it is; never retried by the client."""

"""Settings that every service shares, read once from the environment."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


class BusSettings(BaseSettings):
    """Where NATS and the blobs are, and how long things may take. Variables: `REKINDLE_<FIELD>`, `NATS_URL`."""

    model_config = SettingsConfigDict(env_prefix="REKINDLE_", populate_by_name=True, extra="ignore")

    nats_url: str = Field(validation_alias="NATS_URL")
    """`nats://[user:password@ | token@]host:port`."""
    blobs: str
    """The blob store: a folder, or `s3://BUCKET[/PREFIX]`, which the usual variables `AWS_*` lead to."""
    reward_blobs: str = ""
    """Where payloads for and from the reward service lie, which may reach no others; empty = with the rest."""
    blob_cache: Path | None = None
    """Folder for local copies of what an S3 store holds; None = one in the folder for temporary files."""
    blob_cache_bytes: int = 16 * 1024**3
    """Size of all copies that a process keeps; those in use stay beyond it."""
    replicas: int = 1
    """Copies of each stream: 1 on a laptop, 3 in a cluster."""
    jetstream_api: str = "$JS.API"
    """How subjects of JetStream's API begin. Otherwise than by default where streams are another account's, which lends
    some of them to ours: then others make streams and consumers, and this process asks for them."""
    gap_seconds: float = 360.0
    """How long operations wait for a missing earlier number; clients retry a POST for 300 s."""
    log_json: bool = False
    """JSON lines instead of text for people."""
    host: str = "127.0.0.1"
    """Address on which to listen."""
    metrics_port: int = Field(default=0, ge=0, lt=65536)
    """Where metrics are read without a key, and the process is asked for its life; 0 = nowhere."""


class Quota(BaseModel):
    """What one tenant may have at once; None = any number. Example: Quota(training_runs=16, queued=2000)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sessions: int | None = Field(default=None, ge=0)
    """Open ones."""
    training_runs: int | None = Field(default=None, ge=0)
    """Of open sessions."""
    rl_runs: int | None = Field(default=None, ge=0)
    """Server-side runs that are not over."""
    queued: int | None = Field(default=None, ge=1)
    """Commands that wait or run in one queue: of one base model's samples, of scoring, of data."""
    dataset_bytes: int | None = Field(default=None, ge=0)
    """Of all dataset versions, and of files that are being sent."""
    checkpoint_bytes: int | None = Field(default=None, ge=0)
    """Of all named checkpoints."""


LOOPBACK = ("127.0.0.1", "::1", "localhost")


class EdgeSettings(BusSettings):
    """Settings of an HTTP edge."""

    port: int = 8000
    body_limit_bytes: int = 64 * 1024 * 1024
    """Largest body of a training batch."""
    json_limit_bytes: int = 16 * 1024 * 1024
    """Largest JSON body, which is many times its size in memory."""
    upload_limit_bytes: int = 64 * 1024 * 1024 * 1024
    """Largest file of a dataset."""
    upload_part_bytes: int = 8 * 1024 * 1024
    """Size of the parts in which it is sent."""
    upload_seconds: float = 24 * 3600.0
    """How long an upload stays after its last part came."""
    session_days: float = Field(default=7.0, ge=1)
    """A session of which nothing was heard for so long is ended: what is its goes, but named checkpoints. It is
    looked after once a day."""
    poll_seconds: float = 25.0
    """How long a poll is held; clients give up at 45 s."""
    api_keys: list[str] = []
    """sha256 (hex) of API keys of the tenant `local`; with no `keys_file` either, any key, loopback only."""
    keys_file: Path | None = None
    """JSON list of `{"hash", "tenant", "name"}`: more keys, each for a tenant; read again when it changes."""
    system_keys: list[str] = []
    """sha256 (hex) of the keys that activate services, and do nothing else; empty = whoever may come in may."""
    quotas: dict[str, Quota] = {}
    """What a tenant may have at once; those of `*` hold for all that have none of their own."""
    external_urls_secret: str = ""
    """Signs download links; empty = no downloads."""
    grace_seconds: int = 30
    """How long open requests may go on after SIGTERM."""
    socket_fd: int | None = None
    """A listening socket that the parent holds; None = listen on host and port."""
    notify_fd: int | None = None
    """A pipe to the parent, which hears what becomes of this process; None = nobody listens."""
    activation: bool = False
    """Take work only while an activation is open; False = always."""
    linger_seconds: float = 2.0
    """How long a replica is without work before it ends its activations."""
    idle_seconds: float = 0.0
    """Without request, activation and work for so long, the process ends; 0 = never."""

    @model_validator(mode="after")
    def _keys_beyond_loopback(self) -> "EdgeSettings":
        if self.host not in LOOPBACK and not self.api_keys and self.keys_file is None:
            raise ValueError(
                f"host: {self.host!r} is not loopback; api_keys must name at least one key then, or keys_file a file"
            )
        return self

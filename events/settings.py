"""Settings that every service shares, read once from the environment."""

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


class BusSettings(BaseSettings):
    """Where NATS and the blobs are, and how long things may take. Variables: `REKINDLE_<FIELD>`, `NATS_URL`."""

    model_config = SettingsConfigDict(env_prefix="REKINDLE_", populate_by_name=True, extra="ignore")

    nats_url: str = Field(validation_alias="NATS_URL")
    """`nats://[user:password@ | token@]host:port`."""
    blobs: str
    """Folder of the blob store."""
    replicas: int = 1
    """Copies of each stream: 1 on a laptop, 3 in a cluster."""
    gap_seconds: float = 360.0
    """How long operations wait for a missing earlier number; clients retry a POST for 300 s."""
    log_json: bool = False
    """JSON lines instead of text for people."""


LOOPBACK = ("127.0.0.1", "::1", "localhost")


class EdgeSettings(BusSettings):
    """Settings of an HTTP edge."""

    host: str = "127.0.0.1"
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
    poll_seconds: float = 25.0
    """How long a poll is held; clients give up at 45 s."""
    api_keys: list[str] = []
    """sha256 (hex) of admitted API keys; empty = any key, loopback only."""
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
        if self.host not in LOOPBACK and not self.api_keys:
            raise ValueError(f"host: {self.host!r} is not loopback; api_keys must name at least one key then")
        return self

"""Settings of the training service."""

import secrets

from pydantic import Field

from events.settings import EdgeSettings


class TrainSettings(EdgeSettings):
    """Which base model is trained, and how much at once. Variables: `REKINDLE_<FIELD>`."""

    base_name: str
    """What clients call the model."""
    base_source: str
    """Where its files come from: a folder, `[hf://]ORG/NAME[@REVISION]` or `s3://bucket/prefix`."""
    token_budget: int | None = None
    """Tokens of one pass: bounds the memory for activations. None = what suits the device."""
    replica: str = Field(default_factory=lambda: f"train-{secrets.token_hex(6)}")
    """Name of this process, which no other ever has."""
    memory_bytes: int | None = None
    """For the states of runs (weights, gradients, moments); more runs than fit take turns. None = half of what is free
    beside the base model."""
    turn_seconds: float = 10.0
    """How long a run may work while another waits for its place in memory."""
    snapshot_seconds: float = 30.0
    """How old the newest snapshot of a run that trains may become: what a take-over has to compute again."""
    deterministic: bool = False
    """Weights bit for bit the same, however often a run is replayed and whoever trains beside it; slower."""
    threads: int | None = None
    """CPU threads; None = torch's choice. Deterministic, it is one: the bits of a product depend on their number."""
    device: str = "cpu"
    dtype: str = "float32"

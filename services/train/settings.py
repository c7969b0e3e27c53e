"""Settings of the training service."""

from events.settings import EdgeSettings


class TrainSettings(EdgeSettings):
    """Which base model is trained, and how much at once. Variables: `REKINDLE_<FIELD>`."""

    base_name: str
    """What clients call the model."""
    base_source: str
    """Folder or hub id of its weights."""
    token_budget: int | None = None
    """Tokens of one pass: bounds the memory for activations. None = what suits the device."""
    max_runs: int = 64
    """Runs kept in memory; an idle one beyond that is dropped and replayed from its log when it is needed."""
    threads: int | None = None
    """CPU threads; None = torch's choice."""
    device: str = "cpu"
    dtype: str = "float32"

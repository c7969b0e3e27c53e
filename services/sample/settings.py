"""Settings of the sampling service."""

from events.settings import EdgeSettings


class SampleSettings(EdgeSettings):
    """Which base model is sampled, and how much at once. Variables: `REKINDLE_<FIELD>`."""

    base_name: str
    """What clients call the model."""
    base_source: str
    """Folder or hub id of its weights."""
    token_budget: int = 65536
    """Prompt and completion tokens of the requests taken at once."""
    threads: int | None = None
    """CPU threads; None = torch's choice."""
    device: str = "cpu"
    dtype: str = "float32"

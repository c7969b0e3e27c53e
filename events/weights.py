"""What the commands that save and load weights carry from the edge to the trainer."""

from datetime import datetime

from pydantic import BaseModel, ConfigDict

from rekindle.types.paths import Kind


class SaveCommand(BaseModel):
    """Save the weights under a name, clock values fixed when it was appended."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind
    name: str
    overwrite: bool = False
    """Whether a checkpoint of that name may be replaced."""
    optimizer: bool = False
    """Whether moments and step count are saved too."""
    created: datetime
    expires: datetime | None = None
    user_metadata: dict[str, str] = {}
    sampler_id: str | None = None
    """The sampler that an unnamed save opens; None for a named one."""


class LoadCommand(BaseModel):
    """Load a checkpoint into the run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    blob: str
    optimizer: bool
    """Whether moments and step count are restored too."""
    creates_run: bool
    """Whether this is command 0 of a new run."""

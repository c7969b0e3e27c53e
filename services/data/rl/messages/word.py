"""What events and commands of the state machine have in common."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

Phase = Literal["running", "paused", "completed", "failed", "cancelled"]


class Word(BaseModel):
    """An event or a command: a value."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

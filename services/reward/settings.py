"""Settings of the reward service."""

import os

from pydantic import Field

from events.settings import EdgeSettings
from services.reward.pool import MEMORY_BYTES


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class RewardSettings(EdgeSettings):
    """How much is graded at once. Variables: `REKINDLE_<FIELD>`."""

    graders: int = Field(default_factory=_cores, ge=1)
    """Processes that grade; one for each core if nothing is said."""
    grader_memory_bytes: int = Field(MEMORY_BYTES, ge=2**28)
    """Address space of each, its libraries included."""

"""Settings of the reward service."""

import os
from typing import Literal

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
    sandbox_floor: Literal["none", "limits", "confined", "namespaces"] = "confined"
    """What must hold untrusted code for it to run at all, see `sandbox.layers.Level`."""
    outside_hosts: list[str] = Field(default_factory=list)
    """Hosts that graders may ask though they are not public: `HOST[:PORT]`; HOST is an address, a network or a name."""
    outside_key_hosts: dict[str, list[str]] = Field(default_factory=dict)
    """By name of a key, `REKINDLE_KEY_<NAME>`: the hosts that it may be sent to; `*` names all other keys."""
    outside_calls: int = Field(128, ge=1)
    """Questions of one tenant that are open at once in this replica."""

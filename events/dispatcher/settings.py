"""Settings of the dispatcher."""

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from events.platform import ServiceSpec
from events.settings import BusSettings


class DispatcherSettings(BusSettings):
    """Which services there are, and who runs them. Variables: `REKINDLE_<FIELD>`."""

    platform: Literal["local", "knative"] = "local"
    """Who runs the services: the supervisor of this machine, or Knative."""
    services: list[ServiceSpec] = Field(default_factory=list)
    """JSON list of what the supervisor runs; Knative says itself which services there are."""
    state_file: Path | None = None
    """What the supervisor writes of its processes."""
    namespace: str = "rekindle"
    """Where in a cluster the services are."""
    activation_key: str = ""
    """API key of the services; empty = they ask for none."""
    notify_fd: int | None = None
    """A pipe to the parent, which hears what becomes of this process; None = nobody listens."""

    @model_validator(mode="after")
    def _supervised(self) -> "DispatcherSettings":
        if self.platform == "local" and self.state_file is None:
            raise ValueError("state_file: missing, and the platform is this machine's supervisor")
        return self

"""Settings of the dispatcher."""

from pathlib import Path

from events.platform import ServiceSpec
from events.settings import BusSettings


class DispatcherSettings(BusSettings):
    """Which services there are, and who runs them. Variables: `REKINDLE_<FIELD>`."""

    services: list[ServiceSpec]
    """JSON list."""
    state_file: Path
    """What the supervisor of this machine writes of its processes."""
    activation_key: str = ""
    """API key of the services; empty = they ask for none."""
    notify_fd: int | None = None
    """A pipe to the parent, which hears what becomes of this process; None = nobody listens."""

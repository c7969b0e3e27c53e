"""Settings of the data service."""

from pydantic import Field

from events.settings import EdgeSettings
from services.data.limits import Limits


class DataSettings(EdgeSettings):
    limits: Limits = Field(default_factory=Limits)
    """What a file from outside may cost, as JSON: `REKINDLE_LIMITS='{"columns": 100}'`."""
    outside_hosts: list[str] = Field(default_factory=list)
    """Hosts that webhooks of triggers may be at though they are not public: `HOST[:PORT]`."""
    tasks: int = 2
    """Files that are read or derived from at once, each in a process of its own."""

"""What the dispatcher must know of the platform that runs the services.

A platform starts replicas for open requests and stops them without; the dispatcher only asks how a service
fares, to tell waiting clients, and whether the platform has given it up. The supervisor of one machine writes a
file; in a cluster, Knative's own records say the same.
"""

import asyncio
import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Protocol

from pydantic import BaseModel, ConfigDict

from events.activation import DEADLINE_SECONDS
from rekindle.types.requests import ServiceState

State = ServiceState


class ServiceSpec(BaseModel):
    """A service that takes activations. Example: ServiceSpec(name="checkpoint", kind="checkpoint", url="…")."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    """Of the service in its platform."""
    kind: str
    """Which of our services: `train`, `sample`, `checkpoint`, `reward`, `data`."""
    base: str | None = None
    """Base model that it is for, None = for all."""
    url: str
    """Where it takes activations, without a path."""
    most: int = 1
    """Activations open at once: replicas times what one of them takes."""
    capacity: float = 1.0
    """Backlog that one activation is for: runs (train), tokens (sample), commands."""
    seconds: float = DEADLINE_SECONDS
    """How long an activation may be open, the start of the replica included."""


class Verdict(BaseModel):
    """The platform has given up what waited for a service. Example: Verdict(at="…", reason="it ended 5 times…")."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    at: datetime
    """What was stored before is not waited for any more."""
    reason: str


class ServiceStatus(BaseModel):
    """How a service fares. Example: ServiceStatus(state="starting")."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    state: State
    reason: str | None = None
    """Why it does not start yet; None = nothing to say."""
    verdict: Verdict | None = None
    """The last one, whatever has become of the service since; None = never."""
    replicas: int | None = None
    """Processes or pods that run; None = the platform does not say."""
    dead: list[str] = []
    """Replicas that have ended lately, by the name that they go by on the bus."""


class Platform(Protocol):
    """Which services there are, and how they fare."""

    async def services(self) -> list[ServiceSpec]:
        """Those that take activations."""
        ...

    async def status(self) -> dict[str, ServiceStatus]:
        """By name; a service that the platform says nothing of is missing."""
        ...


class StateFile:
    """The platform of one machine: its supervisor writes a row for each process."""

    def __init__(self, path: Path, services: Sequence[ServiceSpec] = ()) -> None:
        self._path = path
        self._services = list(services)
        self._read: tuple[int, dict[str, ServiceStatus]] = (-1, {})

    async def services(self) -> list[ServiceSpec]:
        return self._services

    async def status(self) -> dict[str, ServiceStatus]:
        return await asyncio.to_thread(self._status)

    def _status(self) -> dict[str, ServiceStatus]:
        try:
            changed = self._path.stat().st_mtime_ns
            if changed != self._read[0]:
                rows = json.loads(self._path.read_text())
                found = {row["name"]: ServiceStatus.model_validate(row) for row in rows}
                self._read = (changed, found)
        except FileNotFoundError:
            return {}
        return self._read[1]

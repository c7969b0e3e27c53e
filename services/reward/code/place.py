"""Where guests run: the sandbox, and where there is none, something that says why.

What holds them is told to the world: in a record, and as the metric `rekindle_sandbox_layer`.
"""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Protocol

import structlog
from prometheus_client import Gauge

from rekindle.types.rewards import SandboxInfo, SandboxLayer
from services.reward.guests import function, program, tester
from services.reward.sandbox import Ended, Layer, Level, Limits, Sandbox, SandboxError

GUESTS = (program.__name__, tester.__name__, function.__name__)
LAYER = Gauge("rekindle_sandbox_layer", "1 where a mechanism of the sandbox is in force", ["layer"])

log = structlog.get_logger(__name__)


class Place(Protocol):
    """What runs guests, as `Sandbox` does."""

    async def run(
        self, entry: str, payload: bytes, *, limits: Limits, stdin: bytes = b"", fds: Sequence[int] = ()
    ) -> Ended:
        """Raises SandboxError when nothing is known of the guest."""
        ...


class Nowhere:
    """Runs nothing."""

    def __init__(self, reason: str) -> None:
        self._reason = reason

    async def run(
        self, entry: str, payload: bytes, *, limits: Limits, stdin: bytes = b"", fds: Sequence[int] = ()
    ) -> Ended:
        """Raises SandboxError, always."""
        raise SandboxError(f"this server runs no code: {self._reason}")


class Opening:
    """A place that is being made: whoever needs it waits, nobody else."""

    def __init__(self, place: "asyncio.Task[Place]") -> None:
        self._place = place

    async def run(
        self, entry: str, payload: bytes, *, limits: Limits, stdin: bytes = b"", fds: Sequence[int] = ()
    ) -> Ended:
        """Raises SandboxError when nothing is known of the guest."""
        place = await asyncio.shield(self._place)
        return await place.run(entry, payload, limits=limits, stdin=stdin, fds=fds)


Tell = Callable[[SandboxInfo], Awaitable[None]]
"""Given once what was found."""


@contextlib.asynccontextmanager
async def open_place(floor: str, tell: Tell) -> AsyncIterator[Place]:
    """A sandbox in which at least `floor` is in force, with all our guests.

    Making it and trying it out takes longer than the rest of the service needs to start, so it goes on beside that.
    """
    async with contextlib.AsyncExitStack() as stack:
        place = asyncio.create_task(_open(stack, floor, tell))
        try:
            yield Opening(place)
        finally:
            place.cancel()
            await asyncio.gather(place, return_exceptions=True)


async def _open(stack: contextlib.AsyncExitStack, floor: str, tell: Tell) -> Place:
    """Where a sandbox cannot be had, graders that need none shall work all the same."""
    sandbox = Sandbox(GUESTS, floor=Level[floor.upper()])
    try:
        await stack.enter_async_context(sandbox)
    except (SandboxError, OSError) as error:
        log.error("sandbox.refused", floor=floor, reason=str(error))
        await tell(_found(sandbox.layers, floor, str(error)))
        return Nowhere(str(error))
    await tell(_found(sandbox.layers, floor, None))
    return sandbox


def _found(layers: Sequence[Layer], floor: str, refused: str | None) -> SandboxInfo:
    for layer in layers:
        LAYER.labels(layer.name).set(layer.in_force)
    return SandboxInfo(
        host=socket.gethostname(),
        started=datetime.now(UTC),
        floor=floor,
        refused=refused,
        layers=tuple(SandboxLayer(name=one.name, in_force=one.in_force, detail=one.detail) for one in layers),
    )

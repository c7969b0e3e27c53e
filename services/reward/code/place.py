"""Where guests run: the sandbox, and where there is none, something that says why.

What holds them is told to the world: in a record, and as the metric `rekindle_sandbox_layer`.
"""

import contextlib
import socket
from collections.abc import AsyncIterator, Sequence
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


@contextlib.asynccontextmanager
async def open_place(floor: str) -> AsyncIterator[tuple[Place, SandboxInfo]]:
    """A sandbox in which at least `floor` is in force, with all our guests; and what was found.

    Where that cannot be had, graders that need no sandbox shall work all the same.
    """
    sandbox = Sandbox(GUESTS, floor=Level[floor.upper()])
    async with contextlib.AsyncExitStack() as stack:
        place: Place = sandbox
        refused = None
        try:
            await stack.enter_async_context(sandbox)
        except SandboxError as error:
            refused = str(error)
            place = Nowhere(refused)
            log.error("sandbox.refused", floor=floor, reason=refused)
        yield place, _found(sandbox.layers, floor, refused)


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

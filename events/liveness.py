"""Which replicas live: each says so again and again, and what it said is gone when it stops.

A replica that is not alive may be followed by another; nothing is protected by its being alive, that is the
fence's part. Whoever sees a replica die may say so at once.
"""

import asyncio

import structlog

from events import catalog, envelope, names
from events.bus import Bus
from events.failure import BusError
from events.streams import ALIVE, ALIVE_SECONDS

log = structlog.get_logger(__name__)


async def beat(bus: Bus, replica: str) -> None:
    """Say that `replica` lives, until cancelled."""
    while True:
        try:
            await _say(bus, replica)
        except BusError as error:
            log.info("beat.missed", replica=replica, reason=str(error))
        await asyncio.sleep(ALIVE_SECONDS / 5)


async def _say(bus: Bus, replica: str) -> None:
    event = envelope.make_event(
        catalog.ALIVE, id=replica, tenant="everyone", service="replica", subject=replica, data=b"{}"
    )
    await bus.append(names.alive_subject(replica), event)


async def lives(bus: Bus, replica: str) -> bool:
    """Whether `replica` has said so lately."""
    return await bus.last(ALIVE, names.alive_subject(replica)) is not None


async def bury(bus: Bus, replica: str) -> None:
    """`replica` is known to be dead, or to have nothing left to hold: others need not wait."""
    await bus.purge(ALIVE, names.alive_subject(replica))

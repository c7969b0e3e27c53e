"""Makes consumers for the service that may make none, a tenant's at a time, when it asks.

Whoever makes a consumer says where the server shall send a stream's messages, and the server asks nobody's leave to
send them there: the right to make one is the right to write anywhere. So a service that runs code of users has it not.
"""

from events import names
from events.bus import Bus
from events.confined import CONFINED
from events.streams import REWARD
from events.tenants import open_consumer
from events.worker import ACK_WAIT


async def open_what_is_asked(bus: Bus) -> None:
    """Answer as long as the connection lasts."""

    async def open_one(subject: str) -> bytes:
        tenant = subject.rpartition(".")[2]
        pending = await open_consumer(bus, REWARD, CONFINED, names.REWARD_FILTER, tenant, ack_wait=ACK_WAIT)
        return str(pending).encode()

    await bus.answer(names.open_subject(CONFINED, "*"), open_one, group="dispatchers")

"""A work queue by tenant: a consumer for each that has commands in it, found as they come.

A stream hands a consumer its messages in their order, so that behind one consumer for all, whoever comes second waits
for all of whoever came first. The commands of a tenant lie under subjects of their own, and so they have a consumer
of their own; a worker asks each for what it wants. Nobody keeps a list of tenants: they are those with commands in
the stream, read once, and then those that the stream says it has stored commands of. A consumer that nobody asks
vanishes once nothing of it is unacknowledged. A service that may make none asks the dispatcher for it.
"""

import asyncio
import math
from collections.abc import Callable, Mapping

import structlog
from nats.js.api import AckPolicy, ConsumerConfig

from events import names
from events.bus import Bus
from events.pull import Delivery, Puller
from events.retry import until_available

log = structlog.get_logger(__name__)

MAX_ACK_PENDING = 4096
"""Above what one client keeps in flight (2,000)."""
INACTIVE_SECONDS = 300.0
"""How long a consumer stays that nobody asks."""
LOOK_SECONDS = 10.0
"""How often it is read who has commands, whatever was heard: an announcement may be lost, and nobody says an end."""
SOON = 0.25
"""Seconds for which what is known to be there is asked for: others may have taken it."""
NEXT = 2.0
"""Seconds for which what may come is asked for: once we have no room it would wait here, though others have some."""


async def open_consumer(
    bus: Bus, stream: str, consumer: str, filter: str, tenant: str, *, ack_wait: float
) -> int:
    """Make the consumer of a tenant, or find it; how many commands wait there. Raises BusUnavailable."""
    config = ConsumerConfig(
        durable_name=f"{consumer}-{tenant}",
        filter_subject=names.tenant_filter(filter, tenant),
        ack_policy=AckPolicy.EXPLICIT,
        ack_wait=ack_wait,
        max_ack_pending=MAX_ACK_PENDING,
        inactive_threshold=INACTIVE_SECONDS,
    )
    # One consumer for all tenants, as there was before, would overlap with those of each.
    await bus.remove_consumer(stream, consumer)
    return (await bus.ensure_consumer(stream, config)).num_pending or 0


class TenantQueues:
    """The consumers of one work queue, as one worker asks them."""

    def __init__(
        self, bus: Bus, stream: str, consumer: str, filter: str, *, ack_wait: float, wake: Callable[[], None]
    ) -> None:
        """`filter`: `<queue>.>`, where the first token in place of the `>` is the tenant. `consumer`: the first part
        of their names. `wake` is called when there is something to take or somebody new to follow."""
        self._bus = bus
        self._stream = stream
        self._consumer = consumer
        self._filter = filter
        self._ack_wait = ack_wait
        self._wake = wake
        self._pullers: dict[str, Puller] = {}
        self._heard: set[str] = set()
        """Tenants of whom something was stored since we last looked."""
        self._left: list[Delivery] = []
        self._looked = -math.inf
        """When it was last read who has commands, by the loop's clock."""

    async def open(self) -> "TenantQueues":
        """Listen to who has something stored."""
        self._deaf = await self._bus.listen(names.queued(self._filter), self._hear)
        self._forget = self._bus.on_reconnect(self._look_again)  # what was said meanwhile was heard by nobody
        return self

    async def close(self) -> list[Delivery]:
        """Ask for no more; what was on its way is given back: it is in our hand all the same."""
        self._forget()
        if not self._bus.client.is_closed:
            await self._deaf()
        for tenant in list(self._pullers):
            await self._leave(tenant)
        return self.take()

    def _look_again(self) -> None:
        self._looked = -math.inf
        self._wake()

    async def follow(self) -> None:
        """Ask those who have commands now, and before long no more those who have none."""
        now = asyncio.get_running_loop().time()
        if now - self._looked >= LOOK_SECONDS:
            self._looked = now
            self._heard.clear()
            there = await self._tenants()
            for tenant in self._pullers.keys() - there - self._heard:
                await self._leave(tenant)
            self._heard |= there
        for tenant in [tenant for tenant, puller in self._pullers.items() if puller.gone]:
            log.info("consumer.gone", stream=self._stream, tenant=tenant)
            await self._leave(tenant)
            self._heard.add(tenant)
        for tenant in sorted(self._heard - self._pullers.keys()):
            self._pullers[tenant] = await self._join(tenant)

    async def ask(self, shares: Mapping[str, int]) -> None:
        """Ask for so many commands of each tenant, and for the next one of those of whom none is known to wait.

        Not of others: they would take the place of who has less in hand and is on the way.
        """
        for tenant, puller in self._pullers.items():
            if share := shares.get(tenant, 0):
                await puller.want(share, seconds=SOON)
            elif not puller.pending:
                await puller.want(1, seconds=NEXT)

    @property
    def pending(self) -> dict[str, int]:
        """How many commands of each tenant are known to wait; more may."""
        return {tenant: puller.pending for tenant, puller in self._pullers.items()}

    def take(self) -> list[Delivery]:
        """All that has come."""
        taken = [delivery for puller in self._pullers.values() for delivery in puller.take()]
        taken, self._left = self._left + taken, []
        return taken

    @until_available
    async def _tenants(self) -> set[str]:
        subjects = await self._bus.subjects(self._stream, self._filter)
        return {names.tenant_part(self._filter, subject) for subject in subjects}

    @until_available
    async def _join(self, tenant: str) -> Puller:
        pending = await self._open(tenant)
        consumer = f"{self._consumer}-{tenant}"
        puller = await Puller(self._bus, self._stream, consumer, arrived=self._wake).start()
        puller.pending = pending  # or all would go to whose first command happens to come first
        return puller

    async def _open(self, tenant: str) -> int:
        if not self._bus.makes:
            return int(await self._bus.ask(names.open_subject(self._consumer, tenant)))
        return await open_consumer(
            self._bus, self._stream, self._consumer, self._filter, tenant, ack_wait=self._ack_wait
        )

    async def _leave(self, tenant: str) -> None:
        self._left += await self._pullers.pop(tenant).close()

    def _hear(self, subject: str) -> None:
        tenant = names.tenant_part(self._filter, subject.removeprefix(f"{names.QUEUED}."))
        self._heard.add(tenant)
        if tenant not in self._pullers:
            self._wake()

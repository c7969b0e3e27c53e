"""A tenant with a long queue does not make another wait beyond its share."""

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
from nats.js.api import AckPolicy, ConsumerConfig
from nats.js.errors import NotFoundError
from structlog.testing import capture_logs

from events import catalog, envelope, names, streams, tenants, worker
from events.blobs import FolderBlobs
from events.bus import Bus
from events.dispatcher.backlog import QueueBacklog, QueuePlace
from events.envelope import CloudEvent
from events.queues import Answer, Queue
from events.tasks import end
from events.tenants import TenantQueues
from events.worker import QueueWorker


@dataclass
class Shop:
    """One queue of several tenants."""

    bus: Bus
    blobs: FolderBlobs
    name: str
    seconds: float = 0.01
    """Of work for a command."""
    done: list[str] = field(default_factory=list)
    """`<tenant>.<number>` in the order in which they ended."""
    by: dict[str, int] = field(default_factory=dict)
    """Commands that each worker has done."""
    stirred: asyncio.Condition = field(default_factory=asyncio.Condition)

    @property
    def queue(self) -> Queue:
        return Queue(
            stream=self.name,
            consumer="workers",
            filter=f"{self.name}.>",
            result_subject=None,
            tenant=lambda event: names.tenant_of(event.get_source()),
        )

    async def submit(self, tenant: str, count: int, start: int = 0) -> None:
        events = [
            envelope.make_event(
                catalog.SCORE,
                id=f"{tenant}:{number}",
                tenant=tenant,
                service="test",
                subject=tenant,
                data=b"{}",
            )
            for number in range(start, start + count)
        ]
        appended = (
            self.bus.append(f"{self.name}.{names.token(tenant)}.{event.get_id().replace(':', '.')}", event)
            for event in events
        )
        await asyncio.gather(*appended)

    @contextlib.asynccontextmanager
    async def worker(self, name: str = "one", budget: int = 4, bus: Bus | None = None) -> AsyncIterator[None]:
        async def handle(event: CloudEvent, data: bytes) -> Answer | None:
            await asyncio.sleep(self.seconds)  # the work
            self.done.append(event.get_id())
            self.by[name] = self.by.get(name, 0) + 1
            async with self.stirred:
                self.stirred.notify_all()
            return None

        one = QueueWorker(bus or self.bus, self.blobs, self.queue, handle, budget=budget)
        task = asyncio.create_task(one.run())
        try:
            yield
        finally:
            await end(task)

    def count(self, tenant: str) -> int:
        return sum(id.startswith(f"{tenant}:") for id in self.done)

    async def until(self, tenant: str, count: int) -> None:
        async with asyncio.timeout(30), self.stirred:
            await self.stirred.wait_for(lambda: self.count(tenant) >= count)

    async def asked(self) -> bool:
        """Whether some worker's demand is open."""
        return any(one.num_waiting for one in await self.bus.js.consumers_info(self.name))

    async def consumers(self) -> set[str]:
        return {one.name for one in await self.bus.js.consumers_info(self.name)}


@pytest.fixture
async def shop(
    bus: Bus, blobs: FolderBlobs, unique: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Shop]:
    monkeypatch.setattr(worker, "ACK_WAIT", 1.0)
    await bus.ensure_stream(streams.work_queue(unique, f"{unique}.>"))
    with capture_logs():
        yield Shop(bus, blobs, unique)
    await bus.js.delete_stream(unique)


async def test_a_tenant_with_few_commands_does_not_wait_for_one_with_many(shop: Shop):
    await shop.submit("noisy", 500)
    async with shop.worker():
        await shop.until("noisy", 20)
        before = shop.count("noisy")
        await shop.submit("quiet", 5)
        await shop.until("quiet", 5)
        between = shop.count("noisy") - before
    assert between <= 30, f"{between} commands of the noisy tenant were done before 5 of the quiet one"


async def test_tenants_with_work_have_the_same_share_whatever_they_queued(shop: Shop):
    for tenant, count in (("a", 300), ("b", 100), ("c", 60)):
        await shop.submit(tenant, count)
    async with shop.worker(budget=6):
        await shop.until("c", 60)
        counts = [shop.count(tenant) for tenant in "abc"]
    assert max(counts) - min(counts) <= 24, counts


async def test_slow_commands_take_no_more_of_a_worker_than_quick_ones(shop: Shop):
    """Shares are of the budget, not of the number of commands."""
    shop.seconds = 0.0
    slow = asyncio.Event()

    async def handle(event: CloudEvent, data: bytes) -> Answer | None:
        if event.get_id().startswith("slow"):
            await slow.wait()
        shop.done.append(event.get_id())
        async with shop.stirred:
            shop.stirred.notify_all()
        return None

    await shop.submit("slow", 50)
    await shop.submit("quick", 50)
    task = asyncio.create_task(QueueWorker(shop.bus, shop.blobs, shop.queue, handle, budget=4).run())
    await shop.until("quick", 50)
    assert shop.count("slow") == 0
    await end(task)


async def test_what_waits_of_a_tenant_is_known_before_any_of_it_has_come(shop: Shop):
    """Otherwise all of a worker would go to the tenant whose first command happens to come first."""
    await shop.submit("a", 3)
    await shop.submit("b", 2)
    queue = shop.queue
    queues = TenantQueues(
        shop.bus, queue.stream, queue.consumer, queue.filter, ack_wait=1.0, wake=lambda: None
    )
    await queues.open()
    await queues.follow()
    assert queues.pending == {names.token("a"): 3, names.token("b"): 2}
    await queues.close()


async def test_a_tenant_that_is_alone_has_all_of_the_worker(shop: Shop):
    shop.seconds = 0.1
    await shop.submit("other", 3)
    await shop.submit("alone", 83)
    async with shop.worker(budget=8):
        await shop.until("other", 3)
        begun, before = time.monotonic(), shop.count("alone")
        await shop.until("alone", 83)
        rate = (83 - before) / (time.monotonic() - begun)
    assert rate > 0.5 * 8 / shop.seconds


async def test_two_workers_share_the_tenants(shop: Shop):
    await shop.submit("a", 150)
    await shop.submit("b", 150)
    async with shop.worker("one"), shop.worker("two"):
        await shop.until("a", 150)
        await shop.until("b", 150)
    assert min(shop.by.values()) > 75 and len(shop.done) == 300 == len(set(shop.done))


async def test_a_tenant_without_work_is_asked_no_more_however_busy_others_keep_the_worker(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(tenants, "LOOK_SECONDS", 0.3)
    monkeypatch.setattr(tenants, "INACTIVE_SECONDS", 0.2)
    async with shop.worker():
        await shop.submit("gone", 1)
        await shop.until("gone", 1)
        async with asyncio.timeout(20):
            for number in itertools.count():
                await shop.submit("busy", 1, start=number)
                await shop.until("busy", number + 1)
                if await shop.consumers() == {f"workers-{names.token('busy')}"}:
                    break


async def test_a_worker_without_room_soon_leaves_to_others_what_comes(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
):
    """Also what comes of tenants whose next command it asked for while it had room."""
    monkeypatch.setattr(tenants, "NEXT", 0.3)
    stuck, quick = asyncio.Event(), [f"quick{number}" for number in range(6)]

    async def handle(event: CloudEvent, data: bytes) -> Answer | None:
        if event.get_id().startswith("slow"):
            stuck.set()
            await asyncio.Event().wait()
        shop.done.append(event.get_id())
        async with shop.stirred:
            shop.stirred.notify_all()
        return None

    one = asyncio.create_task(QueueWorker(shop.bus, shop.blobs, shop.queue, handle, budget=1).run())
    for tenant in quick:
        await shop.submit(tenant, 1)
        await shop.until(tenant, 1)
    await shop.submit("slow", 1)
    await asyncio.wait_for(stuck.wait(), 20)
    async with asyncio.timeout(20):
        while await shop.asked():  # noqa: ASYNC110  # the server tells nobody
            await asyncio.sleep(0.05)
    async with shop.worker("two", budget=1):
        for tenant in quick:
            await shop.submit(tenant, 1, start=1)
        for tenant in quick:
            await shop.until(tenant, 2)
    await end(one)


async def test_a_worker_hears_of_tenants_as_they_come(shop: Shop, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tenants, "LOOK_SECONDS", 1000.0)
    async with shop.worker():
        for tenant in ("a", "b", "c"):
            await shop.submit(tenant, 2)
            await shop.until(tenant, 2)


async def test_a_tenant_that_nobody_announced_is_found_before_long(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(tenants, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(names, "QUEUED", "elsewhere")
    async with shop.worker():
        await shop.submit("a", 2)
        await shop.until("a", 2)


async def test_what_a_vanished_worker_held_comes_back_though_its_tenant_has_nothing_else(shop: Shop):
    silent = await Bus.connect(shop.bus.client.connected_url.geturl(), name="silent")
    shop.seconds = 60.0
    with contextlib.suppress(Exception):
        async with shop.worker(bus=silent):
            await shop.submit("a", 1)

            async def held() -> bool:
                infos = await shop.bus.js.consumers_info(shop.name)
                return any(one.num_ack_pending for one in infos)

            async with asyncio.timeout(20):
                while not await held():  # noqa: ASYNC110  # the server tells nobody
                    await asyncio.sleep(0.01)
            await silent.close()  # nothing it says is heard from here on
            shop.seconds = 0.0
            async with shop.worker("two"):
                await shop.until("a", 1)
    assert shop.by == {"two": 1}


async def test_consumers_vanish_with_their_work_and_not_before(shop: Shop, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tenants, "INACTIVE_SECONDS", 0.2)
    held = ConsumerConfig(
        durable_name="workers-held",
        filter_subject=f"{shop.name}.held.>",
        ack_policy=AckPolicy.EXPLICIT,
        ack_wait=0.5,
        inactive_threshold=0.2,
    )
    await shop.bus.ensure_consumer(shop.name, held)
    await shop.bus.js.publish(f"{shop.name}.held.1", b"")
    subscription = await shop.bus.js.pull_subscribe_bind("workers-held", shop.name)
    await subscription.fetch(1)  # never acknowledged
    async with shop.worker():
        await shop.submit("a", 1)
        await shop.until("a", 1)
    async with asyncio.timeout(20):
        while await shop.consumers() != {"workers-held"}:  # noqa: ASYNC110  # the server tells nobody
            await asyncio.sleep(0.05)
    await asyncio.sleep(
        1.0
    )  # twice what it takes to be taken for inactive, and for the delivery to be overdue
    assert (await shop.bus.js.consumer_info(shop.name, "workers-held")).num_ack_pending == 1
    await subscription.unsubscribe()


async def test_a_consumer_that_was_removed_is_made_again(shop: Shop):
    async with shop.worker():
        await shop.submit("a", 1)
        await shop.until("a", 1)
        await shop.bus.js.delete_consumer(shop.name, f"workers-{names.token('a')}")
        await shop.submit("a", 1, start=1)
        await shop.until("a", 2)


async def test_the_consumer_for_all_tenants_of_before_gives_way(shop: Shop):
    old = ConsumerConfig(
        durable_name="workers", filter_subject=f"{shop.name}.>", ack_policy=AckPolicy.EXPLICIT, ack_wait=30
    )
    await shop.bus.ensure_consumer(shop.name, old)
    await shop.submit("a", 3)
    subscription = await shop.bus.js.pull_subscribe_bind("workers", shop.name)
    await subscription.fetch(1)  # in the hand of a worker of before
    async with shop.worker():
        await shop.until("a", 3)
    with pytest.raises(NotFoundError):
        await shop.bus.js.consumer_info(shop.name, "workers")
    await subscription.unsubscribe()


async def test_the_backlog_is_what_no_tenant_has_had_acknowledged(shop: Shop):
    backlog = QueueBacklog(shop.bus, QueuePlace(shop.name, f"{shop.name}.>"), capacity=8.0)
    heard = asyncio.Event()
    stop = await shop.bus.hear(backlog.subject, lambda *_: heard.set())
    await shop.submit("a", 3)
    await shop.submit("b", 2)
    await asyncio.wait_for(heard.wait(), 10)
    assert await backlog.read() == 5.0
    shop.seconds = 60.0
    async with shop.worker(budget=2):
        assert await backlog.read() == 5.0
    await stop()
    shop.seconds = 0.0
    async with shop.worker():
        await shop.until("a", 3)
        await shop.until("b", 2)
        async with asyncio.timeout(10):
            while await backlog.read():  # noqa: ASYNC110  # the server tells nobody
                await asyncio.sleep(0.01)

"""With three servers the reward service's rights suffice, whichever of them it and the others are connected to."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from events import catalog, envelope, facts, names
from events.bus import Bus
from events.dispatcher.opener import open_what_is_asked
from events.failure import BusUnavailable
from events.pull import Puller
from events.record_store import Records
from events.records import FunctionSource
from events.streams import FAILURES, REWARD, SCORES
from tests import lent_nats
from tests.lent_nats import LentNats

TENANT = "t"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture
async def servers(tmp_path: Path) -> AsyncIterator[list[LentNats]]:
    """Three, with a leader of each stream, and the dispatcher's part on one of them."""
    found = lent_nats.three(tmp_path)
    try:
        for one in found:
            one.process.start()
        trusted = await Bus.connect(found[1].url("rekindle-nats"), name="dispatcher", replicas=3)
        async with asyncio.timeout(120):
            while True:
                try:
                    await trusted.ensure_shared_streams()
                    break
                except BusUnavailable:
                    continue  # no leader yet
        await open_what_is_asked(trusted)
        yield found
        await trusted.close()
    finally:
        for one in found:
            one.process.stop()


async def test_the_reward_service_does_its_work_at_any_of_three_servers(servers: list[LentNats]) -> None:
    trusted = await Bus.connect(servers[0].url("rekindle-nats"), name="gateway", replicas=3)
    for number, server in enumerate(servers):
        lent, request = server.of_reward, f"score:{number}a"
        bus = await Bus.connect(
            lent["NATS_URL"], name="reward", replicas=3, api=lent["REKINDLE_JETSTREAM_API"]
        )
        command = names.reward_subject(TENANT, request, 1)
        await trusted.append(command, event(request))
        token = names.token(TENANT)
        assert int(await bus.ask(names.open_subject("reward", token))) == 1
        puller = await Puller(bus, REWARD, f"reward-{token}").start()
        await puller.want(1)
        delivery = await puller.next(30.0)
        assert delivery is not None and delivery.subject == command
        await delivery.message.in_progress()
        attempts = names.attempts_subject(command)
        await bus.append(attempts, event(request))
        assert await bus.last(FAILURES, attempts) is not None
        result = names.result_subject("reward", TENANT, request, 1)
        await bus.append_once(SCORES, result, event(request))
        seen = [await one.first(SCORES, result) for one in (trusted, bus)]
        assert [one.sequence for one in seen if one is not None] == [number + 1] * 2
        fact = facts.make_fact(
            catalog.ROLLOUT_SCORED, tenant=TENANT, service="reward", subject=request, id=request, data={}
        )
        await facts.publish(bus, TENANT, fact)
        await delivery.message.ack()
        await bus.purge(FAILURES, attempts)
        await until_empty(bus)
        source = FunctionSource(name="f", version=str(number), source="def f(): ...")
        await Records(bus).replace(TENANT, "f", source)
        assert await Records(trusted).get(FunctionSource, TENANT, "f") == source
        assert await Records(bus).all(FunctionSource, TENANT) == [source]
        assert await bus.subjects(FAILURES, "rewards.attempts.>") == []
        await puller.close()
        await bus.close()
    await trusted.close()


def event(id: str) -> envelope.CloudEvent:
    return envelope.make_event(
        catalog.SCORE, id=f"{id}:1", tenant=TENANT, service="x", subject=id, data=b"{}"
    )


async def until_empty(bus: Bus) -> None:
    """Acknowledgements are taken a moment later."""
    async with asyncio.timeout(30):
        while await bus.subjects(REWARD, "reward.>"):
            continue

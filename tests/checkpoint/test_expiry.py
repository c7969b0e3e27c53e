"""A checkpoint whose time to live has passed goes with its files; one that was given more time stays."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from cloudevents.core.v1.event import CloudEvent

from events import envelope, idle, names
from events.bus import Bus
from events.checkpoints import CheckpointEntry, Checkpoints
from events.failure import NotFound
from events.idle import LookCommand
from events.record_store import Records
from events.streams import CHECKPOINT
from rekindle.types import TinkerPath
from services.local import nats_server
from tests.e2e.conftest import connected
from tests.e2e.loops import ADAM, WAIT, client, train
from tests.stack import Stack

TENANT = "local"
SECONDS = 60.0


@contextlib.asynccontextmanager
async def catalogue(stack: Stack) -> AsyncIterator[Checkpoints]:
    bus = await Bus.connect(nats_server.address(stack.data_dir).url, name="auditor")
    try:
        yield Checkpoints(bus, Records(bus))
    finally:
        await bus.close()


async def shorten(checkpoints: Checkpoints, path: str, wanted: timedelta) -> CheckpointEntry:
    """Give a checkpoint so much time from now, below what the wire takes."""
    entry = await checkpoints.find(TENANT, TinkerPath.parse(path))
    return await checkpoints.change(TENANT, entry, expires=datetime.now(UTC) + wanted)


def files(stack: Stack, entry: CheckpointEntry) -> bool:
    """Whether they are there."""
    return (stack.data_dir / "blobs" / entry.blob / "adapter_model.safetensors").exists()


def save(stack: Stack, name: str, ttl_seconds: int | None = None) -> str:
    with connected(stack.url) as service:
        training = client(service, stack.base_model)
        train(training, 1, ADAM)
        return str(training.save_state(name, ttl_seconds=ttl_seconds).result(WAIT).path)


async def test_an_expired_checkpoint_goes_with_its_files(stack: Stack) -> None:
    path = await asyncio.to_thread(save, stack, "brief")
    async with catalogue(stack) as checkpoints:
        entry = await shorten(checkpoints, path, timedelta(seconds=-1))
        assert files(stack, entry), "not living is not yet being gone"
        await checkpoints.plan_expiry(TENANT, entry)
        async with asyncio.timeout(SECONDS):
            while files(stack, entry):  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(0.05)
        with pytest.raises(NotFound):
            await checkpoints.find(TENANT, TinkerPath.parse(path))


async def test_one_that_was_given_more_time_stays(stack: Stack) -> None:
    path = await asyncio.to_thread(save, stack, "long", 3600)
    async with catalogue(stack) as checkpoints:
        entry = await checkpoints.find(TENANT, TinkerPath.parse(path))
        assert entry.expires is not None
        assert await checkpoints.expire(TENANT, entry) is None, "looked at too early, it is planned again"
        assert files(stack, entry) and (await checkpoints.find(TENANT, TinkerPath.parse(path))).alive()


async def test_a_repeated_expiry_and_a_newer_save_lose_nothing(stack: Stack) -> None:
    path = await asyncio.to_thread(save, stack, "again")
    async with catalogue(stack) as checkpoints:
        entry = await shorten(checkpoints, path, timedelta(seconds=-1))
        for _ in range(2):  # the first time, its files may not have gone
            assert await checkpoints.expire(TENANT, entry) == entry.blob
        other = entry.model_copy(update={"number": entry.number + 1})
        assert await checkpoints.expire(TENANT, other) is None


def test_a_time_to_live_is_planned_with_the_save(stack: Stack) -> None:
    save(stack, "planned", 7200)
    later = asyncio.run(_planned(stack))
    assert any(".ttl." in subject for subject in later), later


async def _planned(stack: Stack) -> list[str]:
    bus = await Bus.connect(nats_server.address(stack.data_dir).url, name="auditor")
    try:
        return list(await bus.subjects("CHECKPOINT", "later.checkpoint.>"))
    finally:
        await bus.close()


def test_an_open_session_is_looked_after_when_the_bus_says_so_and_then_again(stack: Stack) -> None:
    body = {"tags": [], "sdk_version": "0", "type": "create_session"}
    answer = httpx.post(f"{stack.url}/api/v1/create_session", json=body, trust_env=False).raise_for_status()
    session = str(answer.json()["session_id"])
    asyncio.run(asyncio.wait_for(_looked_after(stack, session), SECONDS))
    listed = httpx.get(f"{stack.url}/api/v1/sessions/{session}", trust_env=False)
    assert listed.status_code == 200


async def _looked_after(stack: Stack, session: str) -> None:
    """Have the next look come now; return when the one after it is planned."""
    bus = await Bus.connect(nats_server.address(stack.data_dir).url, name="auditor")
    later = names.later_subject(names.look_subject(TENANT, session))
    try:
        assert await bus.last(CHECKPOINT, later) is not None, "planned with the session"
        await idle.plan_look(bus, TENANT, session, datetime.now(UTC) - idle.LOOK)
        while True:
            planned = await bus.last(CHECKPOINT, later)
            if planned is not None and _due(planned.event) > datetime.now(UTC) + timedelta(hours=23):
                break
            await asyncio.sleep(0.05)
        while await bus.last(CHECKPOINT, names.look_subject(TENANT, session)) is not None:  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.05)
    finally:
        await bus.close()


def _due(event: CloudEvent) -> datetime:
    due = LookCommand.model_validate_json(envelope.data_of(event)).due
    assert due is not None
    return due

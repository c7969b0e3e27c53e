"""A request cut into shards resolves once, whole and in order, whoever dies or repeats itself."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator

import pytest
from cloudevents.core.v1.event import CloudEvent

from events import catalog, ids, names
from events.blobs import FolderBlobs
from events.bus import Bus
from events.failure import Failure, UserError
from events.futures import Futures, Gone, Result
from events.queues import Answer, Handler, Queue
from events.record_store import Records
from events.shards import AnotherRequest, Sharding, ShardResult, digest_of
from events.streams import REWARD, SCORES
from events.worker import QueueWorker

SCORING = Sharding("reward", names.reward_subject, catalog.SCORE)


def joined(results: list[ShardResult]) -> bytes:
    return json.dumps([str(r.message) if isinstance(r, Failure) else json.loads(r) for r in results]).encode()


@contextlib.asynccontextmanager
async def worker(bus: Bus, blobs: FolderBlobs, tenant: str, handler: Handler) -> AsyncIterator[None]:
    def place(event: CloudEvent) -> tuple[str, int]:
        return ids.split_future_id(event.get_id())

    async def settled(event: CloudEvent) -> None:
        await SCORING.join(bus, blobs, tenant, place(event)[0], joined)

    queue = Queue(
        stream=REWARD,
        consumer=f"reward-{tenant}",
        filter=f"reward.{names.token(tenant)}.>",
        result_subject=lambda event: names.result_subject("reward", tenant, *place(event)),
        tenant=lambda event: tenant,
        settled=settled,
    )
    task = asyncio.create_task(QueueWorker(bus, blobs, queue, handler, budget=4).run())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def echo(_: CloudEvent, data: bytes) -> Answer:
    return Answer(data)


@pytest.fixture
async def futures(bus: Bus, blobs: FolderBlobs, records: Records) -> Futures:
    futures = Futures(bus, blobs, records)
    await futures.start()
    return futures


def request_of(unique: str) -> tuple[str, list[bytes], str]:
    shards = [json.dumps(number).encode() for number in range(5)]
    return ids.score_id(unique), shards, digest_of(b"".join(shards))


async def test_shards_are_joined_in_order(
    bus: Bus, blobs: FolderBlobs, futures: Futures, unique: str
) -> None:
    request, shards, digest = request_of(unique)
    await SCORING.submit(bus, blobs, unique, request, shards, digest=digest)
    async with worker(bus, blobs, unique, echo), worker(bus, blobs, unique, echo):
        found = await futures.wait(unique, ids.future_id(request, 0), 10.0)
    assert isinstance(found, Result)
    assert json.loads(found.data) == [0, 1, 2, 3, 4]


async def test_an_unknown_request_is_gone(futures: Futures, unique: str) -> None:
    with pytest.raises(Gone):
        await futures.wait(unique, ids.future_id(ids.score_id(unique), 0), 0.1)


async def test_a_failed_shard_is_joined_as_its_failure(
    bus: Bus, blobs: FolderBlobs, futures: Futures, unique: str
) -> None:
    async def refuse_two(_: CloudEvent, data: bytes) -> Answer:
        if data == b"2":
            raise UserError("no twos")
        return Answer(data)

    request, shards, digest = request_of(unique)
    await SCORING.submit(bus, blobs, unique, request, shards, digest=digest)
    async with worker(bus, blobs, unique, refuse_two):
        found = await futures.wait(unique, ids.future_id(request, 0), 10.0)
    assert isinstance(found, Result)
    assert json.loads(found.data) == [0, 1, "no twos", 3, 4]


async def test_a_repeated_submission_does_nothing_anew(
    bus: Bus, blobs: FolderBlobs, futures: Futures, unique: str
) -> None:
    seen: list[bytes] = []

    async def count(_: CloudEvent, data: bytes) -> Answer:
        seen.append(data)
        return Answer(data)

    request, shards, digest = request_of(unique)
    for _ in range(2):
        await SCORING.submit(bus, blobs, unique, request, shards, digest=digest)
    async with worker(bus, blobs, unique, count):
        await futures.wait(unique, ids.future_id(request, 0), 10.0)
        while await bus.subjects(REWARD, queued := f"reward.{names.token(unique)}.>"):  # noqa: ASYNC110
            await asyncio.sleep(0)  # the last shard is acknowledged after its result
        await SCORING.submit(bus, blobs, unique, request, shards, digest=digest)
        assert await bus.subjects(REWARD, queued) == []
    assert sorted(seen) == shards


async def test_the_same_id_with_other_content_is_refused(bus: Bus, blobs: FolderBlobs, unique: str) -> None:
    request, shards, digest = request_of(unique)
    await SCORING.submit(bus, blobs, unique, request, shards, digest=digest)
    with pytest.raises(AnotherRequest):
        await SCORING.submit(bus, blobs, unique, request, shards[:2], digest=digest_of(b"other"))


async def test_a_death_between_result_and_join_leaves_no_request_unjoined(
    bus: Bus, blobs: FolderBlobs, futures: Futures, unique: str
) -> None:
    """All results are there, nobody has joined them: a repeated look does it, and a second one changes nothing."""
    request, shards, digest = request_of(unique)
    await SCORING.submit(bus, blobs, unique, request, shards, digest=digest)
    for number, data in enumerate(shards, start=1):
        subject = names.result_subject("reward", unique, request, number)
        event = SCORING._event(catalog.RESOLVED, unique, request, ids.future_id(request, number), data)
        assert await bus.last(SCORES, names.result_subject("reward", unique, request, 0)) is None
        await bus.append_once(SCORES, subject, event)
    for _ in range(2):
        await SCORING.join(bus, blobs, unique, request, joined)
    found = await futures.wait(unique, ids.future_id(request, 0), 1.0)
    assert isinstance(found, Result)
    assert json.loads(found.data) == [0, 1, 2, 3, 4]

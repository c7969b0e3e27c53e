"""A shard that nobody can score: each of its items is excluded, counted, and told as a fact of its own."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from events import catalog, envelope, ids, names, tasks
from events.blobs import FolderBlobs
from events.bus import Bus
from events.failure import ServerError
from events.futures import Futures, Result
from events.record_store import Records
from events.scoring import SHARDING, cut
from events.shards import WHOLE
from events.streams import FACTS
from rekindle.types.rewards import Numeric, ScoreItem, ScoreRequest, ScoreResponse
from services.reward.worker import RewardWorker
from tests.events.nats_process import NatsProcess


class Broken:
    """Fails for good."""

    async def score(self, tenant: str, spec: Any, items: list[ScoreItem], columns: Any) -> list[Any]:
        raise ServerError("5 workers died over this command")


async def excluded(bus: Bus) -> list[tuple[str, Any]]:
    subject = names.fact_subject("t", catalog.ROLLOUT_EXCLUDED)
    return [(str(one.event.get_id()), envelope.json_of(one.event)) async for one in bus.walk(FACTS, subject)]


@pytest.mark.parametrize("again", [False, True])
async def test_the_items_of_a_lost_shard_are_told_one_by_one_under_ids_that_stay(
    tmp_path: Path, again: bool
) -> None:
    nats = NatsProcess(tmp_path / "nats")
    nats.start()
    bus = await Bus.connect(nats.url, name="test")
    await bus.ensure_shared_streams()
    blobs = FolderBlobs(tmp_path / "blobs")
    items = tuple(ScoreItem(prompt="", completion="", sequence_id=f"s:{n}") for n in range(3))
    wanted = ScoreRequest(grader=Numeric(), items=items, columns={"answer": 1}, idempotency_key="k")
    shards = [shard.model_dump_json().encode() for shard in cut(wanted)]
    worker = RewardWorker(bus, blobs, Broken(), None, budget=1)
    if again:  # as after a worker that died between the facts and its acknowledgement
        settle = worker._tell_failed

        async def twice(*arguments: Any) -> None:
            await settle(*arguments)
            await settle(*arguments)

        worker._tell_failed = twice
    await SHARDING.submit(bus, blobs, "t", "score:ab", shards, digest="d")
    running = asyncio.create_task(worker.run())
    try:
        done = await Futures(bus, blobs, Records(bus)).wait("t", ids.future_id("score:ab", WHOLE), 20.0)
        found = await excluded(bus)
    finally:
        await tasks.end(running)
        await bus.close()
        nats.stop()
    assert isinstance(done, Result) and ScoreResponse.model_validate_json(done.data).excluded == 3
    assert [one for one, _ in found] == [f"score:ab:1:{n}" for n in range(3)]
    assert [said["sequence_id"] for _, said in found] == ["s:0", "s:1", "s:2"]
    assert {said["reason"] for _, said in found} == {"5 workers died over this command"}

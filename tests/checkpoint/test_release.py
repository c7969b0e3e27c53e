"""A session that ends leaves its named checkpoints and nothing else; a deleted run leaves nothing at all."""

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import httpx
import pytest
import tinker

from events import blob_keys
from events.bus import Bus
from events.claims import plan_expiry
from services.local import nats_server
from tests.e2e.conftest import connected
from tests.e2e.loops import ADAM, WAIT, client, tokens, train
from tests.gateway.wire import Run, connect, datum
from tests.stack import Stack

RELEASE_SECONDS = 60.0
STREAMS = ("RECORDS", "RESULTS", "SAMPLE", "ATTEMPTS")
"""Beside those of runs; that of releases is empty in between."""
LOOK_SECONDS = 0.05


def use(service: tinker.ServiceClient, stack: Stack, *, name: str | None) -> str:
    """Train, sample with an unnamed adapter and save; the run's id."""
    training = client(service, stack.base_model)
    train(training, 2, ADAM)
    sampler = training.save_weights_and_get_sampling_client().result(WAIT)
    sampler.sample(tokens(5, 6), 2, tinker.SamplingParams(max_tokens=4)).result(WAIT)
    if name is not None:
        training.save_state(name).result(WAIT)
    return str(training.get_info().model_id)


def tree(stack: Stack) -> set[str]:
    """Files in the blob store but what lies aside."""
    root = stack.data_dir / "blobs"
    found = (path for path in root.rglob("*") if path.is_file() and "aside" not in path.parts)
    return {str(path.relative_to(root)) for path in found}


async def held(stack: Stack) -> dict[str, int]:
    """Messages of each stream but facts, and consumers."""
    bus = await Bus.connect(nats_server.address(stack.data_dir).url, name="auditor")
    infos = [
        info
        for info in await bus.js.streams_info()
        if info.config.name in STREAMS or "RUNS_" in str(info.config.name)
    ]
    counts = {str(info.config.name): info.state.messages for info in infos}
    counts["consumers"] = sum(info.state.consumer_count for info in infos)
    await bus.close()
    return counts


async def comes_to(expected: object, measure: Callable[[], Awaitable[object]]) -> None:
    """Measure until it is as expected, at most as long as a release may take."""
    async with asyncio.timeout(RELEASE_SECONDS):
        while (found := await measure()) != expected:  # noqa: ASYNC110 - nothing tells when the last message goes
            await asyncio.sleep(LOOK_SECONDS)
    assert found == expected


@pytest.fixture(scope="module")
def settled(stack: Stack) -> Stack:
    """The first run makes what lasts: streams, consumers."""
    with connected(stack.url) as service:
        use(service, stack, name=None)
    return stack


@pytest.mark.timeout(120)
def test_a_session_that_ends_leaves_nothing_when_it_named_nothing(settled: Stack) -> None:
    stack = settled
    asyncio.run(asyncio.wait_for(quiet(stack), RELEASE_SECONDS))
    files, counts = tree(stack), asyncio.run(held(stack))
    with connected(stack.url) as service:
        use(service, stack, name=None)
        assert tree(stack) > files
    asyncio.run(comes_to(counts, lambda: held(stack)))
    assert tree(stack) == files


async def quiet(stack: Stack) -> None:
    """Wait until no release is under way."""
    bus = await Bus.connect(nats_server.address(stack.data_dir).url, name="auditor")
    while await bus.subjects("CHECKPOINT", "checkpoint.>"):  # noqa: ASYNC110 - nor this
        await asyncio.sleep(LOOK_SECONDS)
    await bus.close()


@pytest.mark.timeout(120)
def test_a_named_checkpoint_outlives_its_session_until_its_run_is_deleted(settled: Stack) -> None:
    stack = settled
    asyncio.run(asyncio.wait_for(quiet(stack), RELEASE_SECONDS))
    files, counts = tree(stack), asyncio.run(held(stack))
    with connected(stack.url) as service:
        run = use(service, stack, name="kept")
    asyncio.run(asyncio.wait_for(quiet(stack), RELEASE_SECONDS))
    left = {Path(file).name for file in tree(stack) - files}
    assert left == {"adapter_config.json", "adapter_model.safetensors", "optimizer.safetensors"}
    with connected(stack.url) as service:
        again = service.create_training_client_from_state(f"tinker://{run}/weights/kept").result(WAIT)
        train(again, 1, ADAM)
    listed = httpx.get(f"{stack.url}/api/v1/training_runs?limit=100", trust_env=False).json()
    assert run in {one["training_run_id"] for one in listed["training_runs"]}
    for _ in range(2):
        answer = httpx.delete(f"{stack.url}/api/v1/training_runs/{run}", trust_env=False)
        assert answer.status_code in (204, 404)
        asyncio.run(asyncio.wait_for(quiet(stack), RELEASE_SECONDS))
    asyncio.run(comes_to(counts, lambda: held(stack)))
    assert tree(stack) == files


def test_a_session_that_ends_and_its_run_that_is_deleted_at_once_leave_nothing(settled: Stack) -> None:
    stack = settled
    asyncio.run(asyncio.wait_for(quiet(stack), RELEASE_SECONDS))
    files, counts = tree(stack), asyncio.run(held(stack))
    with connect(stack.url, stack.base_model) as wire, ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            run = wire.run()
            run.train()
            saved = wire.ok("/save_weights", {"model_id": run.id, "seq_id": run.number(), "path": "kept"})
            assert "path" in wire.result(saved["request_id"]).json()
            finish = {"reason": {"type": "success"}}
            ends = [
                pool.submit(wire.post, f"/sessions/{run.session}/finish", finish),
                pool.submit(wire.http.delete, f"training_runs/{run.id}"),
                pool.submit(wire.http.delete, f"training_runs/{run.id}"),
            ]
            statuses = [end.result().status_code for end in ends]
            assert statuses[0] == 200 and set(statuses[1:]) <= {204, 404}
            asyncio.run(asyncio.wait_for(quiet(stack), RELEASE_SECONDS))
            asyncio.run(comes_to(counts, lambda: held(stack)))
    assert tree(stack) == files


def test_expired_payloads_go_and_live_ones_stay(stack: Stack) -> None:
    today = datetime.now(UTC).date()
    old, live = (
        stack.data_dir / "blobs" / blob_keys.claims_of_day("local", today + timedelta(days=days))
        for days in (-1, 1)
    )
    for folder in (old, live):
        folder.mkdir(parents=True)
        (folder / "payload").write_bytes(b"x")

    async def plan() -> None:
        bus = await Bus.connect(nats_server.address(stack.data_dir).url, name="writer")
        for folder in (old, live):
            await plan_expiry(bus, "local", date.fromisoformat(folder.name))
        await bus.close()
        async with asyncio.timeout(30):
            while old.exists():  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(LOOK_SECONDS)

    asyncio.run(plan())
    assert (live / "payload").exists()
    shutil.rmtree(live)


def test_a_closed_run_takes_no_more_commands(stack: Stack) -> None:
    with connected(stack.url) as service:
        training = client(service, stack.base_model)
        training.save_state("kept").result(WAIT)
        run = str(training.get_info().model_id)
    asyncio.run(asyncio.wait_for(quiet(stack), RELEASE_SECONDS))
    body = {"model_id": run, "seq_id": 9, "adam_params": {"learning_rate": 0.1}}
    with connect(stack.url, stack.base_model) as wire:
        late = Run(wire, run.partition(":")[0], run, next=9)
        model = {"session_id": late.session, "model_seq_id": 7, "base_model": stack.base_model}
        sampler = {"session_id": late.session, "sampling_session_seq_id": 7, "base_model": stack.base_model}
        for answer in (
            wire.post("/optim_step", body),
            late.post_batch(late.batch(9, datum())),
            wire.post("/create_model", {**model, "lora_config": {"rank": 2}}),
            wire.post("/create_sampling_session", sampler),
        ):
            assert answer.status_code == 404, answer.text
            assert "ended" in answer.json()["detail"]

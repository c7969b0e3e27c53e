"""A trainer's memory has room for so many bytes; who has no place waits, and everybody has a turn."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from events import names
from events.records import RunRecord
from services.model.base import BaseModel
from services.model.lora import LoraSpec
from services.train.engine import TrainEngine
from services.train.held import HeldRun
from services.train.room import Room, free_bytes
from services.train.run import state_bytes
from services.train.worker import TrainWorker
from tests.train.worker_lab import TENANT, Lab, assert_same

SPEC = LoraSpec(rank=4, seed=1)


@pytest.fixture
def size(base: BaseModel) -> int:
    """Bytes of a run of the lab."""
    return state_bytes(SPEC, base)


def inside(worker: TrainWorker) -> list[HeldRun]:
    return [run for run in worker._runs.values() if run.state is not None]


async def watch(worker: TrainWorker, most: int, working: Awaitable[None]) -> set[str]:
    """Work, while no more than `most` runs are ever in memory; those that were."""
    seen: set[str] = set()
    task = asyncio.ensure_future(working)
    while not task.done():
        assert len(inside(worker)) <= most
        seen |= {run.run_id for run in inside(worker)}
        await asyncio.sleep(0.002)
    await task
    return seen


# How much a run takes


@pytest.mark.parametrize(
    "spec",
    [
        LoraSpec(rank=1, seed=0),
        LoraSpec(rank=7, seed=0, train_unembed=False),
        LoraSpec(rank=3, seed=0, train_mlp=False, train_attn=False),
    ],
)
def test_a_run_takes_as_much_as_its_rank_and_layers_say(engine: TrainEngine, spec: LoraSpec) -> None:
    run = engine.new_run(spec)
    buffers = (run.parameters_P, run.gradient_P, run.mean_P, run.variance_P)
    assert state_bytes(spec, engine.base) == sum(buffer.nbytes for buffer in buffers)


def test_a_container_s_limit_is_a_limit(tmp_path: Path) -> None:
    cpu = torch.device("cpu")
    free = free_bytes(cpu, tmp_path)
    assert free > 0
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("400000\n")
    assert free_bytes(cpu, tmp_path) == 600_000
    (tmp_path / "memory.max").write_text("max\n")
    assert free_bytes(cpu, tmp_path) > 600_000


# Who comes and goes


def held(size: int, came: float, last_used: float, idle: bool) -> HeldRun:
    return HeldRun(f"run-{size}-{came}", size=size, came=came, last_used=last_used, idle=idle)


residents = st.lists(
    st.builds(held, st.integers(0, 50), st.floats(0, 100), st.floats(0, 100), st.booleans()), max_size=8
)


@given(residents, st.integers(0, 150), st.floats(0, 100), st.floats(0, 200))
def test_those_leave_who_make_room_and_no_more(
    lot: list[HeldRun], wanted: int, since: float, now: float
) -> None:
    room = Room.__new__(Room)
    room._budget, room._turn = 100, 10.0
    first = HeldRun("first", size=wanted, waits_since=since)
    chosen = room.leavers(first, lot, now)
    staying = [run for run in lot if run not in chosen]
    for run in chosen:
        assert run.idle or now >= max(run.came, since) + room._turn, "it has not had its turn"
        assert not room.fits(first, [one for one in lot if one not in chosen[: chosen.index(run)]])
    if chosen:
        assert room.fits(first, staying)
        if any(not run.idle for run in chosen):
            assert all(not run.idle for run in staying), "those without work leave first"
    elif not room.fits(first, lot):
        busy = [run for run in lot if not (run.idle or now >= max(run.came, since) + room._turn)]
        assert not room.fits(first, busy), "there was room to be made"
    for run in chosen:
        run.leaving = True
    assert not room.leavers(first, lot, now), "nobody is asked twice"


# Training in little room


async def test_runs_that_do_not_fit_together_take_turns_and_come_back_bit_for_bit(
    lab: Lab, size: int
) -> None:
    runs = [await lab.new_run(f"run-{n}") for n in range(4)]

    async def work() -> None:
        first = 1
        for _ in range(2):
            for run in runs:
                end = await lab.lesson(run, first, steps=1)
                await lab.ends_well(run, end - 1)
            first = end
        for run in runs:
            await lab.save(run, first, "end")
            await lab.ends_well(run, first)

    async with lab.worker(memory_bytes=2 * size) as worker:
        assert await watch(worker, 2, work()) == {run.run_id for run in runs}
    for run in runs:
        assert_same(await lab.weights(runs[0], "end"), await lab.weights(run, "end"))
        await lab.each_resolved_once(run, 8)


async def test_a_run_that_always_has_work_does_not_starve_the_others(lab: Lab, size: int) -> None:
    busy, other, third = [await lab.new_run(name) for name in ("busy", "other", "third")]
    stop = asyncio.Event()

    async def keep_busy() -> None:
        number = 1
        while not stop.is_set():  # always several operations ahead
            number = await lab.lesson(busy, number, steps=2)
            await lab.ends_well(busy, max(0, number - 6))

    async with lab.worker(memory_bytes=size, turn_seconds=0.2) as worker:
        working = asyncio.create_task(keep_busy())
        await lab.ends_well(busy, 1)

        async def wait_for_others() -> None:
            for run in (other, third):
                end = await lab.lesson(run, 1, steps=2)
                await lab.ends_well(run, end - 1)

        await watch(worker, 1, wait_for_others())
        stop.set()
        await working
    for run in (other, third):
        await lab.each_resolved_once(run, 7)


async def test_a_run_larger_than_all_the_room_is_trained_alone(lab: Lab, size: int) -> None:
    runs = [await lab.new_run(f"run-{n}") for n in range(2)]

    async def work() -> None:
        for run in runs:
            end = await lab.lesson(run, 1, steps=1)
            await lab.ends_well(run, end - 1)

    async with lab.worker(memory_bytes=size // 2) as worker:
        assert len(await watch(worker, 1, work())) == 2


async def test_a_run_without_a_place_can_be_trained_by_another_trainer(lab: Lab, size: int) -> None:
    runs = [await lab.new_run(f"run-{n}") for n in range(2)]
    for run in runs:
        await lab.lesson(run, 1, steps=1)
    options: dict[str, Any] = {"memory_bytes": size, "turn_seconds": 1000.0}
    async with (
        lab.worker(replica=f"{lab.base}-a", **options) as one,
        lab.worker(replica=f"{lab.base}-b", engine=TrainEngine(lab.engine.base), **options) as other,
    ):
        for run in runs:
            await lab.ends_well(run, 3)
        for run in runs:
            end = await lab.lesson(run, 4, steps=1)
            await lab.ends_well(run, end - 1)
        assert max(len(inside(worker)) for worker in (one, other)) <= 1
    for run in runs:
        await lab.each_resolved_once(run, 7)


async def test_a_run_that_is_gone_is_not_looked_for_again(lab: Lab) -> None:
    """Its end was said while nobody listened."""
    run = await lab.new_run()
    gone, kept = names.run_root(lab.base, TENANT, run.run_id), await lab.new_run("kept")
    async with lab.worker() as worker:
        await lab.ends_well(run, 0)
        worker._activity.draining = True  # takes nothing
        await lab.train(run, 1)
        await until(lambda: bool(worker._runs[gone].pending))
        await worker.hand_over()
        await lab.records.forget(RunRecord, TENANT, run.run_id)
        await lab.bus.purge(lab.stream, f"{gone}.>")
        worker._activity.draining = False
        await lab.train(kept, 1)
        await lab.ends_well(kept, 1)
        await until(lambda: not worker._runs[gone].pending)
    assert await lab.bus.subjects(lab.stream, f"{gone}.>") == []


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.005)

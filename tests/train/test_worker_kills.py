"""Any worker may be killed at any moment, and NATS restarted: the run ends in the same weights, each result once."""

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from events import names, tasks
from events.bus import Bus
from events.envelope import CloudEvent
from events.failure import BusUnavailable
from services.model.base import load_base
from services.train.engine import TrainEngine
from tests.events.nats_process import NatsProcess
from tests.train.worker_lab import TENANT, Lab, assert_same, opened

STEPS = 6


@pytest.fixture
def nats(tmp_path: Path) -> Any:
    with NatsProcess(tmp_path / "nats") as server:
        yield server


@pytest.fixture
async def lab(nats: NatsProcess, tmp_path: Path, engine: TrainEngine) -> AsyncIterator[Lab]:
    async with opened(nats.url, tmp_path, engine, timeout=1.0) as lab:
        yield lab


class BadLink(Bus):
    """A connection on which appends go wrong: `lost` is called before and after each."""

    lost: Any = None

    async def append(self, subject: str, event: CloudEvent, **options: Any) -> int:
        await self.lost(subject, "before")
        sequence = await super().append(subject, event, **options)
        await self.lost(subject, "after")
        return sequence


@pytest.mark.parametrize("seed", range(4))
async def test_workers_killed_at_random_moments_leave_the_same_weights(lab: Lab, seed: int) -> None:
    calm, hard = await lab.new_run("calm"), await lab.new_run("hard")
    end = await lab.lesson(calm, 1, STEPS)
    await lab.save(calm, end, "end")
    async with lab.worker():
        await lab.ends_well(calm, end)
    chance = random.Random(seed)
    await lab.lesson(hard, 1, STEPS)
    await lab.save(hard, end, "end")
    kills = 0
    while len(await lab.entries(hard, "result.*")) <= end:
        reached = asyncio.Event()
        bus = await BadLink.connect(lab.url, name="worker")
        bus.lost = dying(chance.randrange(1, 16), reached)  # type: ignore[attr-defined]
        async with lab.worker(bus):
            polling = asyncio.create_task(lab.end(hard, end))
            await asyncio.wait({asyncio.create_task(reached.wait()), polling}, return_when="FIRST_COMPLETED")
            kills += reached.is_set()
            await tasks.end(polling)
            reached.set()
    assert kills > 2, "the worker was killed in the middle"
    await lab.ends_well(hard, *range(end + 1))
    await lab.each_resolved_once(hard, end + 1)
    assert_same(await lab.weights(hard, "end"), await lab.weights(calm, "end"))
    assert sum((await lab.entries(hard, "checkpoint.>")).values()) == 1


def dying(moments: int, reached: asyncio.Event) -> Any:
    """Lets so many moments before and after writes pass, and then nothing more."""
    left = moments

    async def lost(_: str, __: str) -> None:
        nonlocal left
        left -= 1
        if left <= 0:
            reached.set()
            await asyncio.Event().wait()

    return lost


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("number", [0, 2, 3, 4])
async def test_a_worker_killed_around_a_write_repeats_nothing(lab: Lab, number: int, moment: str) -> None:
    run = await lab.new_run()
    await lab.lesson(run, 1, 1)
    await lab.save(run, 4, "a")
    reached = asyncio.Event()

    async def die(subject: str, when: str) -> None:
        if subject.endswith(f".result.{number}") and when == moment:
            reached.set()
            await asyncio.Event().wait()

    bus = await BadLink.connect(lab.url, name="worker")
    bus.lost = die  # type: ignore[attr-defined]
    async with lab.worker(bus):
        await asyncio.wait_for(reached.wait(), 20)
    async with lab.worker():
        await lab.ends_well(run, *range(5))
    await lab.each_resolved_once(run, 5)
    assert sum((await lab.entries(run, "checkpoint.>")).values()) == 1


async def test_the_log_says_how_much_a_taker_applied_again(lab: Lab) -> None:
    run = await lab.new_run()
    async with lab.worker():
        end = await lab.lesson(run, 1, 1)
        await lab.ends_well(run, end - 1)
    await lab.step(run, end)
    with capture_logs() as said:
        async with lab.worker():
            await lab.ends_well(run, end)
    found = [(line["run"], line["commands"]) for line in said if line["event"] == "run.replayed"]
    assert found == [(run.run_id, end)]


async def test_a_save_killed_between_entry_and_result_finds_its_own_entry(lab: Lab) -> None:
    run = await lab.new_run()
    await lab.save(run, 1, "a")
    reached = asyncio.Event()

    async def die(subject: str, when: str) -> None:
        if ".checkpoint." in subject and when == "after":
            reached.set()
            await asyncio.Event().wait()

    bus = await BadLink.connect(lab.url, name="worker")
    bus.lost = die  # type: ignore[attr-defined]
    async with lab.worker(bus):
        await asyncio.wait_for(reached.wait(), 20)
    before = await lab.entry(run, "a")
    version = before.blob.rpartition("/")[0]
    await lab.blobs.put_folder(f"{version}/0", lab.blobs.staging())  # what one who died before it wrote
    await lab.step(run, 2)
    async with lab.worker():
        await lab.ends_well(run, 1, 2)
    assert await lab.entry(run, "a") == before
    assert await lab.blobs.under(version) == [before.blob]
    assert sum((await lab.entries(run, "checkpoint.>")).values()) == 1


async def test_lost_acknowledgements_write_nothing_twice(lab: Lab) -> None:
    run, calm = await lab.new_run(), await lab.new_run("calm")
    chance = random.Random(3)

    async def lose(subject: str, when: str) -> None:
        if when == "after" and chance.random() < 0.5:
            raise BusUnavailable(f"{subject}: no acknowledgement")

    bus = await BadLink.connect(lab.url, name="worker")
    bus.lost = lose  # type: ignore[attr-defined]
    async with lab.worker(bus):
        for one in (run, calm):
            end = await lab.lesson(one, 1, 2)
            await lab.save(one, end, "end")
        await lab.ends_well(run, *range(end + 1))
        await lab.ends_well(calm, *range(end + 1))
    await lab.each_resolved_once(run, end + 1)
    assert_same(await lab.weights(run, "end"), await lab.weights(calm, "end"))


async def test_a_run_whose_results_cannot_be_written_for_long_is_replayed(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("events.lease.WRITE_SECONDS", 0.1)
    run, calm = await lab.new_run(), await lab.new_run("calm")
    broken = 12

    async def refuse(subject: str, when: str) -> None:
        nonlocal broken
        if (
            subject.startswith(names.run_root(lab.base, TENANT, run.run_id))
            and ".result." in subject
            and broken
        ):
            broken -= 1
            raise BusUnavailable("no answer")

    bus = await BadLink.connect(lab.url, name="worker")
    bus.lost = refuse  # type: ignore[attr-defined]
    async with lab.worker(bus):
        for one in (run, calm):
            end = await lab.lesson(one, 1, 2)
            await lab.save(one, end, "end")
        await lab.ends_well(run, *range(end + 1))
        await lab.ends_well(calm, *range(end + 1))
    await lab.each_resolved_once(run, end + 1)
    assert_same(await lab.weights(run, "end"), await lab.weights(calm, "end"))


async def test_a_restart_of_nats_in_the_middle_loses_and_repeats_nothing(lab: Lab, nats: NatsProcess) -> None:
    run, calm = await lab.new_run(), await lab.new_run("calm")
    async with lab.worker():
        number = 1
        for _ in range(2):
            number = await lab.lesson(run, number, 1)
            nats.stop()
            posting = asyncio.create_task(lab.lesson(run, number, 1))
            await asyncio.sleep(0.05)
            nats.start()
            number = await posting
            await lab.ends_well(run, number - 1)
        await lab.save(run, number, "end")
        await lab.lesson(calm, 1, 4)
        await lab.save(calm, number, "end")
        await lab.ends_well(run, *range(number + 1))
        await lab.ends_well(calm, number)
    await lab.each_resolved_once(run, number + 1)
    assert_same(await lab.weights(run, "end"), await lab.weights(calm, "end"))


async def test_two_workers_at_once_end_in_one_history(lab: Lab) -> None:
    run = await lab.new_run()
    other = TrainEngine(load_base(lab.engine.base.source))
    async with lab.worker(), lab.worker(engine=other):
        end = await lab.lesson(run, 1, 4)
        await lab.save(run, end, "end")
        await lab.ends_well(run, *range(end + 1))
    await lab.each_resolved_once(run, end + 1)
    calm = await lab.new_run("calm")
    await lab.lesson(calm, 1, 4)
    await lab.save(calm, end, "end")
    async with lab.worker():
        await lab.ends_well(calm, end)
    assert_same(await lab.weights(run, "end"), await lab.weights(calm, "end"))

"""A run goes on from its newest snapshot, its log no longer than need be, whoever dies between which two steps."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from events import blob_keys, catalog, liveness, names
from events.bus import Bus
from events.envelope import CloudEvent
from events.failure import BlobsUnavailable, NotFound
from events.lease import Head, read_head, read_lease
from events.records import RunRecord
from services.model.base import load_base
from services.train.engine import TrainEngine
from tests.train.train_data import batch
from tests.train.worker_lab import TENANT, Lab, assert_same

AT_ONCE = {"snapshot_seconds": 0.0}
NEVER = {"snapshot_seconds": 1e6}


def root_of(lab: Lab, run: RunRecord) -> str:
    return names.run_root(lab.base, TENANT, run.run_id)


async def head_of(lab: Lab, run: RunRecord) -> Head:
    return await read_head(lab.bus, lab.stream, root_of(lab, run))


async def head_reaches(lab: Lab, run: RunRecord, number: int) -> Head:
    """Wait until the head contains `number` and the log is purged up to it."""
    moved = asyncio.Event()
    stop = await lab.bus.listen(f"{root_of(lab, run)}.head", lambda _: moved.set())
    async with asyncio.timeout(20):
        while (head := await head_of(lab, run)).number < number:
            await moved.wait()
            moved.clear()
    await stop()
    return head


def snapshots_on_disk(lab: Lab, run: RunRecord, tmp_path: Path) -> list[str]:
    folder = tmp_path / "blobs" / blob_keys.snapshots_key(lab.base, TENANT, run.run_id)
    return sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []


@contextlib.asynccontextmanager
async def drained(lab: Lab, **options: Any) -> AsyncIterator[Any]:
    """A worker that hands over its runs at the end."""
    async with lab.worker(**{**NEVER, **options}) as worker:
        yield worker
        await worker.hand_over()


class Mortal(Bus):
    """A connection whose worker dies at a chosen write or purge."""

    reached: asyncio.Event
    moment: tuple[str, str] = ("", "")
    """(part of the subject, before or after)"""

    async def append(self, subject: str, event: CloudEvent, **options: Any) -> int:
        await self._pass(subject, "before")
        sequence = await super().append(subject, event, **options)
        await self._pass(subject, "after")
        return sequence

    async def purge(self, stream: str, subject_filter: str, **options: Any) -> None:
        await self._pass(f"purge {subject_filter}", "before")
        await super().purge(stream, subject_filter, **options)
        await self._pass(f"purge {subject_filter}", "after")

    async def _pass(self, what: str, when: str) -> None:
        if self.reached.is_set() or (self.moment[0] in what and self.moment[1] == when):
            self.reached.set()
            await asyncio.Event().wait()


@contextlib.asynccontextmanager
async def dies(lab: Lab, part: str, when: str, **options: Any) -> AsyncIterator[asyncio.Event]:
    bus = await Mortal.connect(lab.url, name="mortal")
    assert isinstance(bus, Mortal)
    bus.reached, bus.moment = asyncio.Event(), (part, when)
    loop = asyncio.get_running_loop()
    try:
        with ThreadPoolExecutor() as threads:  # they end with a process: what follows is not to meet one
            loop.set_default_executor(threads)
            async with lab.worker(bus, **{**AT_ONCE, **options}):
                yield bus.reached
    finally:
        loop.set_default_executor(ThreadPoolExecutor())


async def calm_weights(lab: Lab, lessons: int) -> Any:
    """What an undisturbed run of the same lessons comes to."""
    calm = await lab.new_run("calm")
    end = await lab.lesson(calm, 1, lessons)
    await lab.save(calm, end, "end")
    async with lab.worker(**NEVER):
        await lab.ends_well(calm, end)
    return await lab.weights(calm, "end")


async def test_a_run_that_was_handed_over_goes_on_without_a_replay(lab: Lab, tmp_path: Path) -> None:
    run = await lab.new_run()
    async with drained(lab):
        end = await lab.lesson(run, 1, 2)
        await lab.train(run, end)  # a gradient that no step has used is part of the state
        await lab.ends_well(run, end)
    head = await head_of(lab, run)
    assert (head.number, head.released) == (end, True)
    assert await lab.entries(run, "cmd.*") == {}
    assert snapshots_on_disk(lab, run, tmp_path) == [f"{end}-1"]
    passes = 0
    run_passes = lab.engine.run_passes

    def counted(work: Any) -> Any:
        nonlocal passes
        passes += 1
        return run_passes(work)

    lab.engine.run_passes = counted  # type: ignore[method-assign]
    async with lab.worker(**NEVER):
        await lab.train(run, end + 1)
        await lab.step(run, end + 2)
        await lab.save(run, end + 3, "end")
        await lab.ends_well(run, *range(end + 4))
    lab.engine.run_passes = run_passes  # type: ignore[method-assign]
    assert passes == 1
    await lab.each_resolved_once(run, end + 4)
    assert_same(await lab.weights(run, "end"), await calm_weights(lab, 3))


async def test_a_snapshot_keeps_one_blob_and_only_what_is_above_it(lab: Lab, tmp_path: Path) -> None:
    run = await lab.new_run()
    async with lab.worker(**AT_ONCE):
        for number in range(1, 7, 3):
            await lab.lesson(run, number, 1)
            await lab.ends_well(run, number + 2)
            await head_reaches(lab, run, number + 2)
        worker_head = await head_of(lab, run)
    assert worker_head.number == 6
    assert snapshots_on_disk(lab, run, tmp_path)[-1] == "6-1"
    assert all(int(subject.removeprefix("cmd.")) > 3 for subject in await lab.entries(run, "cmd.*"))


MOMENTS = [
    (".head", "before"),
    (".head", "after"),
    ("purge run", "before"),
    ("purge run", "after"),
    (".result.3", "before"),
    (".result.3", "after"),
    (".lease", "after"),
    (".checkpoint", "after"),
]


@pytest.mark.parametrize(("part", "when"), MOMENTS)
async def test_a_death_around_every_step_of_a_snapshot_changes_nothing(
    lab: Lab, part: str, when: str, tmp_path: Path
) -> None:
    run = await lab.new_run()
    end = await lab.lesson(run, 1, 2)
    await lab.save(run, end, "first")
    async with dies(lab, part, when) as reached:
        await asyncio.wait_for(reached.wait(), 20)
    async with drained(lab):
        await lab.lesson(run, end + 1, 1)
        await lab.save(run, end + 4, "end")
        await lab.ends_well(run, *range(end + 5))
    await lab.each_resolved_once(run, end + 5)
    assert sum((await lab.entries(run, "checkpoint.>")).values()) == 2
    assert await lab.entries(run, "cmd.*") == {}
    assert len(snapshots_on_disk(lab, run, tmp_path)) == 1
    assert not list((tmp_path / "blobs" / "aside").iterdir()), "nothing is left half-written"
    calm = await lab.new_run("calm")
    await lab.lesson(calm, 1, 2)
    await lab.save(calm, end, "first")
    await lab.lesson(calm, end + 1, 1)
    await lab.save(calm, end + 4, "end")
    async with lab.worker(**NEVER):
        await lab.ends_well(calm, end + 4)
    assert_same(await lab.weights(run, "end"), await lab.weights(calm, "end"))


@pytest.mark.parametrize(
    ("part", "when"),
    [(".head", "before"), (".head", "after"), (".result.1", "before"), (".result.1", "after")],
)
async def test_a_death_around_a_load_resolves_it_once_though_the_checkpoint_goes(
    lab: Lab, part: str, when: str
) -> None:
    source, run = await lab.new_run("source"), await lab.new_run()
    end = await lab.lesson(source, 1, 1)
    await lab.save(source, end, "a")
    async with drained(lab):
        await lab.ends_well(source, end)
        await lab.ends_well(run, 0)
    entry = await lab.entry(source, "a")
    await lab.load(run, 1, entry, optimizer=True)
    async with dies(lab, f"{root_of(lab, run)}{part}", when, **NEVER) as reached:
        await asyncio.wait_for(reached.wait(), 20)
    contained = (await head_of(lab, run)).number >= 1
    if contained:
        await lab.blobs.delete(entry.blob)
    async with lab.worker(**NEVER):
        await lab.save(run, 2, "b")
        await lab.ends_well(run, 1, 2)
    await lab.each_resolved_once(run, 3)
    assert contained == ((part, when) != (".head", "before"))


async def test_numbers_that_came_out_of_order_are_purged_and_no_others(lab: Lab) -> None:
    run = await lab.new_run()
    await lab.train(run, 5)
    await lab.train(run, 1)
    await lab.step(run, 2)
    async with drained(lab):
        await lab.ends_well(run, 0, 1, 2)
    assert set(await lab.entries(run, "cmd.*")) == {"cmd.5"}
    async with lab.worker(**NEVER):
        await lab.train(run, 3)
        await lab.step(run, 4)
        await lab.ends_well(run, 3, 4, 5)


async def test_a_retry_of_a_command_that_was_purged_changes_nothing(lab: Lab) -> None:
    run = await lab.new_run()
    end = await lab.lesson(run, 1, 1)
    async with drained(lab):
        await lab.ends_well(run, end - 1)
    assert await lab.entries(run, "cmd.*") == {}
    await lab.train(run, 1, batch([9], seed=4))
    await lab.step(run, 3)
    async with drained(lab):
        await lab.ends_well(run, 1, 3)
        await lab.save(run, end, "end")
        await lab.ends_well(run, end)
    await lab.each_resolved_once(run, end + 1)
    assert await lab.entries(run, "cmd.*") == {}
    assert_same(await lab.weights(run, "end"), await calm_weights(lab, 1))


async def test_a_rejected_number_stays_rejected_after_its_entry_is_purged(lab: Lab) -> None:
    run = await lab.new_run()
    await lab.log.reject(TENANT, run, 1, "data: empty")
    await lab.train(run, 2)
    async with drained(lab):
        await lab.ends_well(run, 2)
    assert await lab.entries(run, "cmd.*") == {}
    failure = await lab.failure(run, 1)
    assert (failure.message, failure.category) == ("data: empty", "user")


async def test_a_payload_that_was_left_in_the_blob_store_goes_with_its_command(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("events.claims.CLAIM_BYTES", 100)
    run = await lab.new_run()
    await lab.train(run, 1)
    claims = list((tmp_path / "blobs").rglob("claims/*"))
    assert len(claims) == 2, "creation and batch"
    async with drained(lab):
        await lab.ends_well(run, 0, 1)
    left = set((tmp_path / "blobs").rglob("claims/*"))
    assert not left & set(claims)


async def test_a_run_of_a_living_replica_is_left_to_it(lab: Lab) -> None:
    run = await lab.new_run()
    async with lab.worker(replica=f"{lab.base}-a", **NEVER):
        await lab.ends_well(run, 0)
        stall = asyncio.Event()
        run_passes = lab.engine.run_passes
        loop = asyncio.get_running_loop()
        started = asyncio.Event()

        def wait(work: Any) -> Any:
            loop.call_soon_threadsafe(started.set)
            asyncio.run_coroutine_threadsafe(stall.wait(), loop).result(20)
            return run_passes(work)

        lab.engine.run_passes = wait  # type: ignore[method-assign]
        await lab.train(run, 1)
        await asyncio.wait_for(started.wait(), 10)
        async with lab.worker(replica=f"{lab.base}-b", **NEVER) as second:
            looked = asyncio.Event()
            suspicion = second._holding._suspicion

            async def look(held: Any) -> Any:
                found = await suspicion(held)
                looked.set()
                return found

            object.__setattr__(second._holding, "replica", f"{lab.base}-b")
            type(second._holding)._suspicion = lambda self, held: look(held)  # type: ignore[method-assign,assignment]
            await asyncio.wait_for(looked.wait(), 10)
            stall.set()
            await lab.ends_well(run, 1)
            del type(second._holding)._suspicion
            type(second._holding)._suspicion = suspicion.__func__  # type: ignore[method-assign]
        lab.engine.run_passes = run_passes  # type: ignore[method-assign]
    found = await read_lease(lab.bus, lab.stream, root_of(lab, run))
    assert found is not None
    assert (found[0].epoch, found[0].replica) == (1, f"{lab.base}-a")


async def test_a_command_that_ends_its_trainer_each_time_fails_alone(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five holders die over it; its neighbours finish, and what follows it in its own run goes on."""
    deadly, neighbour = await lab.new_run("deadly"), await lab.new_run("neighbour")
    async with drained(lab, replica=f"{lab.base}-0"):
        await lab.ends_well(deadly, 0)
        await lab.ends_well(neighbour, 0)
    poison = batch([7, 7, 7], seed=1)
    await lab.train(deadly, 1, poison)
    await lab.train(deadly, 2)
    await lab.step(deadly, 3)
    await lab.lesson(neighbour, 1, 2)
    died = asyncio.Event()

    def die_in_it(worker: Any) -> None:
        run = worker._passes.run

        async def run_until_death(work: Any) -> Any:
            if any(len(one.data) == 3 for one in work):
                died.set()
                await asyncio.Event().wait()
            return await run(work)

        worker._passes = SimpleNamespace(run=run_until_death)

    deaths = 0
    for life in range(1, 10):
        died.clear()
        replica = f"{lab.base}-{life}"
        async with lab.worker(replica=replica, **NEVER) as worker:
            die_in_it(worker)
            ending = asyncio.create_task(lab.end(deadly, 3))
            dying = asyncio.create_task(died.wait())
            await asyncio.wait({ending, dying}, return_when=asyncio.FIRST_COMPLETED)
            over = ending.done()
            for task in (ending, dying):
                task.cancel()
            await asyncio.gather(ending, dying, return_exceptions=True)
            if over:
                await lab.ends_well(neighbour, *range(7))
                break
        deaths += 1
        await liveness.bury(lab.bus, replica)
    assert deaths == 5
    failure = await lab.failure(deadly, 1)
    assert failure.category == "server"
    assert "5 trainers" in failure.message
    await lab.ends_well(deadly, 2, 3)
    await lab.each_resolved_once(deadly, 4)
    await lab.each_resolved_once(neighbour, 7)
    lease = await read_lease(lab.bus, lab.stream, root_of(lab, neighbour))
    assert lease is not None
    assert lease[0].deaths <= 2, "no death counts against a neighbour once its suspect runs alone"


async def test_weights_are_bit_for_bit_the_same_after_any_number_of_deaths(lab: Lab) -> None:
    calm, hard = await lab.new_run("calm"), await lab.new_run("hard")
    end = 1
    for run in (calm, hard):
        end = await lab.lesson(run, 1, 3)
        await lab.save(run, end, "end")
    async with lab.worker(deterministic=True, **NEVER):
        await lab.ends_well(calm, end)
        await lab.ends_well(hard, 2)
    async with dies(lab, f"{root_of(lab, hard)}.result.6", "before", deterministic=True) as reached:
        if len(await lab.entries(hard, "result.*")) <= 6:
            await asyncio.wait_for(reached.wait(), 20)
    async with lab.worker(deterministic=True, **AT_ONCE):
        await lab.ends_well(hard, end)
    one, other = await lab.weights(calm, "end"), await lab.weights(hard, "end")
    assert one.keys() == other.keys()
    for name in one:
        assert (one[name] == other[name]).all(), name


async def test_a_head_is_in_the_catalogue_and_names_its_run(lab: Lab) -> None:
    run = await lab.new_run()
    async with drained(lab):
        await lab.ends_well(run, 0)
    stored = await lab.bus.last(lab.stream, f"{root_of(lab, run)}.head")
    assert stored is not None
    assert (stored.event.get_type(), stored.event.get_subject()) == (catalog.HEAD, run.run_id)


async def test_what_was_let_go_of_is_still_warm_unless_somebody_else_held_it(lab: Lab) -> None:
    run = await lab.new_run()
    other = TrainEngine(load_base(lab.engine.base.source))
    async with lab.worker(replica=f"{lab.base}-a", **NEVER) as worker:
        loads: list[int] = []
        load = worker._snapshots.load

        async def counted(held: Any) -> None:
            if held.head.blob is not None:
                loads.append(held.head.number)
            await load(held)

        type(worker._snapshots).load, kept = lambda self, held: counted(held), type(worker._snapshots).load  # type: ignore[method-assign]
        try:
            end = await lab.lesson(run, 1, 1)
            await lab.ends_well(run, end - 1)
            await worker.hand_over()
            end = await lab.lesson(run, end, 1)
            await lab.ends_well(run, end - 1)
            assert loads == []
            await worker.hand_over()
        finally:
            type(worker._snapshots).load = kept  # type: ignore[method-assign]
        await worker._activity.drain(5.0)
        async with lab.worker(engine=other, replica=f"{lab.base}-b", **NEVER) as second:
            end = await lab.lesson(run, end, 1)
            await lab.save(run, end, "end")
            await lab.ends_well(run, end)
            await second.hand_over()
    assert_same(await lab.weights(run, "end"), await calm_weights(lab, 3))


@pytest.mark.parametrize("error", [BlobsUnavailable, NotFound])
async def test_a_store_that_refuses_at_once_is_not_asked_without_end_and_keeps_no_other_run_back(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    run, calm = await lab.new_run(), await lab.new_run("calm")
    async with drained(lab):
        end = await lab.lesson(run, 1, 1)
        await lab.ends_well(run, end - 1)
    refused: list[str] = []
    folder, its = lab.blobs.folder, blob_keys.snapshots_key(lab.base, TENANT, run.run_id)

    def refuse(key: str) -> Any:
        if not key.startswith(its):
            return folder(key)
        refused.append(key)
        raise error(f"blob {key}")

    with monkeypatch.context() as patch:
        patch.setattr(lab.blobs, "folder", refuse)
        patch.setattr("services.train.writes.STORE_SECONDS", 3600.0)
        await lab.step(run, end)
        async with lab.worker():
            async with asyncio.timeout(30):
                while not refused:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            last = await lab.lesson(calm, 1, 4)
            await lab.ends_well(calm, last - 1)
        assert len(refused) == 1
    async with lab.worker():
        await lab.ends_well(run, end)

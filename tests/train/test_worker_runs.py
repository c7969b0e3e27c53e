"""The trainer's loop against a real log: order, sharing, failures, saves, gaps."""

import asyncio
import contextlib
import random
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from events import blob_keys, catalog, liveness, names
from events.checkpoints import entry_event
from events.failure import Conflict
from events.futures import Result
from events.lease import RunHolder
from events.streams import CHECKPOINT
from rekindle.types import decode_forward_backward_output
from services.model.lora import LoraSpec
from services.train import exports
from tests.train.train_data import batch, datum, training
from tests.train.worker_lab import TENANT, Lab, assert_same

# Order


async def test_commands_are_applied_in_number_order_whatever_order_they_come_in(lab: Lab) -> None:
    straight = await lab.new_run("straight")
    end = await lab.lesson(straight, 1, steps=3)
    await lab.save(straight, end, "end")
    crooked = await lab.new_run("crooked", create=False)
    posts = [lab.create(crooked)]
    for first in (1, 4, 7):
        posts += [lab.train(crooked, first), lab.train(crooked, first + 1), lab.step(crooked, first + 2)]
    posts.append(lab.save(crooked, end, "end"))
    random.Random(0).shuffle(posts)
    async with lab.worker():
        for post in posts:
            await post
        await lab.train(crooked, 1, batch([3], seed=99))  # a retry with other content changes nothing
        await lab.step(crooked, 2)
        await lab.ends_well(straight, *range(end + 1))
        await lab.ends_well(crooked, *range(end + 1))
    assert_same(await lab.weights(straight, "end"), await lab.weights(crooked, "end"))
    await lab.each_resolved_once(crooked, end + 1)


async def test_runs_share_passes_and_stay_apart(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = await lab.new_run("alone", seed=7)
    end = await lab.lesson(alone, 1, steps=2)
    await lab.save(alone, end, "end")
    async with lab.worker():
        await lab.ends_well(alone, end)
    sharing: list[int] = []
    run_passes = lab.engine.run_passes

    posted = threading.Event()

    def counted(work: Any) -> Any:
        posted.wait(20)
        sharing.append(len({id(one.run) for one in work}))
        return run_passes(work)

    monkeypatch.setattr(lab.engine, "run_passes", counted)
    twins = [await lab.new_run(f"twin-{n}", seed=7) for n in range(3)]
    async with lab.worker():
        for twin in twins:
            await lab.ends_well(twin, 0)
        await asyncio.gather(*(lab.lesson(twin, 1, steps=2) for twin in twins))
        posted.set()
        for twin in twins:
            await lab.save(twin, end, "end")
        for twin in twins:
            await lab.ends_well(twin, *range(end + 1))
    assert max(sharing) == 3
    for twin in twins:
        assert_same(await lab.weights(twin, "end"), await lab.weights(alone, "end"))


async def test_steps_and_saves_of_a_run_wait_for_no_pass_of_another(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick, slow = await lab.new_run("quick"), await lab.new_run("slow")
    saved = threading.Event()
    in_time: list[bool] = []
    run_passes = lab.engine.run_passes

    def held_up(work: Any) -> Any:
        if len(in_time) == 1:
            in_time.append(saved.wait(20))
        in_time.append(True)
        return run_passes(work)

    monkeypatch.setattr(lab.engine, "run_passes", held_up)
    for run in (quick, slow):
        await lab.train(run, 1)
        await lab.step(run, 2)
    await lab.step(quick, 3)
    await lab.save(quick, 4, "end")
    await lab.train(slow, 3)
    async with lab.worker():
        await lab.ends_well(quick, 4)
        saved.set()
        await lab.ends_well(slow, 3)
    assert all(in_time)


async def test_a_result_is_what_the_engine_computes(lab: Lab) -> None:
    run = await lab.new_run()
    data = batch([4, 6, 3], seed=5)
    async with lab.worker():
        await lab.train(run, 1, data)
        result = await lab.end(run, 1)
    assert isinstance(result, Result)
    state = lab.engine.new_run(LoraSpec(**run.lora.model_dump()))
    expected = lab.engine.run_passes([training(state, data)])[0]
    got = decode_forward_backward_output(result.data)
    for one, other in zip(got.logprobs, expected.logprobs, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    assert got.metrics["loss:sum"] == pytest.approx(expected.metrics["loss:sum"])


# Failures


async def test_a_command_whose_loss_is_not_finite_fails_alone(lab: Lab) -> None:
    good, bad = await lab.new_run("good"), await lab.new_run("bad")
    poison = datum(5, seed=1)
    poison.inputs["logprobs"][:] = -1e4  # type: ignore[index]
    async with lab.worker():
        await lab.ends_well(good, 0)
        await lab.ends_well(bad, 0)
        await lab.train(bad, 1)
        await lab.train(bad, 2, [poison], loss="importance_sampling")
        await lab.train(good, 1)
        await lab.step(bad, 3)
        failure = await lab.failure(bad, 2)
        assert (failure.category, "finite" in failure.message) == ("user", True)
        await lab.ends_well(bad, 1, 3)
        await lab.ends_well(good, 1)
        await lab.save(bad, 4, "end")
        await lab.ends_well(bad, 4)
    twin = await lab.new_run("twin")
    await lab.train(twin, 1)
    await lab.step(twin, 2)
    await lab.save(twin, 3, "end")
    async with lab.worker():
        await lab.ends_well(twin, 3)
    assert_same(await lab.weights(bad, "end"), await lab.weights(twin, "end"))


@pytest.mark.parametrize("fault", ["loss", "kernel"])
async def test_where_each_command_is_a_pass_a_fault_leaves_those_before_it_trained_once(
    lab: Lab, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_passes = lab.engine.run_passes

    def fragile(work: Any) -> Any:
        if fault == "kernel" and any(one.loss_fn != "cross_entropy" for one in work):
            raise RuntimeError("broken kernel")
        return run_passes(work)

    monkeypatch.setattr(lab.engine, "run_passes", fragile)
    good, bad, alone = [await lab.new_run(name, seed=7) for name in ("good", "bad", "alone")]
    poison = datum(5, seed=1)
    poison.inputs["logprobs"][:] = -1e4  # type: ignore[index]
    await lab.train(good, 1)
    await lab.train(bad, 1, [poison], loss="importance_sampling")
    async with lab.worker(deterministic=True):
        assert (await lab.failure(bad, 1)).category == ("user" if fault == "loss" else "server")
        await lab.ends_well(good, 1)
        await lab.train(alone, 1)
        for run in (good, alone):
            await lab.step(run, 2)
            await lab.save(run, 3, "end")
            await lab.ends_well(run, 3)
    assert_same(await lab.weights(good, "end"), await lab.weights(alone, "end"))


async def test_a_pass_that_breaks_is_charged_to_the_command_that_breaks_it(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_passes = lab.engine.run_passes

    def fragile(work: Any) -> Any:
        if any(len(one.data) == 5 for one in work):
            raise RuntimeError("broken kernel")
        return run_passes(work)

    monkeypatch.setattr(lab.engine, "run_passes", fragile)
    runs = [await lab.new_run(f"run-{n}") for n in range(3)]
    async with lab.worker():
        for run in runs:
            await lab.ends_well(run, 0)
        for n, run in enumerate(runs):
            await lab.train(run, 1, batch([4] * (5 if n == 1 else 2)))
        failure = await lab.failure(runs[1], 1)
        assert (failure.category, "broken kernel" in failure.message) == ("server", True)
        await lab.ends_well(runs[0], 1)
        await lab.ends_well(runs[2], 1)


async def test_commands_that_cannot_be_read_fail_alone(lab: Lab) -> None:
    run, other = await lab.new_run(), await lab.new_run("other")
    await lab.send(run, 1, catalog.FORWARD_BACKWARD, b"\xff not protobuf")
    await lab.send(run, 2, catalog.OPTIM_STEP, b"not json")
    await lab.send(run, 3, catalog.SAVE_WEIGHTS, b"{}")
    large = batch([100] * 400)
    await lab.train(run, 4, large)
    (claim,) = (lab.blobs._root / blob_keys.run_claims(lab.base, TENANT, run.run_id)).iterdir()
    claim.unlink()
    await lab.train(run, 5)
    await lab.train(other, 1)
    async with lab.worker():
        for number in (1, 2, 3, 4):
            assert (await lab.failure(run, number)).category == "server"
        await lab.ends_well(run, 0, 5)
        await lab.ends_well(other, 0, 1)


async def test_nothing_can_be_done_with_a_run_whose_creation_was_rejected_in_the_log(lab: Lab) -> None:
    run = await lab.new_run(create=False)
    await lab.log.reject(TENANT, run, 0, "rank: too large")
    await lab.train(run, 1)
    await lab.step(run, 2)
    await lab.save(run, 3, "end")
    async with lab.worker():
        assert (await lab.failure(run, 0)).message == "rank: too large"
        for number in (1, 2, 3):
            assert (await lab.failure(run, number)).category == "user"


# Gaps


async def test_a_number_that_nobody_sends_is_given_up_and_what_waits_goes_on(lab: Lab) -> None:
    run, busy = await lab.new_run(), await lab.new_run("busy")
    await lab.train(run, 1)
    await lab.train(run, 3)
    await lab.step(run, 6)
    async with lab.worker(gap_seconds=0.5):
        await lab.lesson(busy, 1, steps=2)
        await lab.ends_well(run, 0, 1, 3, 6)
        for number in (2, 4, 5):
            failure = await lab.failure(run, number)
            assert failure.category == "server"
        await lab.train(run, 2)  # too late
        await lab.step(run, 7)
        await lab.ends_well(run, 7)
        assert (await lab.failure(run, 2)).category == "server"
        await lab.ends_well(busy, *range(7))
    assert (await lab.entries(run, "cmd.*"))["cmd.2"] == 1
    async with lab.worker(gap_seconds=0.5):
        await lab.save(run, 8, "end")
        await lab.ends_well(run, 8)
    results = {int(subject.removeprefix("result.")) for subject in await lab.entries(run, "result.*")}
    assert {0, 1, 3, 6, 7, 8} <= results <= set(range(9)), (
        "a tombstone is a result; it gets one with a snapshot"
    )


async def test_a_run_whose_creation_never_arrives_is_given_up_too(lab: Lab) -> None:
    run = await lab.new_run(create=False)
    await lab.train(run, 1)
    async with lab.worker(gap_seconds=0.3):
        assert (await lab.failure(run, 1)).category == "user"
        assert (await lab.failure(run, 0)).category == "server"


async def test_gaps_are_released_while_other_runs_keep_the_worker_busy(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, busy = await lab.new_run(), await lab.new_run("busy")
    done = asyncio.Event()

    async def keep_busy() -> int:
        number = 1
        while not done.is_set():
            for _ in range(10):
                await lab.train(busy, number)
                number += 1
            await lab.ends_well(busy, number - 10)
        return number

    async with lab.worker(gap_seconds=0.3):
        working = asyncio.create_task(keep_busy())
        await lab.step(run, 2)
        await lab.ends_well(run, 2)
        done.set()
        await working


# Saves and loads


async def test_a_name_is_taken_by_the_first_save_of_a_burst_unless_overwritten(lab: Lab) -> None:
    run = await lab.new_run()
    await lab.train(run, 1)
    await lab.step(run, 2)
    await lab.save(run, 3, "a")
    await lab.save(run, 4, "a")
    await lab.train(run, 5)
    await lab.step(run, 6)
    for number in (7, 8, 9, 10):
        await lab.save(run, number, "a", overwrite=True)
    await lab.save(run, 11, "b")
    async with lab.worker():
        await lab.ends_well(run, *(n for n in range(12) if n != 4))
        failure = await lab.failure(run, 4)
        assert (failure.category, "exists" in failure.message) == ("user", True)
    standing = await lab.entry(run, "a")
    assert (standing.number, standing.step) == (10, 2)
    assert_same(await lab.weights(run, "a"), await lab.weights(run, "b"), within=0)
    for number in (3, 7, 8, 9, 10):
        planned = names.later_subject(names.collect_subject(TENANT, f"{standing.path}@{number}"))
        found = await lab.bus.last(CHECKPOINT, planned)
        assert (found is None) == (number == 10), "the files of what was saved over go, and no others"


async def test_a_save_that_is_done_again_leaves_a_later_one_that_has_its_name(lab: Lab) -> None:
    """Its result was lost, and the later one's was not: the client knows of that."""
    run = await lab.new_run()
    await lab.save(run, 1, "a", overwrite=True)
    async with lab.worker():
        await lab.ends_well(run, 1)
    later = (await lab.entry(run, "a")).model_copy(update={"number": 9})
    subject = names.checkpoint_subject(lab.base, TENANT, run.run_id, "weights", "a")
    await lab.bus.append(subject, entry_event(TENANT, "train", later))
    await lab.save(run, 2, "a", overwrite=True)
    async with lab.worker():
        await lab.ends_well(run, 2)
    assert await lab.entry(run, "a") == later
    planned = names.later_subject(names.collect_subject(TENANT, f"{later.path}@9"))
    assert await lab.bus.last(CHECKPOINT, planned) is None, "its files stay"


async def test_a_checkpoint_is_loaded_with_and_without_its_optimizer(lab: Lab) -> None:
    run = await lab.new_run()
    end = await lab.lesson(run, 1, steps=2)
    await lab.save(run, end, "half")
    async with lab.worker():
        await lab.ends_well(run, end)
        half = await lab.entry(run, "half")
        whole, bare = await lab.new_run("whole", create=False), await lab.new_run("bare", create=False)
        for one, optimizer in ((whole, True), (bare, False)):
            await lab.load(one, 0, half, optimizer=optimizer)
            await lab.save(one, 1, "start")
        last = await lab.lesson(run, end + 1, steps=1)
        for one in (whole, bare):
            await lab.train(one, 2, batch([5, 9], seed=end + 1))
            await lab.train(one, 3, batch([5, 9], seed=end + 2))
            await lab.step(one, 4)
            await lab.save(one, 5, "end")
        await lab.save(run, last, "end")
        await lab.ends_well(run, last)
        await lab.ends_well(whole, *range(6))
        await lab.ends_well(bare, *range(6))
    assert_same(await lab.weights(whole, "start"), await lab.weights(run, "half"), within=0)
    assert_same(await lab.weights(whole, "end"), await lab.weights(run, "end"))
    assert (await lab.entry(bare, "start")).step == 0
    with pytest.raises(AssertionError):
        assert_same(await lab.weights(bare, "end"), await lab.weights(run, "end"))


async def test_a_checkpoint_whose_files_are_gone_fails_the_load(lab: Lab) -> None:
    run = await lab.new_run()
    await lab.save(run, 1, "a")
    async with lab.worker():
        await lab.ends_well(run, 1)
        entry = await lab.entry(run, "a")
        await lab.blobs.delete(entry.blob)
        await lab.load(run, 2, entry, optimizer=True)
        assert (await lab.failure(run, 2)).category == "server"
        await lab.train(run, 3)
        await lab.ends_well(run, 3)


async def test_a_run_keeps_what_it_loaded_when_the_checkpoint_is_deleted(lab: Lab) -> None:
    source, run = await lab.new_run("source"), await lab.new_run()
    end = await lab.lesson(source, 1, steps=1)
    await lab.save(source, end, "a")
    async with lab.worker():
        await lab.ends_well(source, end)
        entry = await lab.entry(source, "a")
        await lab.load(run, 1, entry, optimizer=True)
        await lab.train(run, 2)
        await lab.step(run, 3)
        await lab.save(run, 4, "before")
        await lab.ends_well(run, 1, 2, 3, 4)
    await lab.blobs.delete(entry.blob)
    async with lab.worker():
        await lab.save(run, 5, "after")
        await lab.ends_well(run, 5)
    assert_same(await lab.weights(run, "before"), await lab.weights(run, "after"))


async def test_what_a_run_has_loaded_is_its_own_whatever_becomes_of_the_checkpoint(lab: Lab) -> None:
    source, run = await lab.new_run("source"), await lab.new_run()
    end = await lab.lesson(source, 1, steps=1)
    await lab.save(source, end, "a")
    async with lab.worker():
        await lab.ends_well(source, end)
        entry = await lab.entry(source, "a")
        await lab.load(run, 1, entry, optimizer=True)
        await lab.ends_well(run, 1)
    await lab.blobs.delete(entry.blob)
    async with lab.worker():
        await lab.save(run, 2, "b")
        await lab.load(run, 3, entry, optimizer=True)
        await lab.ends_well(run, 2)
        assert "no longer exist" in (await lab.failure(run, 3)).message
        await lab.train(run, 4)
        await lab.ends_well(run, 4)
    assert await lab.weights(run, "b") != {}


async def test_a_run_is_not_restored_to_other_weights_when_its_log_is_damaged(lab: Lab) -> None:
    run = await lab.new_run()
    async with lab.worker():
        await lab.lesson(run, 1, steps=1)
        await lab.ends_well(run, 3)
    broken = lab.engine.run_passes

    def fail(work: Any) -> Any:
        raise RuntimeError("a pass that went well once")

    lab.engine.run_passes = fail  # type: ignore[method-assign]
    async with lab.worker():
        await lab.step(run, 4)
        failure = await lab.failure(run, 4)
    lab.engine.run_passes = broken  # type: ignore[method-assign]
    assert (failure.category, "restored" in failure.message) == ("server", True)


async def test_a_save_that_cannot_write_its_files_fails_and_leaves_nothing(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(folder: Path, *_: object, **__: object) -> None:
        (folder / "half").write_bytes(b"x")
        raise OSError("no space left on device")

    run = await lab.new_run()
    async with lab.worker():
        with monkeypatch.context() as broken:
            broken.setattr(exports, "save_state", full_disk)
            await lab.save(run, 1, "a")
            failure = await lab.failure(run, 1)
            assert (failure.category, "no space" in failure.message) == ("server", True)
        await lab.save(run, 2, "a")
        await lab.ends_well(run, 2)
    left = [path.name for path in (lab.blobs._root / "aside").iterdir()]
    assert not [name for name in left if ".save-" in name]


# Leases


async def test_a_worker_whose_run_was_taken_writes_nothing_until_the_taker_is_gone(lab: Lab) -> None:
    run, other = await lab.new_run(), await lab.new_run("other")
    root = names.run_root(lab.base, TENANT, run.run_id)
    async with lab.worker(replica=f"{lab.base}-a") as worker, alive(lab, f"{lab.base}-b"):
        await lab.ends_well(run, 0)
        await RunHolder.take(lab.bus, lab.blobs, lab.base, TENANT, root, replica=f"{lab.base}-b")
        await lab.train(run, 1)
        await lab.train(other, 1)
        await lab.ends_well(other, 0, 1)
        await lab.train(other, 2)
        await lab.ends_well(other, 2)
        held = worker._runs[root]
        await asyncio.gather(*held.writes, return_exceptions=True)
        assert held.state is None
        assert set(await lab.entries(run, "result.*")) == {"result.0"}
        await liveness.bury(lab.bus, f"{lab.base}-b")
        await lab.ends_well(run, 1)
    await lab.each_resolved_once(run, 2)


@contextlib.asynccontextmanager
async def alive(lab: Lab, replica: str) -> AsyncIterator[None]:
    """Another replica that says once that it lives."""
    await liveness._say(lab.bus, replica)
    assert await liveness.lives(lab.bus, replica)
    yield


async def test_a_result_that_the_last_holder_wrote_in_its_last_moment_stands(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = await lab.new_run()
    async with lab.worker():
        await lab.ends_well(run, 0)
    root = names.run_root(lab.base, TENANT, run.run_id)
    old = await RunHolder.take(lab.bus, lab.blobs, lab.base, TENANT, root)
    await lab.train(run, 1)
    take = RunHolder.take

    async def late(*arguments: Any, **options: Any) -> RunHolder:
        with monkeypatch.context() as once:
            once.setattr(RunHolder, "take", take)
            stored = await lab.bus.first(lab.stream, f"{root}.result.0")
            assert stored is not None
            await old.write(f"{root}.result.1", stored.event)
            return await take(*arguments, **options)

    monkeypatch.setattr(RunHolder, "take", late)
    async with lab.worker():
        await lab.train(run, 2)
        await lab.ends_well(run, 1, 2)
    await lab.each_resolved_once(run, 3)


async def test_two_who_take_a_run_at_once_do_not_both_get_it(lab: Lab) -> None:
    root = names.run_root(lab.base, TENANT, "r")
    taking = (RunHolder.take(lab.bus, lab.blobs, lab.base, TENANT, root) for _ in range(8))
    ends = await asyncio.gather(*taking, return_exceptions=True)
    holders = [end for end in ends if isinstance(end, RunHolder)]
    assert len(holders) + sum(isinstance(end, Conflict) for end in ends) == 8
    epochs = [holder.epoch for holder in holders]
    assert epochs == sorted(set(epochs))

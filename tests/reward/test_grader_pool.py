"""The pool: whose fault is a death or a hang, what is tried again, and what outlives what."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import AsyncMock

import psutil
import pytest

from rekindle.types import rewards
from rekindle.types.rewards import ScoreItem
from services.reward import pool as pools
from services.reward import runner
from services.reward.pool import ITEMS_AT_ONCE, Pool
from services.reward.runner import ATTEMPTS
from services.reward.scorer import Scorer
from tests.reward.broken_graders import Broken, BrokenParams

ROOT = Path(__file__).resolve().parents[2]
MODULES = ["tests.reward.broken_graders"]
QUICK = Broken(params=BrokenParams(seconds=0.2), invalid_value=-1.0)


@pytest.fixture(autouse=True)
def little_grace(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pools, "GRACE", 0.3)
    monkeypatch.setattr(runner, "BACKOFF", 0.01)


def items(*completions: str) -> list[ScoreItem]:
    return [ScoreItem(prompt="", completion=completion) for completion in completions]


async def score(*completions: str, spec=QUICK, size: int = 1, **options):
    async with Pool(size, modules=MODULES, **options) as pool:
        return await pool.score("t", spec, items(*completions), {})


async def test_scores_come_in_the_order_of_the_items():
    scores = await score(*(f"pass {value}" for value in range(1, 50)))
    assert [one.value for one in scores] == [float(value) for value in range(1, 50)]
    assert {(one.outcome, one.attempts, one.reason) for one in scores} == {("scored", 1, None)}


async def test_an_invalid_rollout_is_worth_what_the_task_says_and_is_not_tried_again():
    (one,) = await score("invalid no answer")
    assert (one.outcome, one.value, one.reason, one.attempts) == ("invalid", -1.0, "no answer", 1)


async def test_a_grader_that_raises_is_an_error_after_three_attempts_and_never_a_number():
    before, broken, after = await score("pass", "raise by zero", "pass")
    assert (broken.outcome, broken.value, broken.attempts) == ("error", None, ATTEMPTS)
    assert broken.reason == "RuntimeError: by zero"
    assert [before.value, after.value] == [1.0, 1.0] and before.attempts == after.attempts == 1


async def test_an_error_that_passes_is_scored_and_counted():
    (one,) = await score("raise_first")
    assert (one.outcome, one.value, one.attempts) == ("scored", 2.0, 2)


async def test_an_error_is_tried_again_in_another_process_even_if_its_own_was_idle_first(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(runner, "BACKOFF", 0.3)
    async with Pool(2, modules=MODULES) as pool:
        await asyncio.gather(*(pool.score("t", QUICK, items("slow 0.1"), {}) for _ in range(2)))
        longer = asyncio.create_task(pool.score("t", QUICK, items("slow 0.15"), {}))
        (one,) = await pool.score("t", Broken(), items("raise_first"), {})
        await longer
    assert (one.value, one.attempts) == (2.0, 3), "it raises at first in each of the two"


async def test_a_value_that_is_no_number_is_an_error():
    (one,) = await score("nan")
    assert (one.outcome, one.value) == ("error", None)


async def test_a_grader_that_hangs_is_a_timeout_and_the_others_are_scored():
    begin = time.monotonic()
    before, hung, after = await score("pass 2", "hang", "pass 3")
    assert (hung.outcome, hung.value, hung.attempts) == ("timeout", None, ATTEMPTS)
    assert hung.reason == "the grader took longer than 0.2 s"
    assert [before.value, after.value] == [2.0, 3.0] and before.attempts == after.attempts == 1
    assert time.monotonic() - begin < 30


async def test_a_grader_that_notices_its_own_overrun_is_a_timeout():
    (one,) = await score("overrun took too long")
    assert (one.outcome, one.reason, one.attempts) == ("timeout", "took too long", ATTEMPTS)


async def test_a_parent_that_was_held_up_itself_blames_nobody():
    async with Pool(1, modules=MODULES) as pool:
        await pool.score("t", QUICK, items("pass"), {})
        call = asyncio.create_task(pool.score("t", QUICK, items("slow 0.05", "pass"), {}))
        for _ in range(20):
            await asyncio.sleep(0)  # the items are on their way
        hold_up(1.0)
        assert [(one.outcome, one.attempts) for one in await call] == [("scored", 1)] * 2


@pytest.mark.parametrize("what", ["invalid", "overrun", "raise"])
async def test_a_grader_that_gives_no_reason_still_has_one(what: str):
    (one,) = await score(what)
    assert one.outcome != "scored" and one.reason


async def test_a_process_that_dies_in_the_graders_code_is_an_error_with_its_last_words():
    killed, ended, after = await score("die", "exit 3", "pass")
    assert (killed.outcome, killed.reason) == ("error", "the grader died of SIGKILL")
    assert (ended.outcome, ended.reason) == ("error", "the grader ended with code 3: last words")
    assert killed.attempts == ended.attempts == ATTEMPTS and after.value == 1.0


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("hang", "the rollout's code took longer than 0.2 s"),
        ("die", "the rollout's code died of SIGKILL"),
        ("exit 0", "the rollout's code ended with code 0: last words"),
    ],
)
async def test_a_process_that_is_lost_in_the_rollouts_code_is_the_rollouts_fault(what: str, reason: str):
    lost, after = await score(f"rollout {what}", "pass")
    assert (lost.outcome, lost.value, lost.reason, lost.attempts) == ("invalid", -1.0, reason, 1)
    assert after.value == 1.0


async def test_memory_is_limited_and_running_out_of_it_in_the_graders_code_is_an_error():
    hungry, after = await score("eat", "pass", spec=Broken(), memory_bytes=2**30)
    assert hungry.outcome == "error" and "MemoryError" in (hungry.reason or "")
    assert after.value == 1.0


async def test_what_a_grader_prints_reads_and_floods_reaches_nobody():
    (one,) = await score("print")
    assert (one.outcome, one.value, one.reason) == ("scored", 1.0, "read ''")


async def test_a_grader_can_write_no_file(tmp_path: Path):
    (one,) = await score(f"write {tmp_path / 'file'}")
    assert one.outcome == "error" and "File too large" in (one.reason or "")


async def test_a_grader_sees_none_of_the_services_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NATS_URL", "nats://secret@127.0.0.1:4222")
    (one,) = await score("environment")
    assert one.reason is not None and "PYTHONPATH" in one.reason and "NATS_URL" not in one.reason


async def test_a_grader_that_cannot_be_loaded_is_an_error_for_every_item():
    scores = await score("pass", "pass", spec=Broken(params=BrokenParams(loads=False)))
    assert [one.outcome for one in scores] == ["error", "error"]
    assert scores[0].reason == "loading: ImportError: no such library" and scores[0].attempts == ATTEMPTS


async def test_one_process_serves_many_calls_and_several_serve_them_at_once():
    async with Pool(2, modules=MODULES) as pool:
        calls = [pool.score("t", Broken(), items("pid", "slow 0.2"), {}) for _ in range(6)]
        pids = {scores[0].value for scores in await asyncio.gather(*calls)}
        assert len(pids) == 2
        assert pids == {float(pid) for pid in pids_of(pool)}


async def test_a_call_that_is_cancelled_leaves_no_process_at_its_work():
    async with Pool(1, modules=MODULES) as pool:
        assert (await pool.score("t", QUICK, items("pass"), {}))[0].value == 1.0
        (pid,) = pids_of(pool)
        call = asyncio.create_task(pool.score("t", Broken(), items("hang"), {}))
        for _ in range(5):  # turns of the loop, within which it has taken the process
            await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert await gone(pid)
        assert (await pool.score("t", QUICK, items("pass"), {}))[0].value == 1.0


async def test_a_process_that_died_while_idle_costs_no_item_its_score():
    async with Pool(1, modules=MODULES) as pool:
        await pool.score("t", QUICK, items("pass"), {})
        (pid,) = pids_of(pool)
        os.kill(pid, signal.SIGKILL)
        assert await gone(pid)
        (one,) = await pool.score("t", QUICK, items("pass 7"), {})
        assert one.value == 7.0


async def test_nothing_is_left_when_the_pool_closes():
    async with Pool(2, modules=MODULES) as pool:
        pids = pids_of(pool)
        assert len(pids) == 2
    assert not [pid for pid in pids if psutil.pid_exists(pid)]


def test_no_process_outlives_a_parent_that_is_killed():
    program = (
        "import asyncio\n"
        "from services.reward.pool import Pool\n"
        "from tests.reward.broken_graders import Broken\n"
        "from tests.reward.test_grader_pool import MODULES, items, pids_of\n"
        "async def main():\n"
        "    async with Pool(2, modules=MODULES) as pool:\n"
        "        await pool.score('t', Broken(), items('pass'), {})\n"
        "        print(*pids_of(pool), flush=True)\n"
        "        await pool.score('t', Broken(), items('hang'), {})\n"
        "asyncio.run(main())\n"
    )
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'sdk'}"}
    parent = subprocess.Popen(
        [sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    with parent.stdout:
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) == 2 and all(psutil.pid_exists(pid) for pid in pids)
        processes = [psutil.Process(pid) for pid in pids]
        parent.kill()
        parent.wait(60)
    _, alive = psutil.wait_procs(processes, timeout=60)
    assert not alive


async def test_a_slow_item_holds_up_few_others():
    async with Pool(2, modules=MODULES) as pool:
        await pool.score("t", Broken(), items("pass"), {})
        slow = ["slow 0.5", *["pass"] * (ITEMS_AT_ONCE - 1)]
        begun = time.monotonic()
        scores = await pool.score("t", Broken(), items(*slow, *["slow 0.02"] * 24), {})
        assert time.monotonic() - begun < 0.95, "others went on in another process meanwhile"
    assert all(one.outcome == "scored" for one in scores)


async def test_a_combination_goes_on_without_the_component_that_cost_a_process():
    parts = [
        {"grader": {"type": "sql", "params": {"rows_column": "rows", "seconds": 0.2}, "invalid_value": -1.0}},
        {"grader": {"type": "regex", "params": {"pattern": "trim"}}},
    ]
    weights = [{**part, "weight": weight} for part, weight in zip(parts, (0.5, 2.0), strict=True)]
    spec = rewards.Weighted.model_validate({"params": {"graders": weights}})
    item = ScoreItem(prompt="", completion=TRIM_BOMB, columns={"schema": "CREATE TABLE t (a)", "rows": []})
    async with Pool(1) as pool:
        (one,) = await Scorer(dict.fromkeys(("sql", "regex"), pool)).score("t", spec, [item])
    assert (one.outcome, one.value, one.attempts) == ("scored", 1.5, 1)
    assert one.reason == "0: the rollout's code took longer than 0.2 s"


A_LOT = "replace(hex(zeroblob(49000)), '00', 'a')"
TRIM_BOMB = "SELECT " + ", ".join([f"trim({A_LOT}, replace(substr({A_LOT}, 1, 8000), 'a', 'b') || 'a')"] * 30)
"""Billions of comparisons in a few opcodes, between which no progress handler interrupts."""


def hold_up(seconds: float) -> None:
    time.sleep(seconds)


def pids_of(pool: Pool) -> list[int]:
    return [process.pid for process in pool._started if not process.ended]


def _wait_until_gone(pid: int) -> bool:
    deadline = time.monotonic() + 60
    while psutil.pid_exists(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not psutil.pid_exists(pid)


async def gone(pid: int) -> bool:
    return await asyncio.to_thread(_wait_until_gone, pid)


async def test_a_process_that_cannot_be_started_is_an_error_of_the_call_and_leaves_room_for_the_next(
    monkeypatch: pytest.MonkeyPatch,
):
    async with Pool(1, modules=MODULES) as pool:
        await pool.score("t", QUICK, items("exit 3"), {})
        with monkeypatch.context() as broken:
            broken.setattr(pools.Process, "start", AsyncMock(side_effect=OSError("no processes left")))
            with pytest.raises(OSError, match="no processes left"):
                await pool.score("t", QUICK, items(*["pass 1"] * 20), {})
        (found,) = await pool.score("t", QUICK, items("pass 1"), {})
        assert found.value == 1.0

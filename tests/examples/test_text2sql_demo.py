"""The loop against the real stack: own data and the demo's, either client, either judge, and a judge that is killed."""

import contextlib
import json
import math
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import psutil
import pytest

from examples.text2sql.questions import make_databases, make_tasks
from examples.text2sql.verify import TOLERANCE, adapter_match
from tests.examples.demo_base import SEED
from tests.stack import ROOT, Stack, running_stack

KEYS = {
    "seed",
    "rewards",
    "questions",
    "before",
    "after",
    "heldout_schema",
    "seconds",
    "peak_rss_bytes",
    "tokens_per_second",
}


def run_loop(out: Path, *options: object) -> dict[str, Any]:
    """Run the command of a person, which must succeed; returns `result.json`."""
    command = [sys.executable, "-m", "tests.ending", "examples.text2sql.loop"]
    command += ["--out", str(out), *map(str, options)]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stdout[-2000:] + finished.stderr[-4000:]
    assert "execution match, greedy" in finished.stdout
    result: dict[str, Any] = json.loads((out / "result.json").read_text())
    assert set(result) == KEYS
    return result


IN_THE_LOOP = ("--judge", "loop", "--data", "local")


@pytest.mark.parametrize(("client", "options"), [("tinker", ()), ("rekindle", IN_THE_LOOP)])
def test_the_loop_takes_own_questions_and_any_model_on_a_running_server(
    stack: Stack, tmp_path: Path, client: str, options: tuple[str, ...]
):
    database, questions, out = tmp_path / "own.sqlite", tmp_path / "own.jsonl", tmp_path / "out"
    connection = sqlite3.connect(database)
    with connection:
        connection.execute("CREATE TABLE cities (id INTEGER, name TEXT)")
        connection.executemany("INSERT INTO cities VALUES (?, ?)", [(n, f"city {n}") for n in range(20)])
    connection.close()
    rows = [{"question": f"Name {n}?", "sql": f"SELECT name FROM cities WHERE id = {n}"} for n in range(20)]
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows))

    server = ("--base-url", stack.url, "--base-model", stack.base_model, "--cache", tmp_path / "cache")
    own = ("--questions", questions, "--database", database)
    result = run_loop(out, *server, *own, "--steps", 1, "--rewards", "shuffled", "--client", client, *options)
    assert result["rewards"] == "shuffled" and result["heldout_schema"] == {"before": None, "after": None}
    assert [row["excluded"] for row in metrics(out)] == [0, 0]
    assert {path.name for path in out.iterdir()} == {"adapter", "curve.png", "metrics.jsonl", "result.json"}


@pytest.fixture(scope="module")
def learned(base: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the command of a person leaves behind, on a stack of its own: `tinker`, the reward service, a dataset."""
    (folder, cache), out = base, tmp_path_factory.mktemp("learned") / "out"
    run_loop(out, "--seed", SEED, "--steps", 12, "--base-model", folder, "--cache", cache)
    return out


@pytest.fixture(scope="module")
def served(base: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A running stack that serves the base model."""
    with running_stack(f"text2sql={base[0]}", tmp_path_factory.mktemp("served") / "data") as stack:
        yield stack


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_saved_adapter_reproduces_the_final_match_with_plain_transformers_and_peft(
    base: tuple[Path, Path], learned: Path
):
    folder, cache = base
    result = json.loads((learned / "result.json").read_text())
    held_out = make_tasks(make_databases(cache / f"databases-{SEED}", SEED), SEED).held_out
    assert result["questions"] == len(held_out) >= 200
    assert 0.1 < result["before"] < result["after"]
    assert adapter_match(folder, learned / "adapter", held_out) == pytest.approx(
        result["after"], abs=TOLERANCE
    )
    steps = metrics(learned)
    assert [row["step"] for row in steps] == list(range(13))
    assert all(math.isfinite(row["reward"]) for row in steps[1:])
    assert result["peak_rss_bytes"] > 0 and result["tokens_per_second"] > 0


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_both_clients_and_both_judges_give_the_same_curve_with_the_same_seed(
    base: tuple[Path, Path], learned: Path, served: Stack, tmp_path: Path
):
    common = ("--seed", SEED, "--steps", 4, "--cache", base[1], "--base-url", served.url)
    run_loop(tmp_path, *common, "--client", "rekindle", *IN_THE_LOOP)
    assert_same_curve(metrics(tmp_path), metrics(learned)[:5])
    assert {path.name for path in (tmp_path / "adapter").iterdir()} == {
        path.name for path in (learned / "adapter").iterdir()
    }


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_reward_worker_that_is_killed_in_mid_batch_changes_nothing_in_the_curve(
    base: tuple[Path, Path], learned: Path, served: Stack, tmp_path: Path
):
    with Killer(served.data_dir) as killer:
        run_loop(tmp_path, "--seed", SEED, "--steps", 3, "--cache", base[1], "--base-url", served.url)
    assert killer.kills == KILLS
    assert_same_curve(metrics(tmp_path), metrics(learned)[:4])
    assert [row["excluded"] for row in metrics(tmp_path)] == [0] * 4


KILLS = 3
GRADING_SECONDS = 0.05
"""Of processor time in which a grading process scores some of its answers, and not all."""


class Killer:
    """Kills the stack's reward service as soon as it grades, `KILLS` times, the replacement as well."""

    def __init__(self, data_dir: Path) -> None:
        self.kills = 0
        self._processes = data_dir / "processes.json"
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while self.kills < KILLS and not self._ended.is_set():
            with contextlib.suppress(psutil.NoSuchProcess):
                if (reward := self._reward()) is not None and self._grades(reward):
                    reward.kill()
                    self.kills += 1

    def _reward(self) -> psutil.Process | None:
        """The service once it is ready."""
        rows = json.loads(self._processes.read_text())
        pids = [row["pid"] for row in rows if row["service"] == "reward" and row["state"] == "ready"]
        return psutil.Process(pids[0]) if pids else None

    def _grades(self, reward: psutil.Process) -> bool:
        """Wait until one of its children works, or for something else to happen."""
        children = reward.children()
        before = [child.cpu_times().user for child in children]
        while reward.is_running() and reward.status() != psutil.STATUS_ZOMBIE and not self._ended.wait(0.005):
            if any(c.cpu_times().user > b + GRADING_SECONDS for c, b in zip(children, before, strict=True)):
                return True
        return False


def assert_same_curve(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> None:
    for name in ("reward", "match", "heldout"):
        # Tokens may part where two are almost equally likely: rows of a product differ with their company.
        expected = [pytest.approx(row[name], abs=0.02) if row[name] is not None else None for row in theirs]
        assert [row[name] for row in ours] == expected


def metrics(out: Path) -> list[dict[str, Any]]:
    """One row a step, step 0 included."""
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]

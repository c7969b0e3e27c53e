"""The loop against the real stack: with a person's own data and model, and with the demo's own."""

import json
import math
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from examples.text2sql.base_model import Recipe, make_base_model
from examples.text2sql.questions import make_databases, make_tasks
from examples.text2sql.verify import TOLERANCE, adapter_match
from tests.stack import ROOT, Stack

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
    command = [sys.executable, "-m", "examples.text2sql.loop", "--out", str(out), *map(str, options)]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stdout[-2000:] + finished.stderr[-4000:]
    assert "execution match, greedy" in finished.stdout
    result: dict[str, Any] = json.loads((out / "result.json").read_text())
    assert set(result) == KEYS
    return result


@pytest.mark.parametrize("client", ["tinker", "rekindle"])
def test_the_loop_takes_own_questions_and_any_model_on_a_running_server(
    stack: Stack, tmp_path: Path, client: str
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
    result = run_loop(out, *server, *own, "--steps", 1, "--rewards", "shuffled", "--client", client)
    assert result["rewards"] == "shuffled" and result["heldout_schema"] == {"before": None, "after": None}
    assert len(metrics(out)) == 2
    assert {path.name for path in out.iterdir()} == {"adapter", "curve.png", "metrics.jsonl", "result.json"}


SEED = 5


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A base model that knows enough to begin with, and the cache with its databases."""
    cache = tmp_path_factory.mktemp("cache")
    databases = make_databases(cache / f"databases-{SEED}", SEED)
    return make_base_model(Recipe(SEED, corpus_size=20_000, steps=250), databases, cache).folder, cache


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_saved_adapter_reproduces_the_final_match_with_plain_transformers_and_peft(
    base: tuple[Path, Path], tmp_path: Path
):
    (folder, cache), out = base, tmp_path / "out"
    result = run_loop(out, "--seed", SEED, "--steps", 12, "--base-model", folder, "--cache", cache)
    held_out = make_tasks(make_databases(cache / f"databases-{SEED}", SEED), SEED).held_out
    assert result["questions"] == len(held_out) >= 200
    assert 0.1 < result["before"] < result["after"]
    assert adapter_match(folder, out / "adapter", held_out) == pytest.approx(result["after"], abs=TOLERANCE)
    steps = metrics(out)
    assert [row["step"] for row in steps] == list(range(13))
    assert all(math.isfinite(row["reward"]) for row in steps[1:])
    assert result["peak_rss_bytes"] > 0 and result["tokens_per_second"] > 0


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_both_clients_give_the_same_curve_with_the_same_seed(base: tuple[Path, Path], tmp_path: Path):
    folder, cache = base
    common = ("--seed", SEED, "--steps", 4, "--base-model", folder, "--cache", cache)
    for client in ("tinker", "rekindle"):
        run_loop(tmp_path / client, *common, "--client", client)
    ours, theirs = metrics(tmp_path / "rekindle"), metrics(tmp_path / "tinker")
    for name in ("reward", "match", "heldout"):
        # Tokens may part where two are almost equally likely: rows of a product differ with their company.
        expected = [pytest.approx(row[name], abs=0.02) if row[name] is not None else None for row in theirs]
        assert [row[name] for row in ours] == expected
    assert {path.name for path in (tmp_path / "rekindle" / "adapter").iterdir()} == {
        path.name for path in (tmp_path / "tinker" / "adapter").iterdir()
    }


def metrics(out: Path) -> list[dict[str, Any]]:
    """One row a step, step 0 included."""
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]

"""What the benchmark of the pipeline reckons from facts, and the grader that waits."""

import random
import threading
from pathlib import Path

import httpx
import pytest

from benchmarks.models import DEMO, write_tokenizer
from benchmarks.pipeline import DELAYS, Found
from benchmarks.pipeline_runs import prompt, text_of
from benchmarks.rates import Ledger, Rates
from benchmarks.slow_grader import SlowGrader
from events import catalog
from services.data.rl import text

TRAINED, SAMPLED, APPLIED = catalog.BATCH_TRAINED, catalog.SAMPLE_COMPLETED, catalog.STEP_APPLIED


def ledger(run: str, *steps: float) -> Ledger:
    """A run that samples 10 tokens and trains 100 just before each step."""
    found = Ledger()
    for at in steps:
        found.done += [(SAMPLED, run, at - 0.2, 10), (TRAINED, run, at - 0.1, 100), (APPLIED, run, at, 0)]
    return found


def test_the_rate_of_a_run_in_bunches_is_that_of_whole_rounds():
    found = ledger("a", 0.0, 1.0, 10.0, 11.0, 20.0, 21.0)
    rates = found.rates(["a"], since=0.0, rounds_of=2)
    assert (rates.trained, rates.sampled, rates.steps) == pytest.approx((20.0, 2.0, 0.2))


def test_rates_of_runs_add_up_and_what_came_before_counts_not():
    found = ledger("a", 1.0, 2.0, 3.0)
    found.done += ledger("b", 0.0, 2.0, 4.0).done
    assert found.rates(["a", "b"], since=0.5, rounds_of=1).steps == pytest.approx(1.0 + 0.5)


def test_a_run_without_a_whole_round_has_no_rate():
    with pytest.raises(ValueError, match="has made 2 steps; 3 are the least"):
        ledger("a", 1.0, 2.0).rates(["a"], since=0.0, rounds_of=2)


def test_the_bound_is_what_littles_law_admits():
    steps = dict(zip(DELAYS, (2.0, 2.0, 2.0, 0.5), strict=True))
    rates = {delay: Rates(trained=1000 * one, sampled=100 * one, steps=one) for delay, one in steps.items()}
    found = Found(alone=0.8, pipelined=rates, sequential=rates)
    assert found.stage == 0.5
    assert found.possible(2.0) == 1.0  # 4 runs · 0.5 s · 2 batches ≥ 0.8 s + 2 s
    assert found.possible(10.0) == pytest.approx(4.0 / 10.8)
    row = found.row(10.0)
    assert row[:5] == ["10", 500, 50, "25.0%", "25.0%"]
    assert row[5:8] == ["4.0 < 10.5", "4.0 < 10.8", "67.5%"]


def test_a_prompt_has_as_many_tokens_for_the_server_as_for_a_client(tmp_path: Path):
    write_tokenizer(tmp_path, DEMO["vocab_size"])
    tokens = prompt(random.Random(0))
    assert text.load(str(tmp_path)).encode(text_of(tokens)) == tokens
    assert text.load(str(tmp_path)).decode(tokens) == text_of(tokens)


def test_the_slow_grader_answers_many_at_once():
    with SlowGrader() as grader:
        grader.delay = 0.05
        url = str(grader.spec["params"]["url"])
        said: list[list[float]] = []

        def ask() -> None:
            body = {"prompts": ["", ""], "completions": ["a", "b"], "columns": {}}
            said.append(httpx.post(url, json=body, trust_env=False).json()["rewards"])

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    assert len(said) == 8
    assert all(one == said[0] and 0 <= one[0] != one[1] <= 1 for one in said)

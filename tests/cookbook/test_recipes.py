"""Unmodified recipes of tinker-cookbook train against Rekindle, and what they saved loads again.

The cookbook pins an older transformers and so runs in an environment of its own (`task setup:cookbook`),
beside the one that runs the tests.
"""

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tinker

from tests import ending
from tests.conftest import require
from tests.stack import Stack, sdk_client

PYTHON = Path(f"{sys.prefix}-cookbook") / "bin" / "python"
API_KEY = "tml-local"
RECIPE_SECONDS = 240

pytestmark = [pytest.mark.slow, pytest.mark.timeout(RECIPE_SECONDS + 120)]


@dataclass(frozen=True, slots=True)
class Finished:
    """What a recipe left in its log folder."""

    metrics: list[dict[str, Any]]
    """One entry a step."""
    state_path: str
    """The last checkpoint with optimizer state, a tinker path."""
    sampler_path: str
    """The same weights for sampling."""

    def series(self, key: str) -> list[float]:
        """A metric over the steps that logged it."""
        return [entry[key] for entry in self.metrics if key in entry]


@pytest.fixture(scope="module")
def cookbook() -> Path:
    """Folder of the installed cookbook."""
    require(PYTHON.exists(), "the cookbook's environment (task setup:cookbook)")
    where = "import importlib.util; print(importlib.util.find_spec('tinker_cookbook').origin)"
    found = subprocess.run([str(PYTHON), "-c", where], capture_output=True, text=True, timeout=60, check=True)
    return Path(found.stdout.strip()).parent


@pytest.fixture
def service(stack: Stack) -> Iterator[tinker.ServiceClient]:
    with sdk_client(stack) as client:
        yield client


def run_recipe(stack: Stack, recipe: str, log_path: Path, **options: object) -> Finished:
    """Run `tinker_cookbook.recipes.RECIPE.train` to its end."""
    options |= {"model_name": stack.base_model, "renderer_name": "role_colon", "learning_rate": 1e-4}
    options |= {"log_path": log_path, "behavior_if_log_dir_exists": "delete"}
    command = [str(PYTHON), "-P", ending.__file__, f"tinker_cookbook.recipes.{recipe}.train"]
    environment = os.environ | {
        "TINKER_BASE_URL": stack.url,
        "TINKER_API_KEY": API_KEY,
        "WANDB_MODE": "disabled",
        "HF_HUB_OFFLINE": "1",
    }
    outcome = subprocess.run(
        [*command, *(f"{name}={value}" for name, value in options.items())],
        env=environment,
        cwd=log_path.parent,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=RECIPE_SECONDS,
    )
    assert outcome.returncode == 0, outcome.stdout[-2000:] + outcome.stderr[-4000:]
    checkpoint = read_jsonl(log_path / "checkpoints.jsonl")[-1]
    return Finished(
        read_jsonl(log_path / "metrics.jsonl"), checkpoint["state_path"], checkpoint["sampler_path"]
    )


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def assert_finite(series: list[float], steps: int) -> None:
    assert len(series) == steps and all(math.isfinite(value) for value in series), series


def assert_finite_and_changing(series: list[float], steps: int) -> None:
    assert_finite(series, steps)
    assert len(set(series)) == steps, series


def logprobs_N(client: tinker.SamplingClient, tokens_N: list[int]) -> list[float]:
    """Logprobs of all tokens but the first, by a sampler."""
    scores = client.compute_logprobs(tinker.ModelInput.from_ints(tokens_N)).result(60)
    return [score for score in scores[1:] if score is not None]


def assert_checkpoint_loads(service: tinker.ServiceClient, stack: Stack, finished: Finished) -> None:
    """Trainer and sampler load the saved weights, agree on them, and differ from the base model."""
    training = service.create_training_client_from_state_with_optimizer(finished.state_path).result(60)
    sampling = service.create_sampling_client(model_path=finished.sampler_path).result(60)
    base = service.create_sampling_client(base_model=stack.base_model).result(60)
    tokens_N = training.get_tokenizer().encode("User: What is 2 + 5?\n\nAssistant: 7\n\nUser:")

    datum = tinker.Datum(
        model_input=tinker.ModelInput.from_ints(tokens_N[:-1]),
        loss_fn_inputs={
            "target_tokens": tinker.TensorData.from_numpy(np.array(tokens_N[1:], dtype=np.int64)),
            "weights": tinker.TensorData.from_numpy(np.ones(len(tokens_N) - 1, dtype=np.float32)),
        },
    )
    output = training.forward([datum], "cross_entropy").result(60)
    trained_N = output.loss_fn_outputs[0]["logprobs"].to_numpy()
    np.testing.assert_allclose(logprobs_N(sampling, tokens_N), trained_N, atol=1e-4)
    assert not np.allclose(logprobs_N(base, tokens_N), trained_N, atol=1e-4)

    training.forward_backward([datum], "cross_entropy").result(60)
    training.optim_step(tinker.AdamParams(learning_rate=1e-4)).result(60)
    continued = training.forward([datum], "cross_entropy").result(60)
    assert not np.array_equal(continued.loss_fn_outputs[0]["logprobs"].to_numpy(), trained_N)


def test_supervised_chat_recipe_trains_and_its_checkpoint_loads(
    cookbook: Path, stack: Stack, service: tinker.ServiceClient, tmp_path: Path
):
    finished = run_recipe(
        stack,
        "chat_sl",
        tmp_path / "log",
        dataset=cookbook / "example_data" / "conversations.jsonl",
        batch_size=32,
        max_steps=3,
        max_length=512,
    )
    assert_finite_and_changing(finished.series("train_mean_nll"), steps=3)
    assert_checkpoint_loads(service, stack, finished)


def test_arithmetic_rl_recipe_trains_and_its_checkpoint_loads(
    cookbook: Path, stack: Stack, service: tinker.ServiceClient, tmp_path: Path
):
    finished = run_recipe(
        stack,
        "math_rl",
        tmp_path / "log",
        env="arithmetic",
        group_size=4,
        groups_per_batch=8,
        max_tokens=5,
        max_steps=2,
    )
    assert_finite_and_changing(finished.series("optim/entropy"), steps=2)
    assert_finite(finished.series("env/all/reward/total"), steps=2)  # equal by chance now and then
    # Sampler and trainer scored the same tokens with the same weights.
    assert max(finished.series("optim/kl_sample_train_v2")) < 1e-8
    assert_checkpoint_loads(service, stack, finished)

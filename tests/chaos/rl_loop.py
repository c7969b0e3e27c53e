"""A short RL loop with the unmodified tinker SDK that leaves a full trace of what it saw.

Rows come from the data service, rewards from the reward service, each step's policy is saved and deleted: every
kind of process has work in each step. All seeds are the caller's, so two loops on equal servers have equal traces.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tinker

import rekindle
from examples.text2sql.adapter import download_adapter

API_KEY, DATASET = "tml-local", "chaos/sums"
GROUPS, GROUP_SIZE, TOKENS = 4, 6, 12
STEPS_BETWEEN_SAVES = 5
WAIT = 900.0


@dataclass(slots=True)
class Trace:
    """What a loop saw, to be compared; lists have one entry a step."""

    tokens: list[list[list[int]]] = field(default_factory=list)
    rewards: list[list[float]] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    adapter: str = ""
    """sha256 of the exported weights."""


def run_loop(
    url: str, base_model: str, out: Path, go_on: Callable[[int], bool], at_end: Callable[[str], None]
) -> Trace:
    """Train step by step while `go_on`, which is asked with how many have been done.

    `at_end` is called with the run's id before its session ends. Named checkpoints and an export are left then.
    """
    trace = Trace()
    with (
        tinker.ServiceClient(base_url=url, api_key=API_KEY) as service,
        rekindle.ServiceClient(base_url=url, api_key=API_KEY) as own,
    ):
        rows = [
            {"question": f"User: What is {x} + {y}?", "answer": x + y} for x in range(8) for y in range(8)
        ]
        own.datasets.upload(rows, DATASET).result(WAIT)
        training = service.create_lora_training_client(base_model, rank=8, seed=0).result(WAIT)
        rest, tokenizer = tinker.RestClient(base_url=url, api_key=API_KEY), training.get_tokenizer()
        step = 0
        while go_on(step):
            policy = training.save_weights_for_sampler(f"step-{step}").result(WAIT).path
            _step(trace, own, training, service.create_sampling_client(policy), tokenizer, step)
            rest.delete_checkpoint_from_tinker_path(policy).result(WAIT)
            step += 1
            if step % STEPS_BETWEEN_SAVES == 0:
                training.save_state(f"after-{step}").result(WAIT)
        own.datasets.delete(DATASET).result(WAIT)
        download_adapter("tinker", training, url, API_KEY, out)
        at_end(training.get_info().model_id)
    trace.adapter = hashlib.sha256((out / "adapter_model.safetensors").read_bytes()).hexdigest()
    return trace


def _step(
    trace: Trace, own: rekindle.ServiceClient, training: Any, sampler: Any, tokenizer: Any, step: int
) -> None:
    questions = own.datasets.filter(DATASET, [("answer", ">=", step % 5)]).result(WAIT)
    rows = own.datasets.preview(DATASET, questions.version, rows=GROUPS).result(WAIT)
    prompts = [tokenizer.encode(row["question"] + "\n\nAssistant:") for row in rows]
    futures = [
        sampler.sample(
            tinker.ModelInput.from_ints(prompt),
            GROUP_SIZE,
            tinker.SamplingParams(max_tokens=TOKENS, temperature=1.0, seed=1000 * step + index),
        )
        for index, prompt in enumerate(prompts)
    ]
    groups = [future.result(WAIT).sequences for future in futures]
    rewards = _rewards(own, tokenizer, rows, groups)
    gradient = training.forward_backward(_batch(prompts, groups, rewards), "importance_sampling")
    update = training.optim_step(tinker.AdamParams(learning_rate=1e-3))
    trace.losses.append(gradient.result(WAIT).metrics["loss:sum"])
    update.result(WAIT)
    trace.tokens.append([sequence.tokens for group in groups for sequence in group])
    trace.rewards.append(rewards)


def _rewards(own: rekindle.ServiceClient, tokenizer: Any, rows: Any, groups: Any) -> list[float]:
    """Half a point for any number, one for the right one; every rollout must have its score."""
    items = [
        {
            "prompt": row["question"],
            "completion": tokenizer.decode(sequence.tokens),
            "columns": {"answer": str(row["answer"])},
        }
        for row, group in zip(rows, groups, strict=True)
        for sequence in group
    ]
    grader = {"type": "math", "params": {"column": "answer"}}
    response = own.rewards.score(grader, items).result(WAIT)
    assert response.excluded == 0, "a killed process is no grader's failure"
    texts = [item["completion"] for item in items]
    return [
        float(score.value or 0.0) + 0.1 * sum(map(str.isdigit, text))  # type: ignore[arg-type]
        for score, text in zip(response.scores, texts, strict=True)
    ]


def _batch(prompts: Any, groups: Any, rewards: list[float]) -> list[tinker.Datum]:
    left = iter(rewards)
    batch = []
    for prompt, group in zip(prompts, groups, strict=True):
        of_group = [next(left) for _ in group]
        for sequence, reward in zip(group, of_group, strict=True):
            tokens = prompt + sequence.tokens
            padding = [0.0] * (len(prompt) - 1)
            advantage = reward - sum(of_group) / len(of_group)
            batch.append(
                tinker.Datum(
                    model_input=tinker.ModelInput.from_ints(tokens[:-1]),
                    loss_fn_inputs={
                        "target_tokens": np.array(tokens[1:], np.int64),
                        "logprobs": np.array(padding + sequence.logprobs, np.float32),
                        "advantages": np.array(padding + [advantage] * len(sequence.tokens), np.float32),
                    },
                )
            )
    return batch

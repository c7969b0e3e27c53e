"""The loop of the benchmark `pipeline`, twice: as runs of the server, and as a client writes it.

Both draw the same number of completions of the same length for prompts of the same length, have them scored by the
same grader, and take one step by the same loss.
"""

import contextlib
import random
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import rekindle
from benchmarks.models import DEMO, make_model, word_of, write_tokenizer
from benchmarks.slow_grader import SlowGrader
from rekindle.types.rl import Rloo
from services.data.rl.algorithms import rule_of

GROUPS, GROUP_SIZE = 10, 8
PROMPT_TOKENS, NEW_TOKENS = 96, 32
RANK, LEARNING_RATE = 8, 1e-6
BASE, DATASET = "bench", "words"
QUESTIONS = 256


def make_base(folder: Path) -> Path:
    """The base model, with a tokenizer; returns the folder."""
    make_model(folder, DEMO)
    write_tokenizer(folder, DEMO["vocab_size"])
    return folder


def prompt(chance: random.Random) -> list[int]:
    return [chance.randrange(2, DEMO["vocab_size"]) for _ in range(PROMPT_TOKENS)]


def text_of(tokens: Sequence[int]) -> str:
    return " ".join(map(word_of, tokens))


def upload_questions(service: rekindle.ServiceClient) -> None:
    """The dataset of the server's runs."""
    chance = random.Random(0)
    service.datasets.upload(
        [{"question": text_of(prompt(chance))} for _ in range(QUESTIONS)], DATASET
    ).result()


@contextlib.contextmanager
def server_runs(
    service: rekindle.ServiceClient, grader: SlowGrader, count: int, **changes: Any
) -> Iterator[list[str]]:
    """So many RL runs until the block ends: the ids of their training runs. Raises RuntimeError if one ended before."""
    wanted = {
        "base_model": BASE,
        "lora": {"rank": RANK},
        "dataset": {"name": DATASET},
        "prompt": "{question}",
        "grader": grader.spec,
        "algorithm": {"type": "rloo"},
        "groups": GROUPS,
        "group_size": GROUP_SIZE,
        "steps": 100_000,
        "sampling": {"max_tokens": NEW_TOKENS, "stop": []},
        "optimizer": {"learning_rate": LEARNING_RATE},
        "checkpoints": None,
    }
    ours = [service.rl_runs.create({**wanted, **changes}).result() for _ in range(count)]
    try:
        yield [run.training_run for run in ours]
        for run in ours:
            if (stands := service.rl_runs.get(run.id).result()).phase != "running":
                raise RuntimeError(f"{run.id} {stands.phase}: {stands.reason}")
    finally:
        for run in ours:
            service.rl_runs.delete(run.id).result()


@contextlib.contextmanager
def client_runs(service: rekindle.ServiceClient, grader: SlowGrader, count: int) -> Iterator[list[str]]:
    """The same in threads of this process, which end with the block."""
    stop = threading.Event()
    trained = [
        service.create_lora_training_client(BASE, rank=RANK, seed=seed).result() for seed in range(count)
    ]
    with ThreadPoolExecutor(count) as pool:
        loops = [
            pool.submit(ClientLoop(service, grader, training, random.Random(seed)).run, stop)
            for seed, training in enumerate(trained)
        ]
        try:
            yield [training.model_id for training in trained]
        finally:
            stop.set()
    for loop in loops:
        loop.result()


@dataclass(frozen=True, slots=True)
class ClientLoop:
    """Sample, score, train: each begins when the one before has ended."""

    service: rekindle.ServiceClient
    grader: SlowGrader
    training: rekindle.TrainingClient
    chance: random.Random

    def run(self, stop: threading.Event) -> None:
        sampler = self.training.save_weights_and_get_sampling_client().result()
        while not stop.is_set():
            prompts = [prompt(self.chance) for _ in range(GROUPS)]
            groups = self.sample(sampler, prompts)
            rewards = self.score(groups)
            sampler = self.train(prompts, groups, rewards)

    def sample(
        self, sampler: rekindle.SamplingClient, prompts: list[list[int]]
    ) -> list[list[rekindle.SampledSequence]]:
        asked = [
            sampler.sample(
                one,
                GROUP_SIZE,
                rekindle.SamplingParams(max_tokens=NEW_TOKENS, stop=(), seed=self.chance.getrandbits(31)),
            )
            for one in prompts
        ]
        return [list(one.result().sequences) for one in asked]

    def score(self, groups: list[list[rekindle.SampledSequence]]) -> list[list[float]]:
        asked = [
            self.service.rewards.score(
                self.grader.spec,
                [{"prompt": "", "completion": text_of(one.tokens)} for one in group],
                max_excluded=0,
            )
            for group in groups
        ]
        return [[one.value or 0.0 for one in scored.result().scores] for scored in asked]

    def train(
        self,
        prompts: list[list[int]],
        groups: list[list[rekindle.SampledSequence]],
        rewards: list[list[float]],
    ) -> rekindle.SamplingClient:
        rule = rule_of(Rloo())
        batch = [
            datum(tokens, sequence, advantage / (GROUPS * GROUP_SIZE))
            for tokens, group, rewards_G in zip(prompts, groups, rewards, strict=True)
            for sequence, advantage in zip(group, rule.advantages(rewards_G), strict=True)
        ]
        self.training.forward_backward(batch, "importance_sampling")
        self.training.optim_step(rekindle.AdamParams(learning_rate=LEARNING_RATE))
        return self.training.save_weights_and_get_sampling_client().result()


def datum(prompt_P: list[int], sequence: rekindle.SampledSequence, advantage: float) -> rekindle.Datum:
    """As the loss takes it: targets shifted by one, zeros on the prompt."""
    tokens = [*prompt_P, *sequence.tokens]
    padding = [0.0] * (len(prompt_P) - 1)
    return rekindle.Datum(
        rekindle.ModelInput.from_ints(tokens[:-1]),
        {
            "target_tokens": np.array(tokens[1:], np.int64),
            "logprobs": np.array([*padding, *sequence.logprobs], np.float32),
            "advantages": np.array([*padding, *[advantage] * len(sequence.tokens)], np.float32),
        },
    )

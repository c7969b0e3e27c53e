"""The RL loop on a GPU: a model of a real size with random weights, in bfloat16, beside float32 numerics.

    task bench -- gpu

Each step samples groups, rewards sampled tokens from the lower half of the vocabulary, makes one
importance-sampling update and exports the adapter to the sampler: what the service does, without its log.
A reward that rises shows that the gradients point the right way in bfloat16. The mismatch rows compare the
logprobs of the same tokens: sampler and trainer in bfloat16, and the trainer in bfloat16 and float32.
Without a CUDA device it says so and exits 0.

Axes: T tokens of a sequence, N sampled tokens of a step.
"""

import asyncio
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from benchmarks.record import Cell, record
from benchmarks.training import Size
from rekindle.types.datums import Datum
from rekindle.types.requests import AdamParams
from rekindle.types.results import SampledSequence
from services.model.base import load_base
from services.model.lora import LoraSpec
from services.sample.engine import AdapterRef, SampleTask, StopRule
from services.sample.torch_engine import TorchEngine
from services.train.engine import PassWork, TrainEngine
from services.train.run import TrainRun, save_state

REAL_SIZE = Size("hidden 1024, 28 layers", hidden=1024, layers=28, heads=16, vocabulary=151_936, sequences=0)
"""About 0.6 billion parameters, the shape of the smallest Qwen3 but for its narrower heads."""
RANK, LEARNING_RATE = 32, 1e-3


@dataclass(frozen=True, slots=True)
class Plan:
    """How much of the loop is run. Example: Plan(REAL_SIZE, "cuda", torch.bfloat16)."""

    size: Size
    device: str
    dtype: torch.dtype
    steps: int = 10
    prompts: int = 32
    group: int = 8
    prompt_tokens: int = 128
    new_tokens: int = 256


@dataclass(slots=True)
class Timings:
    """Seconds of each stage, one entry a step, and what the steps found."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    rewards: list[float] = field(default_factory=list)
    tokens: int = 0
    """Prompt and completion tokens of one training batch."""

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds.setdefault(name, []).append(time.perf_counter() - begin)

    def median(self, name: str) -> float:
        return statistics.median(self.seconds[name][1:] or self.seconds[name])  # the first warms up


def loop(plan: Plan, folder: Path) -> list[list[Cell]]:
    """Run the loop; rows of what was measured."""
    source = str(plan.size.save(folder / "model"))
    trainer = TrainEngine(load_base(source, dtype=plan.dtype, device=plan.device))
    run = trainer.new_run(LoraSpec(RANK, seed=0, train_unembed=False))
    sampler = TorchEngine(load_base(source, dtype=plan.dtype, device=plan.device), source)
    timings = Timings()
    groups = asyncio.run(_steps(plan, folder, trainer, run, sampler, timings))
    last = [sequence for group in groups for sequence in group]
    data = _datums(_prompts(plan), groups)
    here = _logprobs(trainer, run, data)
    rows = _speeds(plan, timings)
    rows.append(["sampler against trainer, mean |Δ logprob|", *_gap(_sampled(last), here)])
    exact = TrainEngine(load_base(source, dtype=torch.float32, device=plan.device))
    rows.append([f"{plan.dtype} against float32, mean |Δ logprob|", *_gap(_logprobs(exact, run, data), here)])
    return rows


async def _steps(
    plan: Plan, folder: Path, trainer: TrainEngine, run: TrainRun, sampler: TorchEngine, timings: Timings
) -> list[list[SampledSequence]]:
    """All steps; returns the groups of a last sampling, with the weights as they are at the end."""
    prompts, adapter = _prompts(plan), None
    for step in range(plan.steps):
        with timings.stage("sample"):
            groups = await _sample(plan, sampler, prompts, adapter, step)
        data = _datums(prompts, groups)
        timings.tokens = sum(len(datum.tokens) for datum in data)
        timings.rewards.append(float(np.mean([_reward(plan, s) for group in groups for s in group])))
        _advantages(plan, data, groups)
        with timings.stage("forward_backward"):
            trainer.run_passes([PassWork(run, data, "importance_sampling", {}, forward_only=False)])
        with timings.stage("optim_step"):
            trainer.optim_step(run, AdamParams(learning_rate=LEARNING_RATE))
        with timings.stage("export"):
            (version := folder / f"step-{step}").mkdir()
            save_state(version, run, optimizer=False)
            adapter = AdapterRef(version.name, version)
    groups = await _sample(plan, sampler, prompts, adapter, plan.steps)
    await sampler.close()
    return groups


def _prompts(plan: Plan) -> list[list[int]]:
    rng = np.random.default_rng(0)
    return [rng.integers(plan.size.vocabulary, size=plan.prompt_tokens).tolist() for _ in range(plan.prompts)]


async def _sample(
    plan: Plan, sampler: TorchEngine, prompts: Sequence[list[int]], adapter: AdapterRef | None, seed: int
) -> list[list[SampledSequence]]:
    tasks = [
        SampleTask(prompt, 1000 * seed + index, plan.group, plan.new_tokens, stop=StopRule(eos=False))
        for index, prompt in enumerate(prompts)
    ]
    results = await asyncio.gather(*(sampler.sample(task, adapter) for task in tasks))
    return [result.sequences for result in results]


def _reward(plan: Plan, sequence: SampledSequence) -> float:
    return float(np.mean(sequence.tokens < plan.size.vocabulary // 2))


def _datums(prompts: Sequence[list[int]], groups: Sequence[Sequence[SampledSequence]]) -> list[Datum]:
    """One a rollout, with advantages still zero."""
    data = []
    for prompt, group in zip(prompts, groups, strict=True):
        for sequence in group:
            tokens_T = np.concatenate([prompt, sequence.tokens]).astype(np.int64)
            padding = np.zeros(len(prompt) - 1, np.float32)
            inputs = {
                "target_tokens": tokens_T[1:],
                "logprobs": np.concatenate([padding, sequence.logprobs]),
                "advantages": np.zeros(len(tokens_T) - 1, np.float32),
            }
            data.append(Datum(tokens_T[:-1], inputs))
    return data


def _advantages(plan: Plan, data: Sequence[Datum], groups: Sequence[Sequence[SampledSequence]]) -> None:
    """Reward minus the mean of the group, on completion positions."""
    rewards = np.array([[_reward(plan, sequence) for sequence in group] for group in groups])
    centred = (rewards - rewards.mean(axis=1, keepdims=True)).ravel()
    for datum, advantage in zip(data, centred, strict=True):
        datum.inputs["advantages"][plan.prompt_tokens - 1 :] = advantage


def _logprobs(trainer: TrainEngine, run: TrainRun, data: list[Datum]) -> np.ndarray:
    """(N,) logprobs of the completions, by a forward pass of the trainer."""
    result = trainer.run_passes([PassWork(run, data, "importance_sampling", {}, forward_only=True)])[0]
    return np.concatenate(
        [
            logprobs[datum.inputs["logprobs"] != 0]
            for logprobs, datum in zip(result.logprobs, data, strict=True)
        ]
    )


def _sampled(sequences: Sequence[SampledSequence]) -> np.ndarray:
    return np.concatenate([sequence.logprobs for sequence in sequences])


def _gap(a_N: np.ndarray, b_N: np.ndarray) -> tuple[float, str]:
    gap_N = np.abs(a_N - b_N)
    return float(gap_N.mean()), f"largest {gap_N.max():.3g}"


def _speeds(plan: Plan, timings: Timings) -> list[list[Cell]]:
    new = plan.prompts * plan.group * plan.new_tokens
    memory = torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else None
    return [
        ["sampling, tokens/s", new / timings.median("sample"), f"{plan.prompts * plan.group} sequences"],
        [
            "forward_backward, tokens/s",
            timings.tokens / timings.median("forward_backward"),
            f"{timings.tokens} tokens",
        ],
        ["optim_step, ms", 1e3 * timings.median("optim_step"), f"rank {RANK}"],
        ["export of an adapter version, ms", 1e3 * timings.median("export"), None],
        ["reward, first step to last", timings.rewards[-1], f"from {timings.rewards[0]:.3f}"],
        ["peak device memory, GiB", memory, "trainer and sampler, one copy of the model each"],
    ]


def main(say: Callable[[str], None] = print) -> None:
    """Measure and record, or say that there is nothing to measure on."""
    if not torch.cuda.is_available():
        say("no CUDA device: nothing was measured")
        return
    plan = Plan(REAL_SIZE, "cuda", torch.bfloat16)
    with tempfile.TemporaryDirectory() as folder:
        rows = loop(plan, Path(folder))
    note = (
        f"{plan.size.name}, vocabulary {plan.size.vocabulary}, random weights, {plan.dtype} base, "
        f"{torch.cuda.get_device_name()}; {plan.steps} steps of {plan.prompts} prompts of "
        f"{plan.prompt_tokens} tokens, groups of {plan.group}, {plan.new_tokens} tokens sampled. Medians."
    )
    record("gpu", ["measure", "value", "of"], rows, command="task bench -- gpu", note=note)


if __name__ == "__main__":
    main()

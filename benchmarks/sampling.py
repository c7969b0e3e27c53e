"""How fast the torch engine samples, beside `transformers.generate` on the same weights in the same run.

    task bench -- sampling

Equal lengths: all prompts are there at once and every answer has 64 tokens, the best case of `generate`.
Staggered: requests arrive one by one and want 8 to 64 tokens; `generate` takes those that wait, at most 64, as
a padded batch and runs it to its longest answer. Only tokens that were asked for count. Weights are random:
speed does not depend on them. Medians of alternating rounds.
"""

import asyncio
import random
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from benchmarks.models import DEMO, make_model
from benchmarks.record import Cell, record
from services.model.base import load_base
from services.sample.engine import SampleTask, StopRule
from services.sample.torch_engine import TorchEngine

THREADS = 2
LONGEST = 64
ROUNDS = 3
LARGER: Mapping[str, int] = {
    "hidden_size": 512,
    "intermediate_size": 1536,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "vocab_size": 8192,
}


@dataclass(frozen=True, slots=True)
class Request:
    """Example: Request([5, 6], 64, 0.0)."""

    prompt: list[int]
    tokens: int
    """To sample."""
    arrival: float
    """Seconds after the start."""


def equal(count: int) -> list[Request]:
    """`count` prompts of 16 tokens at once, 64 tokens each."""
    rng = random.Random(count)
    return [Request([rng.randrange(2, 700) for _ in range(16)], LONGEST, 0.0) for _ in range(count)]


def staggered(count: int, interval: float) -> list[Request]:
    """`count` prompts of 8 to 32 tokens, one every `interval` seconds, 8 to 64 tokens each."""
    rng = random.Random(count)
    return [
        Request(
            [rng.randrange(2, 700) for _ in range(rng.randint(8, 32))], rng.randint(8, LONGEST), i * interval
        )
        for i in range(count)
    ]


async def run_engine(engine: TorchEngine, requests: Sequence[Request]) -> None:
    """Send each request when it arrives; return when all are answered."""

    async def send(seed: int, request: Request) -> None:
        if request.arrival:
            await asyncio.sleep(request.arrival)
        task = SampleTask(request.prompt, seed, max_tokens=request.tokens, stop=StopRule(eos=False))
        result = await engine.sample(task, None)
        assert len(result.sequences[0].tokens) == request.tokens, "the engine made too few tokens"

    await asyncio.gather(*(send(seed, request) for seed, request in enumerate(requests)))


def run_generate(model: Any, requests: Sequence[Request]) -> None:
    """Take what waits, at most 64, as one batch, until all are answered."""
    begin, done = time.perf_counter(), 0
    while done < len(requests):
        time.sleep(max(0.0, begin + requests[done].arrival - time.perf_counter()))
        now = time.perf_counter() - begin
        batch = [request for request in requests[done : done + 64] if request.arrival <= now]
        generate(model, batch)
        done += len(batch)


def generate(model: Any, batch: Sequence[Request]) -> None:
    """One padded batch, to the longest answer."""
    width = max(len(request.prompt) for request in batch)
    padding = [width - len(request.prompt) for request in batch]
    model.generate(
        input_ids=torch.tensor([[0] * pad + r.prompt for pad, r in zip(padding, batch, strict=True)]),
        attention_mask=torch.tensor([[0] * pad + [1] * (width - pad) for pad in padding]),
        max_new_tokens=max(request.tokens for request in batch),
        do_sample=True,
        top_k=0,
        pad_token_id=0,
    )


async def measure(source: str, scenarios: Mapping[str, Sequence[Request]]) -> list[list[Cell]]:
    """One row for each scenario: tokens per second of both, and their ratio."""
    reference = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    reference.generation_config.eos_token_id = None
    engine = TorchEngine(load_base(source), source, threads=THREADS)
    rows: list[list[Cell]] = []
    for name, requests in scenarios.items():
        wanted = sum(request.tokens for request in requests)
        speeds: tuple[list[float], list[float]] = ([], [])
        for _ in range(ROUNDS + 1):
            begin = time.perf_counter()
            await run_engine(engine, requests)
            middle = time.perf_counter()
            run_generate(reference, requests)
            speeds[0].append(wanted / (middle - begin))
            speeds[1].append(wanted / (time.perf_counter() - middle))
        ours, theirs = (statistics.median(speed[1:]) for speed in speeds)  # the first round warms up
        rows.append([name, round(ours), round(theirs), round(ours / theirs, 2)])
    await engine.close()
    return rows


def main() -> None:
    """Measure, print and record the table."""
    torch.set_num_threads(THREADS)
    columns = ["model", "requests", "torch engine (tokens/s)", "transformers.generate (tokens/s)", "ratio"]
    rows: list[list[Cell]] = []
    for label, shape, stagger in (
        ("hidden 96, 3 layers", DEMO, staggered(256, 0.001)),
        ("hidden 512, 6 layers", LARGER, staggered(64, 0.02)),
    ):
        scenarios = {f"{count}, equal": equal(count) for count in (1, 8, 64)}
        scenarios[f"{len(stagger)}, staggered"] = stagger
        with tempfile.TemporaryDirectory() as folder:
            for row in asyncio.run(measure(str(make_model(Path(folder), shape)), scenarios)):
                rows.append([label, *row])
                print(rows[-1])
    note = (
        f"Float32, {THREADS} threads, temperature 1. Equal: 16 prompt tokens, {LONGEST} sampled; staggered: 8 to 32 "
        f"prompt tokens, 8 to {LONGEST} sampled, requests arrive one by one and `generate` takes those that "
        f"wait as one padded batch. Medians of {ROUNDS} alternating rounds."
    )
    record("sampling", columns, rows, command="task bench -- sampling", note=note)


if __name__ == "__main__":
    main()

"""`forward_backward` beside a plain transformers + PEFT loop over the same data: tokens per second.

    task bench -- training

Both train the same LoRA adapter of rank 16 on all linear layers of the same random model, with the same loss,
in float32 (bfloat16 base on a GPU). The plain loop is what one would write: padded batches of `PLAIN_BATCH` with an
attention mask, in the order given. Rounds alternate, so that a noisy machine is noisy to both; the median counts.
Before anything is timed, both must find the same loss.

Tokens are those of the data, padding not counted.
"""

import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, Qwen3Config, Qwen3ForCausalLM

from benchmarks.record import Cell, record
from rekindle.types.datums import Datum
from rekindle.types.requests import AdamParams
from services.model.base import load_base
from services.model.lora import ALPHA, ATTENTION, MLP, UNEMBED, LoraSpec
from services.train.engine import PassWork, TrainEngine
from services.train.run import TrainRun

RANK = 16
PLAIN_BATCH = 32
ROUNDS = 5
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPE = torch.bfloat16 if DEVICE == "cuda" else torch.float32
LOSS_TOLERANCE = 5e-2 if DEVICE == "cuda" else 1e-4


@dataclass(frozen=True, slots=True)
class Size:
    """A model's shape and the number of sequences to train it on."""

    name: str
    hidden: int
    layers: int
    heads: int
    vocabulary: int
    sequences: int

    def save(self, folder: Path) -> Path:
        """Write a random model of this shape."""
        config = Qwen3Config(
            vocab_size=self.vocabulary,
            hidden_size=self.hidden,
            intermediate_size=3 * self.hidden,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.heads // 2,
            head_dim=self.hidden // self.heads,
            tie_word_embeddings=True,
        )
        torch.manual_seed(0)
        Qwen3ForCausalLM(config).save_pretrained(folder)
        return folder


SIZES = (
    Size("hidden 96, 3 layers", hidden=96, layers=3, heads=4, vocabulary=768, sequences=128),
    Size("hidden 512, 6 layers", hidden=512, layers=6, heads=8, vocabulary=4096, sequences=16),
)
LENGTHS: dict[str, Callable[[int], list[int]]] = {
    "equal (70)": lambda count: [70] * count,
    "mixed (8 to 132)": lambda count: [int(n) for n in np.linspace(8, 132, count)],
}


def main() -> None:
    """Measure and record `benchmarks/results/training.json`."""
    columns = ["model", "lengths", "tokens", "Rekindle (tokens/s)", "transformers + PEFT (tokens/s)", "ratio"]
    rows: list[list[Cell]] = []
    for size in SIZES:
        with tempfile.TemporaryDirectory() as folder:
            model_dir = size.save(Path(folder))
            for name, lengths in LENGTHS.items():
                rows.append(
                    [size.name, name, *compare(model_dir, random_data(lengths(size.sequences), size))]
                )
                print(rows[-1])
    note = (
        f"Forward and backward, LoRA rank {RANK}, importance_sampling, {DTYPE} on {DEVICE}, "
        f"{torch.get_num_threads()} threads; the plain loop pads batches of {PLAIN_BATCH}. "
        f"Medians of {ROUNDS} alternating rounds. An optim_step of the small model takes {step_ms():.2g} ms."
    )
    record("training", columns, rows, command="task bench -- training", note=note)


def random_data(lengths: list[int], size: Size) -> list[Datum]:
    """Sequences of these lengths in random order, as a rollout would leave them."""
    random = np.random.default_rng(0)

    def datum(length: int) -> Datum:
        inputs: dict[str, np.ndarray] = {
            "target_tokens": random.integers(size.vocabulary, size=length),
            "logprobs": np.full(length, -np.log(size.vocabulary), np.float32),
            "advantages": random.normal(size=length).astype(np.float32),
        }
        return Datum(random.integers(size.vocabulary, size=length), inputs)

    return [datum(lengths[index]) for index in random.permutation(len(lengths))]


def compare(model_dir: Path, data: list[Datum]) -> tuple[int, float, float, float]:
    """Tokens, the two speeds in tokens/s, and their ratio."""
    contenders = (rekindle_pass(model_dir, data), plain_pass(model_dir, data))
    ours, plain = (contender() for contender in contenders)
    assert abs(ours - plain) <= LOSS_TOLERANCE * (1 + abs(plain)), f"losses differ: {ours}, {plain}"
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(ROUNDS):
        for contender, times in zip(contenders, seconds, strict=True):
            times.append(timed(contender))
    tokens = sum(len(datum.tokens) for datum in data)
    fast, slow = (tokens / statistics.median(times) for times in seconds)
    return tokens, fast, slow, fast / slow


def timed(function: Callable[[], object]) -> float:
    """Seconds of one call, device work included."""
    start = time.perf_counter()
    function()
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def rekindle_pass(model_dir: Path, data: list[Datum]) -> Callable[[], float]:
    """Forward and backward by our engine; returns the loss."""
    engine, run = new_run(model_dir)
    work = [PassWork(run, data, "importance_sampling", {}, forward_only=False)]
    return lambda: engine.run_passes(work)[0].metrics["loss:sum"]


def new_run(model_dir: Path) -> tuple[TrainEngine, TrainRun]:
    engine = TrainEngine(load_base(str(model_dir), dtype=DTYPE, device=DEVICE))
    return engine, engine.new_run(LoraSpec(RANK, seed=0))


def plain_pass(model_dir: Path, data: list[Datum]) -> Callable[[], float]:
    """Forward and backward as a plain loop over padded batches; returns the loss."""
    model = plain_model(model_dir)
    batches = list(padded_batches(data))

    def run() -> float:
        total = 0.0
        for batch in batches:
            logits = model(input_ids=batch["tokens"], attention_mask=batch["mask"]).logits.float()
            logprobs = logits.log_softmax(-1).gather(2, batch["target_tokens"][..., None])[..., 0]
            loss = -(torch.exp(logprobs - batch["logprobs"]) * batch["advantages"]).sum()
            torch.autograd.backward(loss)
            total += loss.item()
        return total

    return run


def plain_model(model_dir: Path) -> Any:
    """The model with a fresh adapter on the layers that ours has."""
    model: Any = AutoModelForCausalLM.from_pretrained(model_dir, dtype=DTYPE)
    targets = [
        leaf
        for leaf in sorted(ATTENTION | MLP | UNEMBED)
        if any(name.endswith(leaf) for name, _ in model.named_modules())
    ]
    config = LoraConfig(r=RANK, lora_alpha=int(ALPHA), target_modules=targets, task_type="CAUSAL_LM")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Model has `tie_word_embeddings=True`")
        return get_peft_model(model.to(DEVICE), config)


def padded_batches(data: list[Datum]) -> Iterator[dict[str, torch.Tensor]]:
    """Batches in the order given; padding has advantage 0 and is masked."""
    for start in range(0, len(data), PLAIN_BATCH):
        part = data[start : start + PLAIN_BATCH]
        longest = max(len(datum.tokens) for datum in part)
        rows = [{"tokens": d.tokens, "mask": np.ones(len(d.tokens), np.int64), **d.inputs} for d in part]
        yield {
            name: torch.from_numpy(
                np.stack([np.pad(row[name], (0, longest - len(row[name]))) for row in rows])
            ).to(DEVICE)
            for name in rows[0]
        }


def step_ms() -> float:
    """Milliseconds of an optimizer step of the small model, the median of 50."""
    with tempfile.TemporaryDirectory() as folder:
        engine, run = new_run(SIZES[0].save(Path(folder)))
    params = AdamParams(grad_clip_norm=1.0)
    return 1e3 * statistics.median(timed(lambda: engine.optim_step(run, params)) for _ in range(50))


if __name__ == "__main__":
    main()

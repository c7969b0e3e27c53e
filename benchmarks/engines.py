"""How fast the two sampling engines are, side by side: the same models, requests and machine.

    task bench:engines

It needs vLLM, which has an environment of its own (`task setup:vllm`); elsewhere it says so and fails, unless
`REKINDLE_VLLM_PYTHON` names the interpreter of that environment, as `task bench` does: then it runs there.

All requests are there at once and want 64 tokens after prompts of 16, of the base model or of one adapter of
rank 8 on all layers. Weights are random: speed does not depend on them. Medians of alternating rounds.
"""

import asyncio
import os
import random
import statistics
import subprocess
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.record import ROOT, Cell, record
from services.sample.engine import AdapterRef, Engine, SampleTask, StopRule
from services.sample.orphans import end_with_parent

THREADS = 2
TOKENS = 64
COUNTS = (1, 8, 64)
ROUNDS = 3


def shapes() -> dict[str, Mapping[str, Any]]:
    """Those of the sampling benchmark; vLLM on a CPU has no attention for heads as narrow as the demo's."""
    from benchmarks.models import DEMO
    from benchmarks.sampling import LARGER

    return {"hidden 96, 3 layers, heads of 32": {**DEMO, "head_dim": 32}, "hidden 512, 6 layers": LARGER}


async def measure(source: Path, folder: Path) -> list[list[Cell]]:
    """One row for each number of requests, of the base model and of an adapter."""
    from services.model.base import load_base
    from services.model.lora import LoraSpec, init_adapter
    from services.model.peft_files import save_adapter
    from services.sample.torch_engine import TorchEngine
    from services.sample.vllm_engine import VllmEngine
    from services.sample.vllm_setup import VllmOptions

    base = load_base(str(source))
    save_adapter(folder, init_adapter(LoraSpec(rank=8, seed=1), base.layers), str(source))
    engines: list[Engine] = [
        TorchEngine(base, str(source), threads=THREADS),
        await VllmEngine.open(str(source), VllmOptions(threads=THREADS, max_lora_rank=8, max_adapters=1)),
    ]
    try:
        return [
            [label, count, *await speeds(engines, count, adapter)]
            for label, adapter in (("base", None), ("one adapter", AdapterRef("run/a", folder)))
            for count in COUNTS
        ]
    finally:
        for engine in engines:
            await engine.close()


async def speeds(engines: Sequence[Engine], count: int, adapter: AdapterRef | None) -> list[Cell]:
    """Tokens per second of each engine; the first round warms up."""
    found: list[list[float]] = [[] for _ in engines]
    for number in range(ROUNDS + 1):
        for engine, speed in zip(engines, found, strict=True):
            begin = time.perf_counter()
            await asyncio.gather(*(engine.sample(task, adapter) for task in tasks(count, number)))
            speed.append(count * TOKENS / (time.perf_counter() - begin))
    return [round(statistics.median(speed[1:])) for speed in found]


def tasks(count: int, number: int) -> list[SampleTask]:
    """Other prompts in every round, so that no cache has them."""
    rng = random.Random(f"{count} {number}")
    prompts = [[rng.randrange(2, 700) for _ in range(16)] for _ in range(count)]
    return [
        SampleTask(prompt, rng.getrandbits(62), 1, TOKENS, stop=StopRule(eos=False)) for prompt in prompts
    ]


def here() -> None:
    """Measure, print and record the table."""
    from benchmarks.models import make_model

    columns = ["model", "weights", "requests", "torch engine (tokens/s)", "vLLM on a CPU (tokens/s)"]
    rows: list[list[Cell]] = []
    for label, shape in shapes().items():
        with tempfile.TemporaryDirectory() as folder:
            source = make_model(Path(folder) / "model", shape)
            for row in asyncio.run(measure(source, Path(folder) / "adapter")):
                rows.append([label, *row])
                print(rows[-1])
    note = (
        f"Float32, {THREADS} threads, temperature 1, 16 prompt tokens and {TOKENS} sampled; the adapter has rank 8 on "
        f"all layers. Medians of {ROUNDS} alternating rounds in one process."
    )
    record("engines", columns, rows, command="task bench:engines", note=note)


def main() -> None:
    """Run where vLLM is. Raises SystemExit when it is nowhere."""
    python = os.environ.get("REKINDLE_VLLM_PYTHON")
    if find_spec("vllm") is not None:
        warnings.simplefilter("ignore", FutureWarning)  # of libraries that vLLM imports
        here()
    elif python is not None:
        command = [str(Path(python).absolute()), "-m", "benchmarks.engines"]
        subprocess.run(command, cwd=ROOT, check=True)
    else:
        raise SystemExit("engines: vllm is not installed in this environment; run `task bench:engines`")


if __name__ == "__main__":
    main()
elif __name__ == "__mp_main__":  # a process that vLLM has spawned begins here
    end_with_parent()

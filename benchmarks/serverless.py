"""The demo's lesson with a loop and without: what either teaches, and how long it takes.

    python -m benchmarks.serverless [SEED…]

`./task demo` against `./task demo:serverless`, each the command of a person with a server of its own, one after the
other; the base model of a seed is made once.
"""

import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks import demo
from benchmarks.record import Cell, record

COLUMNS = [
    "seed",
    "match before",
    "after, by the loop",
    "after, by the run",
    "difference, points",
    "loop s",
    "run s",
]
Result = Mapping[str, Any]


def row(seed: str, pairs: Sequence[tuple[Result, Result]]) -> list[Cell]:
    """Means over some seeds, or the figures of one; a pair is what came of (the loop, the run)."""
    loops, runs = zip(*pairs, strict=True)
    before, by_loop, by_run = (
        mean(one[when] for one in side)
        for side, when in ((loops, "before"), (loops, "after"), (runs, "after"))
    )
    shares = [f"{share:.1%}" for share in (before, by_loop, by_run)]
    seconds = [f"{mean(one['seconds']['rl'] for one in side):.0f}" for side in (loops, runs)]
    return [seed, *shares, f"{100 * (by_run - by_loop):+.1f}", *seconds]


def main(seeds: Sequence[int] = demo.SEEDS) -> None:
    """Measure and record."""
    with tempfile.TemporaryDirectory() as folder:
        cache, pairs = Path(folder) / "cache", []
        for seed in seeds:
            loop, _ = demo.run("loop", seed, Path(folder) / f"loop-{seed}", cache)
            run, _ = demo.run("serverless", seed, Path(folder) / f"run-{seed}", cache)
            pairs.append((loop, run))
    record(
        "serverless",
        COLUMNS,
        [*(row(str(pair[0]["seed"]), [pair]) for pair in pairs), row("mean", pairs)],
        command="task bench -- serverless",
        note="Match: share of held-out questions whose greedy answer gives the reference rows. The run samples with "
        "weights up to one step old, the loop with the newest. Seconds of the loop are those of its steps; of the run, "
        "from its making to its end: two evaluations more.",
    )


if __name__ == "__main__":
    main([int(seed) for seed in sys.argv[1:]] or demo.SEEDS)

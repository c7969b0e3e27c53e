"""The main job for three seeds, with true and with shuffled rewards: what `./task demo` prints, as one table.

    python -m benchmarks.demo

Every run is the command of a person, in a process of its own; the base model of a seed is made once.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.record import ROOT, record

SEEDS = (0, 1, 2)
COLUMNS = [
    "seed",
    "rewards",
    "match before",
    "match after",
    "unseen schema before",
    "unseen schema after",
    "base training s",
    "RL s",
    "tokens/s",
    "peak memory GiB",
]


def run(seed: int, rewards: str, out: Path, cache: Path) -> dict[str, Any]:
    """One whole demo; returns its result.json."""
    options = ["--seed", str(seed), "--rewards", rewards, "--out", str(out), "--cache", str(cache)]
    subprocess.run([sys.executable, "-m", "examples.text2sql.loop", *options], cwd=ROOT, check=True)
    result: dict[str, Any] = json.loads((out / "result.json").read_text())
    return result


def row(result: Mapping[str, Any]) -> list[str | int | float]:
    unseen, seconds = result["heldout_schema"], result["seconds"]
    shares = [result["before"], result["after"], unseen["before"], unseen["after"]]
    return [
        result["seed"],
        result["rewards"],
        *(f"{share:.1%}" for share in shares),
        f"{seconds['base']:.0f}",
        f"{seconds['rl']:.0f}",
        round(result["tokens_per_second"]),
        result["peak_rss_bytes"] / 2**30,
    ]


def main() -> None:
    """Measure and record."""
    with tempfile.TemporaryDirectory() as folder:
        cache, rows = Path(folder) / "cache", []
        for rewards in ("true", "shuffled"):
            for seed in SEEDS:
                rows.append(row(run(seed, rewards, Path(folder) / f"{rewards}-{seed}", cache)))
    record(
        "demo",
        COLUMNS,
        rows,
        command="task bench -- demo",
        note="Match: share of held-out questions whose greedy answer gives the reference rows. "
        "Shuffled: the same loop, the rewards of a batch permuted. A base model is made once a seed; "
        "tokens/s are completion tokens over the whole loop, judging and evaluation included.",
    )


if __name__ == "__main__":
    main()

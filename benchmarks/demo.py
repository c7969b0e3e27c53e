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


def run(module: str, seed: int, out: Path, cache: Path, *options: str) -> tuple[dict[str, Any], list[str]]:
    """One whole demo, `examples.text2sql.MODULE`; returns its result.json and the lines that it printed."""
    command = [sys.executable, "-m", f"examples.text2sql.{module}", "--seed", str(seed)]
    command += ["--out", str(out), "--cache", str(cache), *options]
    lines: list[str] = []
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None, "stdout is a pipe"
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line.rstrip())
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return json.loads((out / "result.json").read_text()), lines


def excerpt(lines: list[str]) -> list[str]:
    """The first steps, the last one, and the table: what a reader wants to see of a run."""
    steps = [line for line in lines if line.startswith("step ")]
    end = lines.index(steps[-1])
    table = [line for line in lines[end + 1 :] if "events passed" not in line]
    return [*steps[:4], "…", steps[-1], *table]


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
        cache, rows, outputs = Path(folder) / "cache", [], []
        for rewards in ("true", "shuffled"):
            for seed in SEEDS:
                out = Path(folder) / f"{rewards}-{seed}"
                result, lines = run("loop", seed, out, cache, "--rewards", rewards)
                rows.append(row(result))
                outputs.append(lines)
    record("demo-output", ["output"], [[line] for line in excerpt(outputs[0])], command="./task demo")
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

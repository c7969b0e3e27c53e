"""What the demo pays for its data and rewards as services: its median step, against the judge in the loop.

    task bench -- services

One running stack and one base model, for all runs. A round is four runs of the command of a person, each in a process
of its own: both clients, with the questions read from a dataset and scored by the reward service, and with both in the
loop. All runs have one seed, so they take the same steps on the same questions. The order turns with every round, so
that what else the machine does falls on all alike.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.record import ROOT, Cell, record
from examples.text2sql.experiment import CACHE, Options, prepare
from examples.text2sql.stack import running_stack

ROUNDS, STEPS, SEED = 3, 25, 0
CLIENTS = ("rekindle", "tinker")
JUDGES = {"loop": ("loop", "local"), "service": ("reward", "service")}
"""Judge and data of a run."""

Seconds = dict[tuple[str, str], list[float]]
"""Of every step, by client and judge."""


def run(url: str, client: str, judge: str, out: Path) -> list[float]:
    """Seconds of each step of one run, without those that end with an evaluation and the first, which warms up."""
    judging, data = JUDGES[judge]
    options = ["--base-url", url, "--seed", str(SEED), "--steps", str(STEPS), "--out", str(out)]
    options += ["--client", client, "--judge", judging, "--data", data]
    command = [sys.executable, "-m", "examples.text2sql.loop", *options]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    steps = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [step["seconds"] for step in steps[2:] if step["heldout"] is None]


def measure(url: str, folder: Path) -> Seconds:
    """All rounds."""
    seconds: Seconds = {(client, judge): [] for client in CLIENTS for judge in JUDGES}
    for number in range(ROUNDS):
        runs = list(seconds)
        for client, judge in runs if number % 2 == 0 else runs[::-1]:
            found = run(url, client, judge, folder / f"{number}-{client}-{judge}")
            seconds[client, judge] += found
            print(
                f"round {number + 1}  {client:8}  {judge:7}  {1e3 * statistics.median(found):5.0f} ms a step"
            )
    return seconds


def rows(seconds: Seconds) -> list[list[Cell]]:
    """Client, judge and data, median milliseconds of a step, and how many times the loop's own."""
    medians = {key: 1e3 * statistics.median(found) for key, found in seconds.items()}
    return [
        [client, judge, round(median), f"{median / medians[client, 'loop']:.2f}"]
        for (client, judge), median in medians.items()
    ]


def main() -> None:
    """Measure and record the table."""
    base_model = prepare(Options(seed=SEED, cache=CACHE)).served
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with running_stack(None, base_model, folder / "stack") as stack:
            seconds = measure(stack.url, folder)
    note = (
        f"The demo with seed {SEED}, medians over {ROUNDS} alternating rounds of {STEPS} steps (the first of a run and "
        "those with an evaluation left out) on one stack. Service: questions from a dataset, rewards from the reward "
        "service; loop: neither."
    )
    columns = ["client", "judge and data", "median step ms", "ratio"]
    record("services", columns, rows(seconds), command="task bench -- services", note=note)


if __name__ == "__main__":
    main()

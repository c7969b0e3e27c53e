"""What the demo pays for its data and rewards as services: its median step, against the judge in the loop.

    task bench -- services

One running stack and one base model. In each of three rounds either client trains a run of its own, on questions that
it read from a dataset. Every batch of questions is taken twice, by a step that asks the reward service and by one that
judges in the loop, in turns, so that what else the machine does falls on both alike. The screen of the demo is there,
since it reads the events that the service makes.
"""

import random
import statistics
import tempfile
import time
from pathlib import Path

import rekindle
from benchmarks.record import Cell, record
from examples.text2sql.clients import Client, load_sdk
from examples.text2sql.dataset import through_service
from examples.text2sql.experiment import DEMO_MODEL, Experiment, Options, prepare
from examples.text2sql.loop import GROUPS, RANK, learn, rewards_of, roll_out, to_batch
from examples.text2sql.loop_judge import LoopJudge
from examples.text2sql.reward_judge import RewardJudge
from examples.text2sql.scoring import Judge
from examples.text2sql.show import Show
from examples.text2sql.stack import API_KEY, running_stack

ROUNDS, PAIRS = 3, 20
CLIENTS: tuple[Client, ...] = ("rekindle", "tinker")
JUDGES = ("in the loop", "reward service")

Seconds = dict[str, list[float]]
"""Of every step, by judge."""


def measure_round(url: str, client: Client, experiment: Experiment, folder: Path) -> Seconds:
    """`PAIRS` pairs of steps of one run, after a pair that warms up."""
    sdk = load_sdk(client)
    with (
        sdk.ServiceClient(base_url=url, api_key=API_KEY) as service,
        rekindle.ServiceClient(url, API_KEY) as ours,
        Show(url, API_KEY, 2 * PAIRS),
    ):
        tasks = through_service(ours.datasets, experiment.dataset, experiment.tasks, folder)
        judges: dict[str, Judge] = dict(zip(JUDGES, (LoopJudge(), RewardJudge(ours.rewards)), strict=True))
        training = service.create_lora_training_client(
            DEMO_MODEL, rank=RANK, seed=0, train_unembed=False
        ).result()
        tokenizer = training.get_tokenizer()
        sampler = training.save_weights_and_get_sampling_client().result()
        seconds: Seconds = {judge: [] for judge in JUDGES}
        for pair in range(PAIRS + 1):
            for name in JUDGES if pair % 2 else JUDGES[::-1]:
                rng = random.Random(pair)
                asked = rng.sample(tasks.pool, GROUPS)
                begin = time.perf_counter()
                groups = roll_out(sdk, sampler, tokenizer, judges[name], asked, rng)
                batch = to_batch(sdk, groups, rewards_of(groups, shuffled=False, rng=rng))
                sampler = learn(sdk, training, batch)
                seconds[name].append(time.perf_counter() - begin)
    return {name: found[1:] for name, found in seconds.items()}


def measure(url: str, experiment: Experiment, folder: Path) -> dict[Client, Seconds]:
    """All rounds of both clients."""
    seconds: dict[Client, Seconds] = {client: {judge: [] for judge in JUDGES} for client in CLIENTS}
    for number in range(ROUNDS):
        for client in CLIENTS if number % 2 == 0 else CLIENTS[::-1]:
            found = measure_round(url, client, experiment, folder)
            medians = {judge: 1e3 * statistics.median(found[judge]) for judge in JUDGES}
            print(
                f"round {number + 1}  {client:8}", *(f"  {name} {ms:.0f} ms" for name, ms in medians.items())
            )
            for judge in JUDGES:
                seconds[client][judge] += found[judge]
    return seconds


def rows(seconds: dict[Client, Seconds]) -> list[list[Cell]]:
    """Client, judge, median milliseconds of a step, and how many times the loop's own."""
    found: list[list[Cell]] = []
    for client, by_judge in seconds.items():
        medians = {judge: 1e3 * statistics.median(by_judge[judge]) for judge in JUDGES}
        found += [
            [client, judge, round(median), f"{median / medians[JUDGES[0]]:.2f}"]
            for judge, median in medians.items()
        ]
    return found


def main() -> None:
    """Measure and record the table."""
    experiment = prepare(Options())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with running_stack(None, experiment.served, folder / "stack") as stack:
            seconds = measure(stack.url, experiment, folder / "databases")
    note = (
        f"The demo's questions, read from a dataset, and its base model. Medians of {ROUNDS * PAIRS} steps; every "
        "batch of questions is taken twice, once with either judge, in turns."
    )
    columns = ["client", "judge", "median step ms", "ratio"]
    record("services", columns, rows(seconds), command="task bench -- services", note=note)


if __name__ == "__main__":
    main()

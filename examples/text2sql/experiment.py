"""The command line, and what a run needs before its first step: questions, databases and a base model.

Without `--questions` the demo's own data is made from the seed; without `--base-model` so is the base model,
served under the name `text2sql`. A server at `--base-url` must serve the model already.
"""

import argparse
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from examples.text2sql.clients import Client
from examples.text2sql.dataset import DataName
from examples.text2sql.own_data import OwnDataError, read_tasks
from examples.text2sql.questions import Tasks, make_databases, make_tasks
from examples.text2sql.scoring import JudgeName

DEMO_MODEL = "text2sql"
CACHE = Path(__file__).parents[2] / "out" / "cache"


@dataclass(frozen=True)
class Options:
    """The command line of the loop."""

    seed: int = 0
    """Decides data, base model, LoRA and sampling: another seed is another replication."""
    steps: int = 50
    client: Client = "tinker"
    """Which SDK the loop runs with; the same seed gives the same curve."""
    judge: JudgeName = "reward"
    """Who scores: the reward service, or the loop itself; the rewards are the same."""
    data: DataName = "service"
    """Where the questions are read from: a dataset of the server, or this process."""
    rewards: Literal["true", "shuffled"] = "true"
    """`shuffled` permutes the rewards over the whole batch: the control in which nothing can be learned."""
    base_url: str | None = None
    """A running server; None starts one."""
    out: Path = Path("out/demo")
    questions: Path | None = None
    database: Path | None = None
    base_model: str | None = None
    """Name that the server knows, directory or hub id; None makes the demo's own."""
    cache: Path = CACHE


def read_options(arguments: Sequence[str] | None = None) -> Options:
    """The options of a command line; argparse ends the program on what it does not know."""
    defaults = Options()
    parser = make_parser("Teach a language model SQL by running what it writes.", defaults.out)
    parser.add_argument("--client", choices=("tinker", "rekindle"), default=defaults.client, help="the SDK")
    parser.add_argument(
        "--judge", choices=("reward", "loop"), default=defaults.judge, help="the reward service, or the loop"
    )
    parser.add_argument(
        "--data", choices=("service", "local"), default=defaults.data, help="where questions are read from"
    )
    parser.add_argument("--rewards", choices=("true", "shuffled"), default=defaults.rewards)
    return Options(**vars(parser.parse_args(arguments)))


def make_parser(description: str, out: Path) -> argparse.ArgumentParser:
    """Of the options that do not ask who drives the lesson."""
    defaults = Options()
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--seed", type=int, default=defaults.seed)
    parser.add_argument("--steps", type=int, default=defaults.steps)
    parser.add_argument(
        "--base-url", help="a running server that serves the base model; without it one is started"
    )
    parser.add_argument("--base-model", help="name, directory or hub id; without it a small one is made")
    parser.add_argument("--out", type=Path, default=out)
    parser.add_argument("--questions", type=Path, help="JSONL rows with question and sql")
    parser.add_argument("--database", type=Path, help="the SQLite file that they ask about")
    parser.add_argument("--cache", type=Path, default=defaults.cache, help="where base models are kept")
    return parser


@dataclass(frozen=True)
class Experiment:
    """A prepared run."""

    tasks: Tasks
    dataset: str
    """The name of the questions on a server."""
    base_model: str
    """The name to ask the API for."""
    served: str
    """What `rekindle up --base-model` takes to serve it under that name."""
    base_seconds: float
    """Seconds that training the base model took, whenever that was; 0 for somebody else's model."""


def prepare(options: Options) -> Experiment:
    """Read or make the questions, and make the base model if it is ours; raises OwnDataError on bad input."""
    if (options.questions is None) != (options.database is None):
        raise OwnDataError("--questions and --database belong together: give both or neither")
    databases = make_databases(options.cache / f"databases-{options.seed}", options.seed)
    if options.questions is not None and options.database is not None:
        tasks = read_tasks(options.questions, options.database)
        dataset = f"text2sql/own-{hashlib.sha256(options.questions.read_bytes()).hexdigest()[:12]}"
    else:
        tasks, dataset = make_tasks(databases, options.seed), f"text2sql/seed-{options.seed}"
    if options.base_url is not None or options.base_model is not None:
        name = options.base_model or DEMO_MODEL
        return Experiment(tasks, dataset, name, name, 0.0)
    # torch is needed only to make a model.
    from examples.text2sql.base_model import Recipe, make_base_model

    base = make_base_model(Recipe(options.seed), databases, options.cache)
    return Experiment(tasks, dataset, DEMO_MODEL, f"{DEMO_MODEL}={base.folder}", base.seconds)

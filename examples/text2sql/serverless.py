"""The same lesson without a loop: the upload of the questions starts a run that the server drives; here it is watched.

A trigger stands and waits. The questions come in, the server says `dataset.uploaded`, and the run of `serverless.yaml`
begins. All that is left to do here is `rekindle run watch`, and that may be killed like any process of the server: the
run goes on where it was. With --base-url it goes on even when this program is gone.
"""

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from examples.text2sql.dataset import to_rows
from examples.text2sql.experiment import Experiment, Options, make_parser, prepare
from examples.text2sql.own_data import OwnDataError
from examples.text2sql.questions import Tasks
from examples.text2sql.show import show_result
from examples.text2sql.stack import API_KEY, StackError, running_stack
from rekindle import ServiceClient
from rekindle.rl_runs import OVER
from rekindle.types.datasets import DatasetVersion
from rekindle.types.rl import MetricsRow, RlRunInfo, read_yaml

SPEC = Path(__file__).with_name("serverless.yaml")
LOOK_SECONDS = 0.2
"""From one look for the run to the next."""


class RunError(RuntimeError):
    """The upload started no run, or the run has not come to its end."""


def wanted_run(options: Options, experiment: Experiment) -> dict[str, Any]:
    """The spec that the trigger fills in."""
    spec: dict[str, Any] = read_yaml(SPEC.read_text(encoding="utf-8"))
    return spec | {"base_model": experiment.base_model, "seed": options.seed, "steps": options.steps}


def await_upload(service: ServiceClient, trigger: str, dataset: str, spec: dict[str, Any]) -> None:
    """Have every upload of the dataset from now on start a run."""
    service.triggers.create(trigger, "dataset.uploaded", match={"name": dataset}, start=spec).result()


def upload(service: ServiceClient, dataset: str, tasks: Tasks) -> DatasetVersion:
    """Those that are held out first, under `…/held-out`: the run begins when it has what it learns from."""
    rows = to_rows(tasks)
    for part, name in (("held_out", f"{dataset}/held-out"), ("pool", dataset)):
        version = service.datasets.upload([row for row in rows if row["part"] == part], name).result()
    return version


def started_run(service: ServiceClient, trigger: str) -> str:
    """The run that the first upload has started. Raises RunError."""
    while not (firings := service.triggers.firings(trigger).result()):
        time.sleep(LOOK_SECONDS)
    if firings[-1].run is None:
        raise RunError(f"the trigger fired and started nothing: {firings[-1].reason}")
    return firings[-1].run


def watch_command(url: str, run_id: str) -> list[str]:
    """What a person would type."""
    return ["rekindle", "run", "--base-url", url, "watch", run_id]


def watch(service: ServiceClient, command: Sequence[str], run_id: str) -> RlRunInfo:
    """Run the command until the run is over, anew each time that somebody has ended it. Raises RunError."""
    executable = str(Path(sys.executable).with_name(command[0]))
    environment = {**os.environ, "REKINDLE_API_KEY": API_KEY}
    while (run := service.rl_runs.get(run_id).result()).phase not in OVER:
        subprocess.run([executable, *command[1:]], env=environment, check=False)
    if run.phase != "completed":
        raise RunError(f"{run_id} is {run.phase}: {run.reason}")
    return run


def result_of(run: RlRunInfo, rows: Sequence[MetricsRow], experiment: Experiment) -> dict[str, Any]:
    """What stands in `result.json`."""
    assert run.ended is not None and run.spec.evaluation is not None, "it was measured, and is over"
    matches = dict(pair for row in rows for pair in row.evaluations)
    seconds = (run.ended - run.created).total_seconds()
    return {
        "run": run.id,
        "trigger": run.trigger,
        "seed": run.spec.seed,
        "rewards": "true",
        "questions": min(len(experiment.tasks.held_out), run.spec.evaluation.rows),
        "before": matches[0],
        "after": matches[max(matches)],
        "heldout_schema": {"before": None, "after": None},
        "seconds": {"base": experiment.base_seconds, "rl": seconds},
        "tokens_per_second": sum(row.tokens_sampled or 0 for row in rows) / seconds,
    }


def main(options: Options) -> dict[str, Any]:
    """Prepare, upload, watch, and keep what came of it in the folder; returns what stands in `result.json`."""
    experiment, console, mark = prepare(options), Console(), uuid.uuid4().hex[:8]
    dataset, trigger = (
        f"{experiment.dataset}/{mark}",
        f"text2sql-{mark}",
    )  # an upload of known rows is no news
    options.out.mkdir(parents=True, exist_ok=True)

    def say(text: str) -> None:
        console.print(Text(text), soft_wrap=True)

    with (
        running_stack(options.base_url, experiment.served, options.out / "stack") as stack,
        ServiceClient(stack.url, API_KEY) as service,
    ):
        await_upload(service, trigger, dataset, wanted_run(options, experiment))
        say(f"trigger {trigger}: dataset.uploaded, name={dataset} -> {SPEC.name}")
        version = upload(service, dataset, experiment.tasks)
        say(f"uploaded {version.name}, version {version.version}: {version.rows} questions")
        run_id = started_run(service, trigger)
        command = watch_command(stack.url, run_id)
        say(f"started by that: {run_id}\n$ {' '.join(command)}")
        run = watch(service, command, run_id)
        rows = service.rl_runs.metrics(run_id).result()
        service.rl_runs.plot(run_id, options.out / "run.png").result()
        service.rl_runs.to_csv(run_id, options.out / "metrics.csv").result()
        service.triggers.delete(trigger).result()
    result = result_of(run, rows, experiment)
    (options.out / "result.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    show_result(console, result)
    return result


def read_options(arguments: Sequence[str] | None = None) -> Options:
    """The options of a command line; argparse ends the program on what it does not know."""
    parser = make_parser("Have an upload start a run that teaches a model SQL.", Path("out/serverless"))
    return Options(**vars(parser.parse_args(arguments)))


if __name__ == "__main__":
    try:
        main(read_options())
    except (OwnDataError, StackError, RunError) as error:
        sys.exit(f"text2sql: {error}")

"""Metrics of RL runs for others: CSV, Weights & Biases, MLflow. Each of the two by its own package, where installed."""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from rekindle.errors import MissingPackage
from rekindle.types.rl import MetricsRow, RlRunInfo

MAX_PARAMETER = 500
"""Characters of a parameter that every version of MLflow takes."""


def to_csv(rows: Sequence[MetricsRow], path: Path) -> Path:
    """Write the rows under the names of their fields; evaluations are a JSON list of [version, value]."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(MetricsRow.model_fields))
        writer.writeheader()
        for row in rows:
            values = row.model_dump(mode="json")
            writer.writerow(values | {"evaluations": json.dumps(values["evaluations"])})
    return path


def to_wandb(run: RlRunInfo, rows: Sequence[MetricsRow], *, project: str, **options: Any) -> str:
    """Log a run to Weights & Biases; its address, empty where it has none. `options` are those of `wandb.init`."""
    wandb = package("wandb", "wandb")
    config = run.spec.model_dump(mode="json") | {"rl_run": run.id}
    tags = list(run.spec.tags)
    with wandb.init(project=project, name=run.name, config=config, tags=tags, **options) as logged:
        for row in rows:
            at = {} if row.time is None else {"_timestamp": row.time.timestamp()}
            logged.log(numbers(row) | at, step=row.row)
    return str(logged.url or "")


def to_mlflow(run: RlRunInfo, rows: Sequence[MetricsRow], *, experiment: str) -> str:
    """Log a run to MLflow; the id of its run there."""
    mlflow = package("mlflow", "mlflow")
    mlflow.set_experiment(experiment)
    tags = {"rl_run": run.id, "tags": ",".join(run.spec.tags)}
    with mlflow.start_run(run_name=run.name, tags=tags) as logged:
        mlflow.log_params(dict(_flat(run.spec.model_dump(mode="json"))))
        for row in rows:
            at = None if row.time is None else round(1000 * row.time.timestamp())
            mlflow.log_metrics(numbers(row), step=row.row, timestamp=at)
    return str(logged.info.run_id)


def package(name: str, extra: str) -> Any:
    """A package that an extra brings. Raises MissingPackage."""
    try:
        return import_module(name)
    except ImportError as error:
        raise MissingPackage(name, extra) from error


def numbers(row: MetricsRow) -> dict[str, float]:
    """What a row has of numbers; of its evaluations, the last as `evaluation`."""
    values = row.model_dump(exclude={"row", "step", "time", "evaluations"}, exclude_none=True)
    if row.evaluations:
        values["evaluation"] = row.evaluations[-1][1]
    return {name: float(value) for name, value in values.items()}


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Leaves by dotted name; lists are leaves."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}" if name else str(key))
        return
    text = value if isinstance(value, str) else json.dumps(value)
    yield name, text[:MAX_PARAMETER]

"""The questions as a dataset of the server: uploaded once, read back from there by every run.

One row a question, and it needs nothing else: the prompt's text, the database as two scripts, and the rows of a right
answer (as JSON: their cells are of several types). No row holds SQL that answers it.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, cast

from examples.text2sql.databases import Script, dump, restore, rows_as_json, rows_from_json
from examples.text2sql.questions import Task, Tasks
from rekindle import NotFound
from rekindle.datasets import Datasets

DataName = Literal["service", "local"]
PARTS = ("pool", "held_out", "held_out_schema")
Row = Mapping[str, Any]


def through_service(datasets: Datasets, name: str, tasks: Tasks, folder: Path) -> Tasks:
    """`tasks` as the server has them under `name`, uploaded unless its newest version is just that.

    The databases in the rows become files in `folder`. Raises OwnDataError for what cannot be sent.
    """
    rows = to_rows(tasks)
    described = f"questions {hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]}"
    try:
        version = datasets.get(name).result()
    except NotFound:
        version = None
    if version is None or version.description != described:
        version = datasets.upload(rows, name, description=described).result()
    return to_tasks(datasets.rows(name, version.version), folder)


def to_rows(tasks: Tasks) -> list[Row]:
    """Columns: part, schema, question, ddl, data, rows, ordered."""
    return [_row(part, task) for part in PARTS for task in cast(list[Task], getattr(tasks, part))]


def to_tasks(rows: Iterable[Row], folder: Path) -> Tasks:
    """The same tasks in the same order."""
    tasks = Tasks(pool=[], held_out=[], held_out_schema=[])
    for row in rows:
        reference = rows_from_json(row["rows"], row["ordered"])
        database = restore(Script(row["ddl"], row["data"]), folder)
        getattr(tasks, row["part"]).append(Task(row["schema"], row["question"], database, reference))
    return tasks


def _row(part: str, task: Task) -> Row:
    script = dump(task.database)
    return {
        "part": part,
        "schema": task.schema,
        "question": task.question,
        "ddl": script.ddl,
        "data": script.data,
        "rows": rows_as_json(task.reference),
        "ordered": task.reference.ordered,
    }

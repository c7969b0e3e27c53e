"""A person's own questions: read, divided, and refused with the line that is wrong."""

import json
import sqlite3
from pathlib import Path

import pytest

from examples.text2sql.experiment import prepare, read_options
from examples.text2sql.judge import Reference
from examples.text2sql.own_data import OwnDataError, read_tasks

ROWS = [
    {"question": f"Which city has number {n}?", "sql": f"SELECT name FROM cities WHERE id = {n}"}
    for n in range(40)
]


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "own.sqlite"
    connection = sqlite3.connect(path)
    with connection:
        connection.execute("CREATE TABLE cities (id INTEGER, name TEXT)")
        connection.executemany("INSERT INTO cities VALUES (?, ?)", [(n, f"city {n}") for n in range(40)])
    connection.close()
    return path


def write(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    return write(tmp_path / "own.jsonl", [json.dumps(row) for row in ROWS])


def test_rows_become_tasks_with_their_reference_result_and_without_sql(questions: Path, database: Path):
    tasks = read_tasks(questions, database)
    every = {task.question: task for task in (*tasks.pool, *tasks.held_out)}
    assert set(every) == {row["question"] for row in ROWS}
    assert len(tasks.pool) > len(tasks.held_out) > 0
    task = every["Which city has number 7?"]
    assert task.reference == Reference((("city 7",),), ordered=False)
    assert task.schema == "cities(id, name)"
    assert "SELECT" not in repr(task)


def test_an_order_in_the_reference_query_is_asked_for(tmp_path: Path, database: Path):
    ordered = [{**row, "sql": "SELECT name FROM cities order  by id LIMIT 2"} for row in ROWS]
    tasks = read_tasks(write(tmp_path / "o.jsonl", [json.dumps(row) for row in ordered]), database)
    assert all(task.reference.ordered for task in tasks.pool)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"question": "How many?"}', r"line 3: .*(?s:.)*sql"),
        ("not json", "line 3: .*(?s:.)*Invalid JSON"),
        ('{"question": "How many?", "sql": "SELECT * FROM towns"}', "line 3: .*no such table: towns"),
        ('{"question": "How many?", "sql": "DROP TABLE cities"}', "line 3: .*not authorized"),
    ],
)
def test_a_bad_row_is_named_by_its_line(tmp_path: Path, database: Path, line: str, message: str):
    lines = [json.dumps(row) for row in ROWS]
    path = write(tmp_path / "bad.jsonl", [*lines[:2], line, *lines[2:]])
    with pytest.raises(OwnDataError, match=message):
        read_tasks(path, database)


def test_too_few_questions_are_refused(tmp_path: Path, database: Path):
    with pytest.raises(OwnDataError, match="too few questions"):
        read_tasks(write(tmp_path / "few.jsonl", [json.dumps(ROWS[0])]), database)


def test_questions_without_a_database_are_refused(questions: Path):
    with pytest.raises(OwnDataError, match="--questions and --database belong together"):
        prepare(read_options(["--questions", str(questions)]))


def test_own_data_with_another_base_model_makes_no_model(questions: Path, database: Path, tmp_path: Path):
    arguments = ["--questions", str(questions), "--database", str(database), "--base-model", "org/name"]
    experiment = prepare(read_options([*arguments, "--cache", str(tmp_path / "cache")]))
    assert (experiment.base_model, experiment.served, experiment.base_seconds) == (
        "org/name",
        "org/name",
        0.0,
    )
    assert not experiment.tasks.held_out_schema

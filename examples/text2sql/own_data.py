"""A person's own questions: JSONL rows `{"question": …, "sql": …}` and one SQLite file.

The SQL of a row is run once for its reference result and then forgotten: RL never sees it. Every fifth row,
by a hash of its question, is held out.
"""

import hashlib
import re
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from examples.text2sql.judge import QueryError, Reference, run_query
from examples.text2sql.questions import Task, Tasks
from examples.text2sql.schemas import describe_database

HELD_OUT_ONE_IN = 5


class QuestionRow(BaseModel):
    """One line of the file, e.g. `{"question": "How many?", "sql": "SELECT COUNT(*) FROM t"}`."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    question: str
    """In plain language."""
    sql: str
    """A SQLite query that answers it."""


class OwnDataError(ValueError):
    """A file of questions cannot be used; the message names file, line and field."""


def read_tasks(questions: Path, database: Path) -> Tasks:
    """Training and held-out questions of a file; raises OwnDataError at the first row that cannot be used."""
    if not database.is_file():
        raise OwnDataError(f"--database {database} is not a file")
    schema = describe_database(database)
    pool: list[Task] = []
    held_out: list[Task] = []
    lines = questions.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        if line.strip():
            task = _task(line, f"{questions}, line {number}", schema, database)
            (held_out if _is_held_out(task.question) else pool).append(task)
    if not pool or not held_out:
        raise OwnDataError(
            f"{questions} has too few questions: {len(pool)} to train on, {len(held_out)} held out"
        )
    return Tasks(pool, held_out, held_out_schema=[])


def _task(line: str, where: str, schema: str, database: Path) -> Task:
    try:
        row = QuestionRow.model_validate_json(line)
        rows = run_query(row.sql, database)
    except (ValidationError, QueryError) as error:
        raise OwnDataError(f"{where}: {error}") from error
    ordered = re.search(r"\border\s+by\b", row.sql, re.IGNORECASE) is not None
    return Task(schema, row.question, database, Reference(rows, ordered))


def _is_held_out(question: str) -> bool:
    digest = hashlib.sha256(question.strip().encode()).digest()
    return int.from_bytes(digest[:8], "big") % HELD_OUT_ONE_IN == 0

"""The judge: runs SQL of unknown origin on a SQLite database and compares the rows with the reference rows.

It promises that a database is never changed, that no query takes longer than `SECONDS` or returns more than
`MAX_ROWS` rows, and that a wrong query is a verdict while a broken judge (no such database) is an exception.
It does not know gold SQL: only reference results.
"""

import sqlite3
import time
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from pathlib import Path
from typing import Any

SECONDS = 0.5
MAX_ROWS = 1000
MAX_SQL_BYTES = 4096
MAX_CELL_BYTES = 100_000
OPCODES_BETWEEN_CHECKS = 1000

Row = tuple[Any, ...]

_ALLOWED = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}


class Verdict(Enum):
    """What became of a completion; the value is its reward."""

    RIGHT = 1.0
    RUNS = 0.1
    FAILS = 0.0


@dataclass(frozen=True)
class Reference:
    """The rows that a right answer returns, e.g. `Reference((("Ada A",),), ordered=False)`."""

    rows: tuple[Row, ...]
    ordered: bool
    """Whether the order of rows was asked for; else rows are compared as a multiset."""


class QueryError(ValueError):
    """The SQL did not run, or ran into a limit."""


def judge(sql: str, database: Path, reference: Reference) -> Verdict:
    """Run `sql` on `database` and compare; raises only if the judge itself is at fault."""
    try:
        rows = run_query(sql, database)
    except QueryError:
        return Verdict.FAILS
    return Verdict.RIGHT if _same(rows, reference) else Verdict.RUNS


def run_query(sql: str, database: Path) -> tuple[Row, ...]:
    """The rows of one SELECT, read-only and within the limits; raises QueryError that says why not."""
    connection = _connect(database.resolve())
    deadline = time.monotonic() + SECONDS
    connection.set_progress_handler(lambda: time.monotonic() > deadline, OPCODES_BETWEEN_CHECKS)
    try:
        cursor = connection.execute(sql)
        rows = cursor.fetchmany(MAX_ROWS + 1)
    except (sqlite3.Error, sqlite3.Warning, ValueError) as error:
        raise QueryError(f"{sql!r} does not run: {error}") from error
    columns = cursor.description
    cursor.close()
    if columns is None:
        raise QueryError(f"{sql!r} is not a query")
    if len(rows) > MAX_ROWS:
        raise QueryError(f"{sql!r} returns more than {MAX_ROWS} rows")
    return tuple(rows)


@lru_cache(maxsize=16)
def _connect(database: Path) -> sqlite3.Connection:
    """A read-only connection on which nothing but SELECT is authorized."""
    connection = sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True, check_same_thread=False)
    connection.execute("SELECT 1 FROM sqlite_master").close()  # opens the file: a missing one is our fault
    connection.setlimit(sqlite3.SQLITE_LIMIT_SQL_LENGTH, MAX_SQL_BYTES)
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_CELL_BYTES)
    connection.set_authorizer(_authorize)
    return connection


def _authorize(
    action: int, _table: str | None, _column: str | None, _database: str | None, _view: str | None
) -> int:
    return sqlite3.SQLITE_OK if action in _ALLOWED else sqlite3.SQLITE_DENY


def _same(rows: tuple[Row, ...], reference: Reference) -> bool:
    ours, theirs = [[_comparable(row) for row in side] for side in (rows, reference.rows)]
    return ours == theirs if reference.ordered else sorted(ours) == sorted(theirs)


def _comparable(row: Row) -> tuple[tuple[str, str], ...]:
    """Cells that compare by value: 3 equals 3.0, sums differ by their last digits, text is not a number."""
    return tuple(
        ("number", f"{cell + 0.0:.9g}") if isinstance(cell, int | float) else (type(cell).__name__, str(cell))
        for cell in row
    )

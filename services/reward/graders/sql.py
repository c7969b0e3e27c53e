"""SQL: the completion's query gives the right rows on the row's own database, by SQLite.

Rows compare by value: 3 equals 3.0, numbers are the same to nine digits (sums differ in their last), text is not a
number. Without an order asked for, rows are a multiset. The reference is trusted no more than the rollout but
its failure is the grader's.
"""

import json
import re
import sqlite3
from typing import Any

from rekindle.types import rewards
from services.reward.graders.base import Graded, Grader, Invalid, Item, Mark, text_column, unfenced
from services.reward.graders.sqlite import Database, Databases, QueryError, Row

_databases = Databases()
"""Of this process, shared by its graders."""


class SqlGrader(Grader[rewards.SqlParams]):
    release = 1

    def __init__(self, params: rewards.SqlParams, mark: Mark = lambda _phase: None) -> None:
        super().__init__(params, mark)
        self._pattern = None if params.pattern is None else re.compile(params.pattern, re.S)

    @classmethod
    def environment(cls) -> str:
        return sqlite3.sqlite_version

    def grade(self, item: Item) -> Graded:
        params = self.params
        data = None if params.data_column is None else item.columns[params.data_column]
        database = _databases.open(text_column(item, params.schema_column), data, params.seconds)
        ordered = self._ordered(item)
        reference = self._reference(item, database)
        sql = self._sql(item.completion)
        self.mark("rollout")
        try:
            rows = database.query(sql, params)
        except QueryError as error:
            raise Invalid(f"the query {error}") from error
        if same_rows(rows, reference, ordered):
            return Graded(1.0)
        return Graded(params.partial, f"runs, but gives other rows ({len(rows)}, expected {len(reference)})")

    def _sql(self, completion: str) -> str:
        if self._pattern is None:
            return unfenced(completion)
        match = self._pattern.search(completion)
        if match is None:
            raise Invalid("no SQL in the completion: the pattern does not match")
        return match.group(1 if self._pattern.groups else 0) or ""

    def _ordered(self, item: Item) -> bool:
        if self.params.ordered_column is None:
            return self.params.ordered
        ordered = item.columns[self.params.ordered_column]
        if not isinstance(ordered, bool):
            raise TypeError(f"column {self.params.ordered_column!r}: expected true or false")
        return ordered

    def _reference(self, item: Item, database: Database) -> tuple[Row, ...]:
        """Raises TypeError for rows that are none, RuntimeError for a reference query that does not run."""
        if self.params.query_column is None:
            assert self.params.rows_column is not None, "one of the two is named"
            return _rows(item.columns[self.params.rows_column], self.params.rows_column)
        sql = text_column(item, self.params.query_column)
        try:
            return database.answer(sql, self.params)
        except QueryError as error:
            raise RuntimeError(f"the reference query {error}") from error


def same_rows(ours: tuple[Row, ...], theirs: tuple[Row, ...], ordered: bool) -> bool:
    """Whether two results are equal by value, as lists or as multisets."""
    left, right = ([_comparable(row) for row in rows] for rows in (ours, theirs))
    return left == right if ordered else sorted(left) == sorted(right)


def _comparable(row: Row) -> tuple[tuple[str, str], ...]:
    # Adding zero makes of -0.0, as 0.0 * -1 is, the 0 that it equals.
    return tuple(
        ("number", f"{cell + 0.0:.9g}") if isinstance(cell, int | float) else (type(cell).__name__, str(cell))
        for cell in row
    )


def _rows(value: Any, column: str) -> tuple[Row, ...]:
    if isinstance(value, str):
        value = _from_json(value, column)
    if not isinstance(value, list) or not all(isinstance(row, list) for row in value):
        raise TypeError(f"column {column!r}: expected a list of rows, each a list of cells")
    if not all(cell is None or isinstance(cell, str | int | float) for row in value for cell in row):
        raise TypeError(f"column {column!r}: a cell is neither text nor number nor null")
    return tuple(tuple(row) for row in value)


def _from_json(text: str, column: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise TypeError(f"column {column!r}: a text that is no JSON") from error

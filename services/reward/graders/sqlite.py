"""SQLite as untrusted queries may see it: one database of rows in memory, read-only, within limits.

A database is made of a schema and its data once and kept; no query can change it, open another, load code or read a
file. Time is limited by SQLite's progress handler. What runs long inside single opcodes (a `trim` of many
characters) or while a statement is prepared never gets there: whoever runs this process ends it.
"""

import contextlib
import json
import os
import resource
import sqlite3
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cachetools import LRUCache

from rekindle.types import rewards

DATABASES, DATABASES_BYTES = 16, 256 * 2**20
ANSWERS, ANSWERS_BYTES = 256, 8 * 2**20
"""How many databases are kept at most, and reference results of each: so many, and so large, since whatever is kept is
memory that later queries lack."""
OPCODES_BETWEEN_CHECKS = 200

Row = tuple[Any, ...]

_READING = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}
_OPENING = {sqlite3.SQLITE_ATTACH, sqlite3.SQLITE_DETACH}
_FUNCTIONS = {"load_extension", "fts3_tokenizer", "readfile", "writefile", "edit"}
"""Functions that load code, take addresses or touch files, where SQLite is built with them."""


class QueryError(ValueError):
    """The SQL does not run, or passes a limit."""


class Database:
    """One database. Queries leave it as it was."""

    def __init__(self, schema: str, data: object, seconds: float) -> None:
        """Build it. Raises sqlite3.Error, TypeError or TimeoutError."""
        # Hardly a statement comes twice, and one that is kept might be read from the table `sqlite_stmt`.
        self._connection = sqlite3.connect(":memory:", cached_statements=0, isolation_level=None)
        self._answers: LRUCache[object, tuple[Row, ...]] = LRUCache(ANSWERS_BYTES, _size_of)
        self._connection.execute("PRAGMA temp_store = MEMORY")
        self._connection.set_authorizer(_authorize_building)
        with self._within(seconds) as overran:
            try:
                self._build(schema, data)
            except sqlite3.OperationalError as error:
                if overran():
                    raise TimeoutError(f"building the database took longer than {seconds:g} s") from error
                raise
        self._connection.set_authorizer(None)
        self._connection.execute("PRAGMA query_only = ON")
        self.size = self._read_size()
        """In bytes."""
        self._begin()

    def _build(self, schema: str, data: object) -> None:
        self._connection.executescript(schema)
        if isinstance(data, str):
            self._connection.executescript(data)
        elif isinstance(data, dict):
            for table, rows in data.items():
                name = table.replace('"', '""')
                for row in rows:
                    marks = ", ".join("?" * len(row))
                    self._connection.execute(f'INSERT INTO "{name}" VALUES ({marks})', row)
        elif data is not None:
            raise TypeError(f"data: a {type(data).__name__}, expected a script or rows by table")
        if self._connection.in_transaction:
            self._connection.commit()

    def _begin(self) -> None:
        """Enter the transaction in which all queries run: `VACUUM`, which asks no authorizer, refuses to run in one."""
        self._connection.set_authorizer(None)
        self._connection.execute("BEGIN")
        self._connection.set_authorizer(_authorize_reading)

    def query(self, sql: str, limits: rewards.SqlParams) -> tuple[Row, ...]:
        """The rows of one SELECT. Raises QueryError."""
        self._set_limits(limits)
        if not self._connection.in_transaction:
            self._begin()
        with self._within(limits.seconds) as overran, _memory(limits.memory_bytes):
            try:
                return self._rows(sql, limits)
            except QueryError:
                raise
            except (sqlite3.Error, sqlite3.Warning, ValueError) as error:
                if overran():
                    raise QueryError(f"passed the limit of {limits.seconds:g} s") from error
                raise QueryError(f"does not run: {error}") from error
            except MemoryError as error:
                raise QueryError(f"passed the limit of {limits.memory_bytes} bytes of memory") from error

    def answer(self, sql: str, limits: rewards.SqlParams) -> tuple[Row, ...]:
        """As `query`, for one that comes again."""
        key = (sql, limits)
        if key in self._answers:
            return self._answers[key]
        rows = self.query(sql, limits)
        with contextlib.suppress(ValueError):  # too large to be kept
            self._answers[key] = rows
        return rows

    def _read_size(self) -> int:
        def number(name: str) -> int:
            return int(self._connection.execute(f"PRAGMA {name}").fetchone()[0])

        return (number("main.page_count") + number("temp.page_count")) * number("page_size")

    def _rows(self, sql: str, limits: rewards.SqlParams) -> tuple[Row, ...]:
        cursor = self._connection.execute(sql)
        try:
            if cursor.description is None:
                raise QueryError("is not a query")
            rows, size = [], 0
            for row in cursor:
                size += sum(len(cell) if isinstance(cell, str | bytes) else 8 for cell in row)
                rows.append(row)
                if len(rows) > limits.max_rows:
                    raise QueryError(f"passed the limit of {limits.max_rows} rows")
                if size > limits.max_result_bytes:
                    raise QueryError(f"passed the limit of {limits.max_result_bytes} bytes of rows")
            return tuple(rows)
        finally:
            cursor.close()

    def _set_limits(self, limits: rewards.SqlParams) -> None:
        for kind, most in (
            (sqlite3.SQLITE_LIMIT_LENGTH, limits.max_cell_bytes),
            (sqlite3.SQLITE_LIMIT_SQL_LENGTH, limits.max_sql_bytes),
            (sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH, 1000),
            (sqlite3.SQLITE_LIMIT_VDBE_OP, 250_000),
            (sqlite3.SQLITE_LIMIT_ATTACHED, 0),
            (sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, 0),
            (sqlite3.SQLITE_LIMIT_WORKER_THREADS, 0),
        ):
            self._connection.setlimit(kind, most)

    @contextlib.contextmanager
    def _within(self, seconds: float) -> "Iterator[Any]":
        """Interrupt what takes longer; yields a function that says whether it did."""
        deadline = time.monotonic() + seconds
        interrupted = False

        def late() -> bool:
            nonlocal interrupted
            interrupted = interrupted or time.monotonic() > deadline
            return interrupted

        self._connection.set_progress_handler(late, OPCODES_BETWEEN_CHECKS)
        try:
            yield lambda: interrupted
        finally:
            self._connection.set_progress_handler(None, 0)

    def close(self) -> None:
        self._connection.close()


def _size_of(rows: tuple[Row, ...]) -> int:
    """Bytes of rows as objects; none is so small that more than `ANSWERS` are kept."""
    size = sum(sys.getsizeof(row) + sum(map(sys.getsizeof, row)) for row in rows)
    return max(size, ANSWERS_BYTES // ANSWERS)


def _weight_of(database: Database) -> int:
    return min(max(database.size, DATABASES_BYTES // DATABASES), DATABASES_BYTES)


class Databases(LRUCache[object, Database]):
    """The databases that were used last, by what they are made of; one that is larger than all may be is kept alone."""

    def __init__(self) -> None:
        super().__init__(DATABASES_BYTES, _weight_of)

    def popitem(self) -> tuple[object, Database]:
        key, database = super().popitem()
        database.close()
        return key, database

    def open(self, schema: str, data: object, seconds: float) -> Database:
        """The database of `schema` and `data`, built unless it is kept. Raises as `Database`."""
        key = (schema, data if data is None or isinstance(data, str) else json.dumps(data))
        if key not in self:
            self[key] = Database(schema, data, seconds)
        return self[key]


def _authorize_reading(
    action: int, _first: str | None, second: str | None, _database: str | None, _view: str | None
) -> int:
    allowed = action in _READING and not (action == sqlite3.SQLITE_FUNCTION and second in _FUNCTIONS)
    return sqlite3.SQLITE_OK if allowed else sqlite3.SQLITE_DENY


def _authorize_building(
    action: int, _first: str | None, second: str | None, _database: str | None, _view: str | None
) -> int:
    """Scripts may make anything inside the database. The pragmas that they set, as dumps do, change nothing."""
    if action == sqlite3.SQLITE_PRAGMA and second is not None:
        return sqlite3.SQLITE_IGNORE
    denied = action in _OPENING or (action == sqlite3.SQLITE_FUNCTION and second in _FUNCTIONS)
    return sqlite3.SQLITE_DENY if denied else sqlite3.SQLITE_OK


@contextlib.contextmanager
def _memory(most: int) -> Iterator[None]:
    """Let this process take `most` bytes more than it has, where the system can tell how much that is."""
    if sys.platform != "linux":
        yield
        return
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    wanted = pages * os.sysconf("SC_PAGE_SIZE") + most
    resource.setrlimit(resource.RLIMIT_AS, (wanted if hard < 0 else min(wanted, hard), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))

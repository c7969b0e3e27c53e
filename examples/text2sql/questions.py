"""Questions with their reference results, divided into base corpus, RL pool and held-out.

The division is a function of a question's key (schema, SQL skeleton, values): a hash sends every key to exactly
one of the three parts, so none is ever in two of them, however many are drawn. Since a phrasing says
everything that its key does, no question text is shared either. Questions whose reference result is empty, NULL,
zero or depends on how ties are broken are rejected.
"""

import hashlib
import random
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from examples.text2sql.drawing import draw_query
from examples.text2sql.judge import Reference, Row
from examples.text2sql.phrasing import phrase
from examples.text2sql.queries import Dialect, Key, Query
from examples.text2sql.schemas import (
    HELD_OUT_SCHEMA,
    SCHEMAS,
    Schema,
    create_database,
    describe_database,
)

Part = Literal["corpus", "pool", "held_out"]
# Of every hundred keys: who may use them.
HELD_OUT_PERCENT, POOL_PERCENT = 10, 20

CORPUS_SIZE = 40_000
POOL_SIZE = 2_000
HELD_OUT_SIZE = 256
HELD_OUT_SCHEMA_SIZE = 128

# The corpus speaks mostly dialects that SQLite does not run: what RL has to find out.
DIALECT_SHARES: dict[Dialect, float] = {"sqlite": 0.16, "tsql": 0.42, "oracle": 0.42}


@dataclass(frozen=True)
class Pair:
    """One line of the base corpus: schema, question, and SQL in some dialect."""

    schema: str
    question: str
    sql: str


@dataclass(frozen=True)
class Task:
    """One question as RL and evaluation see it: no SQL, only the rows of a right answer."""

    schema: str
    """Tables and columns as the prompt shows them."""
    question: str
    database: Path
    reference: Reference


@dataclass(frozen=True)
class Tasks:
    """Everything that a run asks."""

    pool: list[Task]
    held_out: list[Task]
    held_out_schema: list[Task]


def part_of(query: Query, seed: int) -> Part:
    """The only part that may use a query: a hash of its key decides."""
    digest = hashlib.sha256(f"{seed}/{query.key}".encode()).digest()
    percent = int.from_bytes(digest[:8], "big") % 100
    if percent < HELD_OUT_PERCENT:
        return "held_out"
    return "pool" if percent < HELD_OUT_PERCENT + POOL_PERCENT else "corpus"


def make_databases(folder: Path, seed: int) -> dict[str, Path]:
    """Write all five databases into `folder`; returns schema name → file."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for schema in (*SCHEMAS, HELD_OUT_SCHEMA):
        files[schema.name] = folder / f"{schema.name}.sqlite"
        create_database(schema, files[schema.name], seed)
    return files


def make_tasks(databases: dict[str, Path], seed: int) -> Tasks:
    """Questions for RL, held-out questions, and questions on the held-out schema, each asked once."""
    return Tasks(
        pool=_tasks(SCHEMAS, databases, seed, "pool", POOL_SIZE),
        held_out=_tasks(SCHEMAS, databases, seed, "held_out", HELD_OUT_SIZE),
        held_out_schema=_tasks((HELD_OUT_SCHEMA,), databases, seed, "held_out", HELD_OUT_SCHEMA_SIZE),
    )


def make_corpus(databases: dict[str, Path], seed: int, size: int = CORPUS_SIZE) -> list[Pair]:
    """Pairs for the base model, each in a dialect drawn by `DIALECT_SHARES`."""
    rng = random.Random(f"{seed}/dialects")
    dialects = rng.choices(list(DIALECT_SHARES), weights=list(DIALECT_SHARES.values()), k=size)
    described = {schema.name: describe_database(databases[schema.name]) for schema in SCHEMAS}
    drawn = _draw(SCHEMAS, databases, seed, "corpus")
    return [
        Pair(described[query.schema.name], question, query.sql(dialect))
        for dialect, (query, question, _rows) in zip(dialects, drawn, strict=False)
    ]


def _tasks(
    schemas: tuple[Schema, ...], databases: dict[str, Path], seed: int, part: Part, size: int
) -> list[Task]:
    described = {schema.name: describe_database(databases[schema.name]) for schema in schemas}
    tasks: dict[Key, Task] = {}
    for query, question, rows in _draw(schemas, databases, seed, part):
        reference = Reference(rows, ordered=query.order is not None)
        name = query.schema.name
        tasks.setdefault(query.key, Task(described[name], question, databases[name], reference))
        if len(tasks) == size:
            return list(tasks.values())
    raise AssertionError("an endless stream of questions ended")


def _draw(
    schemas: tuple[Schema, ...], databases: dict[str, Path], seed: int, part: Part
) -> Iterator[tuple[Query, str, tuple[Row, ...]]]:
    """Endless (query, question, reference rows) of one part; repeats come in other words."""
    rng = random.Random(f"{seed}/{part}/{schemas[0].name}")
    connections = {schema.name: sqlite3.connect(databases[schema.name]) for schema in schemas}
    while True:
        query = draw_query(rng, rng.choice(schemas))
        if part_of(query, seed) != part:
            continue
        rows = _reference_rows(query, connections[query.schema.name])
        if rows is not None:
            yield query, phrase(query, rng), rows


def _reference_rows(query: Query, connection: sqlite3.Connection) -> tuple[Row, ...] | None:
    """The right rows, or None if the question is not worth asking."""
    rows = connection.execute(query.sql("sqlite")).fetchall()
    if not rows or all(cell in (None, 0) for row in rows for cell in row):
        return None
    return None if query.order and _has_ties(query, connection) else tuple(rows)


def _has_ties(query: Query, connection: sqlite3.Connection) -> bool:
    """Tied rows keep their scan order in either direction, so the reverse order is then not the mirror image."""
    unlimited = replace(query, limit=None)
    forth = connection.execute(unlimited.sql("sqlite")).fetchall()
    back = connection.execute(replace(unlimited, descending=not query.descending).sql("sqlite")).fetchall()
    return forth != back[::-1]

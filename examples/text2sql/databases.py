"""A database as text and back: what travels to the services, and how a file is made of it again.

The tables' definitions stand apart from all that follows (rows, then indices, views and triggers), as the reward
service takes them. Rows keep their order, so a query gives the same rows on either.
"""

import hashlib
import json
import os
import sqlite3
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from examples.text2sql.judge import Reference
from examples.text2sql.own_data import OwnDataError

MAX_CHARACTERS = 256 * 1024
"""Of a database that travels with every question and every request for scores."""
INSTEAD = "use --judge loop --data local"


@dataclass(frozen=True)
class Script:
    """E.g. `Script("CREATE TABLE t (a);", "INSERT INTO \\"t\\" VALUES(1);")`."""

    ddl: str
    """Makes the tables."""
    data: str
    """Fills them."""


@lru_cache(maxsize=16)
def dump(database: Path) -> Script:
    """A file as text. Raises OwnDataError for one that is too large to travel."""
    connection = sqlite3.connect(f"{database.resolve().as_uri()}?mode=ro", uri=True)
    statements = [line for line in connection.iterdump() if line not in ("BEGIN TRANSACTION;", "COMMIT;")]
    connection.close()
    tables = [line for line in statements if line.startswith("CREATE TABLE")]
    rest = [line for line in statements if not line.startswith("CREATE TABLE")]
    script = Script("\n".join(tables), "\n".join(rest))
    if (size := len(script.ddl) + len(script.data)) > MAX_CHARACTERS:
        raise OwnDataError(
            f"{database}: {size} characters as SQL, the services take {MAX_CHARACTERS}; {INSTEAD}"
        )
    return script


@lru_cache(maxsize=16)
def restore(script: Script, folder: Path) -> Path:
    """The file in `folder` that holds the database, made unless it is there."""
    digest = hashlib.sha256(f"{script.ddl}\0{script.data}".encode()).hexdigest()[:16]
    file, unfinished = folder / f"{digest}.sqlite", folder / f".{digest}-{os.getpid()}"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        unfinished.unlink(missing_ok=True)
        connection = sqlite3.connect(unfinished)
        connection.executescript(f"BEGIN;\n{script.ddl}\n{script.data}\nCOMMIT;")
        connection.close()
        unfinished.replace(file)
    return file


def rows_as_json(reference: Reference) -> str:
    """The right rows as a list of lists. Raises OwnDataError for cells that JSON does not hold."""
    try:
        return json.dumps(reference.rows, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise OwnDataError(f"the rows of a right answer cannot be sent ({error}); {INSTEAD}") from error


def rows_from_json(text: str, ordered: bool) -> Reference:
    return Reference(tuple(tuple(row) for row in json.loads(text)), ordered)

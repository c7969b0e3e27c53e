"""Pages of rows by cursor. A cursor is the place of the next row; a page reads only the row groups it needs."""

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa

from rekindle.types import InvalidField
from services.data.limits import MIB
from services.data.rows import size_of
from services.data.version import VersionFile

PAGE_LENGTH = 8 * MIB
"""Rows are added to a page until their JSON has so many characters: with each row come the names of its columns."""
STEP_BYTES = MIB
"""Of the rows that are brought to Python's objects, which are many times larger, at once."""
encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def read_page(source: Path | BinaryIO, cursor: str | None, limit: int) -> tuple[list[str], str | None]:
    """(at most `limit` rows, each as JSON; cursor of the next page or None) of a version's folder or open file.

    Raises InvalidField for a cursor of no page.
    """
    offset = offset_of(cursor)
    file = VersionFile(source)
    try:
        if offset and offset >= file.rows:
            raise InvalidField("cursor", f"{cursor!r} is not of this version, which has {file.rows} rows")
        rows = _collect(file, offset, limit)
    finally:
        file.close()
    end = offset + len(rows)
    return rows, f"r{end}" if end < file.rows else None


def _collect(file: VersionFile, offset: int, limit: int) -> list[str]:
    rows: list[str] = []
    length = 0
    for some in _in_steps(file.rows_from(offset), limit):
        for row in some.to_pylist():
            rows.append(encode(row))
            length += len(rows[-1])
            if len(rows) == limit or length >= PAGE_LENGTH:
                return rows
    return rows


def _in_steps(groups: Iterable[pa.StructArray], limit: int) -> Iterator[pa.StructArray]:
    for group in groups:
        step = min(limit, max(1, len(group) * STEP_BYTES // max(1, size_of(group))))
        for start in range(0, len(group), step):
            yield group.slice(start, step)


def offset_of(cursor: str | None) -> int:
    """The row at which a page begins. Raises InvalidField."""
    if cursor is None:
        return 0
    if not re.fullmatch(r"r[0-9]{1,15}", cursor):
        raise InvalidField("cursor", f"{cursor!r} is no cursor of a page")
    return int(cursor[1:])

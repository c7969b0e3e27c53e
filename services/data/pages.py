"""Pages of rows by cursor. A cursor is the place of the next row; a page reads only the row groups it needs."""

import re
from pathlib import Path
from typing import Any

from rekindle.types import InvalidField
from services.data.limits import MIB
from services.data.version import VersionFile

PAGE_BYTES = 8 * MIB
"""Rows are added to a page until it has this size in memory."""


def read_page(folder: Path, cursor: str | None, limit: int) -> tuple[list[dict[str, Any]], str | None]:
    """(at most `limit` rows, cursor of the next page or None). Raises InvalidField for a cursor of no page."""
    offset = offset_of(cursor)
    file = VersionFile(folder)
    try:
        if offset and offset >= file.rows:
            raise InvalidField("cursor", f"{cursor!r} is not of this version, which has {file.rows} rows")
        rows = _collect(file, offset, limit)
    finally:
        file.close()
    end = offset + len(rows)
    return rows, f"r{end}" if end < file.rows else None


def _collect(file: VersionFile, offset: int, limit: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    size = 0
    for group in file.rows_from(offset):
        taken = group.slice(0, limit - len(rows))
        rows += taken.to_pylist()
        size += taken.nbytes
        if len(rows) == limit or size >= PAGE_BYTES:
            break
    return rows


def offset_of(cursor: str | None) -> int:
    """The row at which a page begins. Raises InvalidField."""
    if cursor is None:
        return 0
    if not re.fullmatch(r"r[0-9]{1,15}", cursor):
        raise InvalidField("cursor", f"{cursor!r} is no cursor of a page")
    return int(cursor[1:])

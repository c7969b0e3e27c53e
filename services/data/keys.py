"""What makes two rows equal, and in which part of a split a row belongs."""

import hashlib
import json
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate

import pyarrow as pa

from rekindle.types import InvalidField

KEY_BYTES = 16


def select(rows: pa.StructArray, columns: Sequence[str] | None) -> pa.StructArray:
    """The rows with these columns alone; None: all."""
    if columns is None:
        return rows
    names = list(dict.fromkeys(columns))
    return pa.StructArray.from_arrays([rows.field(name) for name in names], names)


def row_keys(rows: pa.StructArray, seed: bytes = b"") -> Iterator[bytes]:
    """16 bytes for each row: a hash of its content without nulls, whatever the order of its columns."""
    for row in rows.to_pylist():
        content = {name: value for name, value in row.items() if value is not None}
        text = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        yield hashlib.blake2b(text.encode(), digest_size=KEY_BYTES, key=seed).digest()


def part_of(key: bytes, ends: Sequence[float]) -> int:
    """Which part a key falls into; `ends` are the summed shares of the parts, the last one 1."""
    return min(bisect_right(ends, int.from_bytes(key, "big") / 2 ** (8 * KEY_BYTES)), len(ends) - 1)


def summed(shares: Sequence[float]) -> list[float]:
    return list(accumulate(shares))


def check_columns(columns: Sequence[str], shape: pa.StructType, field: str) -> None:
    """Raises InvalidField for a column that the rows do not have."""
    known = [column.name for column in shape]
    for index, column in enumerate(columns):
        if column not in known:
            raise InvalidField(f"{field}[{index}]", f"no column {column!r}; there are {', '.join(known)}")

"""What readers give: batches of rows that know where in the file they stand, checked value by value."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types as is_

from rekindle.types import InvalidField
from services.data.limits import MIB, Limits

BATCH_BYTES = 4 * MIB
BATCH_ROWS = 8192
LARGE_AMONG_FRACTIONS = "a column holds fractions, and whole numbers too large to be one"


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Some rows, in order."""

    rows: pa.StructArray
    """One field a column; no row is null."""
    places: Sequence[int]
    """Number of each row in its file, as its reader counts."""


class Reader(Protocol):
    """Reads one file of a format."""

    @property
    def unit(self) -> Literal["line", "row"]:
        """What `places` count, from 1."""
        ...

    def batches(self) -> Iterator[Batch]:
        """All rows. Raises InvalidField, also while it is iterated."""
        ...

    def shape(self, seen: pa.StructType) -> pa.StructType:
        """The final shape, once all rows are read; `seen` is what the batches' shapes merge to."""
        ...


def check_rows(batch: Batch, unit: str, limits: Limits) -> None:
    """Raises InvalidField for a row with a number that is none, or one that is too large."""
    for field, values in zip(batch.rows.type, batch.rows.flatten(), strict=True):
        if not is_finite(values):
            place = next(p for i, p in enumerate(batch.places) if not is_finite(values.slice(i, 1)))
            raise InvalidField(
                f'{unit} {place}, column "{field.name}"', "NaN or infinity; leave the value out or send null"
            )
    _check_size(batch.rows, batch.places, unit, limits.row_bytes)


def _check_size(rows: pa.StructArray, places: Sequence[int], unit: str, most: int) -> None:
    if (size := size_of(rows)) <= most:
        return
    if len(rows) == 1:
        raise InvalidField(f"{unit} {places[0]}", f"{size} bytes, the limit is {most}")
    half = len(rows) // 2
    _check_size(rows.slice(0, half), places[:half], unit, most)
    _check_size(rows.slice(half), places[half:], unit, most)


def size_of(values: pa.Array) -> int:
    """Bytes of values, each as large as a number at least: a null costs Arrow nothing, but not who reads it."""
    if is_.is_struct(values.type):
        return sum(map(size_of, values.flatten()))
    least = 8 * len(values)
    if is_.is_list(values.type):
        return least + size_of(values.flatten())
    return int(max(least, values.nbytes))


def is_finite(values: pa.Array) -> bool:
    """Whether every number within is one."""
    if is_.is_floating(values.type):
        return pc.all(pc.is_finite(values)).as_py() is not False
    if is_.is_list(values.type):
        return is_finite(values.flatten())
    if is_.is_struct(values.type):
        return all(is_finite(child) for child in values.flatten())
    return True

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
    if batch.rows.nbytes > limits.row_bytes:
        for index, place in enumerate(batch.places):
            if (size := batch.rows.slice(index, 1).nbytes) > limits.row_bytes:
                raise InvalidField(f"{unit} {place}", f"{size} bytes, the limit is {limits.row_bytes}")


def is_finite(values: pa.Array) -> bool:
    """Whether every number within is one."""
    if is_.is_floating(values.type):
        return pc.all(pc.is_finite(values)).as_py() is not False
    if is_.is_list(values.type):
        return is_finite(values.flatten())
    if is_.is_struct(values.type):
        return all(is_finite(child) for child in values.flatten())
    return True

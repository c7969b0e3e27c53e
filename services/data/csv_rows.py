"""Rows from CSV: a header, commas, quotes that close, the same number of fields everywhere.

An empty cell is null. Whether a column holds whole numbers, fractions, truth values or texts shows once all of
it is read: a cell is a number if it would be one in JSON, so that `007` stays a text and loses no zero.
"""

import csv
from collections import Counter
from collections.abc import Iterator
from typing import BinaryIO, Literal

import pyarrow as pa
import pyarrow.compute as pc

from rekindle.types import InvalidField
from services.data.limits import Limits
from services.data.rows import BATCH_BYTES, BATCH_ROWS, Batch
from services.data.source import lines

FORMS: dict[pa.DataType, str] = {
    pa.int64(): r"^-?(0|[1-9][0-9]{0,17})$",
    pa.float64(): r"^-?(0|[1-9][0-9]{0,14})(\.[0-9]+)?([eE][+-]?[0-9]{1,2})?$",
    pa.bool_(): r"^(true|false)$",
}
"""What cells of a type look like, in the order of preference; no number here is too large for its type."""


class CsvRows:
    """A reader of CSV files."""

    unit: Literal["line"] = "line"

    def __init__(self, stream: BinaryIO, limits: Limits) -> None:
        self._lines = lines(stream, limits)
        self._limits = limits
        self._names: list[str] = []
        self._forms: list[dict[pa.DataType, str]] = []
        """By column: what all of its cells so far look like."""

    def shape(self, seen: pa.StructType) -> pa.StructType:
        """Every column as the first type that all of its cells fit; null where all are empty."""
        fields = []
        for index, (name, forms) in enumerate(zip(self._names, self._forms, strict=True)):
            empty = pa.types.is_null(seen.field(index).type)
            fields.append((name, pa.null() if empty else next(iter(forms), pa.string())))
        return pa.struct(fields)

    def batches(self) -> Iterator[Batch]:
        csv.field_size_limit(self._limits.row_bytes)
        rows = self._rows()
        _, self._names = next(rows, (0, []))
        self._check_header()
        self._forms = [dict(FORMS) for _ in self._names]
        cells: list[list[str]] = []
        places: list[int] = []
        size = 0
        for place, row in rows:
            self._check_row(place, row)
            cells.append(row)
            places.append(place)
            size += sum(map(len, row))
            if size >= BATCH_BYTES or len(cells) == BATCH_ROWS:
                yield self._batch(cells, places)
                cells, places, size = [], [], 0
        if cells:
            yield self._batch(cells, places)

    def _rows(self) -> Iterator[tuple[int, list[str]]]:
        """(line at which it begins, fields) of every row that is not a blank line."""
        reader = csv.reader((text for _, text in self._lines), strict=True)
        while True:
            place = reader.line_num + 1
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                raise InvalidField(f"line {place}", f"not CSV: {_in_words(error)}") from error
            if row:
                yield place, row

    def _check_header(self) -> None:
        names = self._names
        if len(names) > self._limits.columns:
            raise InvalidField("line 1", f"{len(names)} columns, the limit is {self._limits.columns}")
        if "" in names:
            raise InvalidField("line 1", f"column {names.index('') + 1} has no name")
        for name, times in Counter(names).items():
            if times > 1:
                raise InvalidField("line 1", f'column "{name}" appears {times} times')

    def _check_row(self, place: int, row: list[str]) -> None:
        if len(row) != len(self._names):
            raise InvalidField(
                f"line {place}", f"{len(row)} fields, the header has {len(self._names)} columns"
            )

    def _batch(self, cells: list[list[str]], places: list[int]) -> Batch:
        columns = []
        for index, values in enumerate(zip(*cells, strict=True)):
            column = pa.array([value or None for value in values], pa.string())
            forms = self._forms[index]
            self._forms[index] = {type_: form for type_, form in forms.items() if _fits(column, form)}
            columns.append(pa.nulls(len(column)) if column.null_count == len(column) else column)
        return Batch(pa.StructArray.from_arrays(columns, self._names), places)


def _fits(column: pa.Array, form: str) -> bool:
    return pc.all(pc.match_substring_regex(column, form)).as_py() is not False


def _in_words(error: csv.Error) -> str:
    if "unexpected end of data" in str(error) or "field limit" in str(error):
        return "a quote that opens here is never closed"
    return str(error)

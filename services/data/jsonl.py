"""Rows from JSON lines: one object a line, nested as deep as one likes, each column of one type.

Lines of white space count but hold no row. Of a key that stands twice in one object the last counts, as JSON
parsers have it. A truth value is no number.
"""

import json
from collections.abc import Iterator
from typing import Any, BinaryIO, Literal, NoReturn

import pyarrow as pa
from pyarrow import types as is_

from rekindle.types import InvalidField
from services.data.limits import Limits
from services.data.rows import BATCH_BYTES, BATCH_ROWS, LARGE_AMONG_FRACTIONS, Batch
from services.data.shapes import Mixed, merge
from services.data.source import lines

Row = dict[str, Any]


def _no_number(word: str) -> NoReturn:
    raise ValueError(f"{word} is no JSON; send null")


DECODER = json.JSONDecoder(parse_constant=_no_number)


class JsonLines:
    """A reader of JSON lines."""

    unit: Literal["line"] = "line"

    def __init__(self, stream: BinaryIO, limits: Limits) -> None:
        self._stream = stream
        self._limits = limits

    def shape(self, seen: pa.StructType) -> pa.StructType:
        return seen

    def batches(self) -> Iterator[Batch]:
        rows: list[Row] = []
        places: list[int] = []
        size = 0
        bools = False
        for number, line in lines(self._stream, self._limits):
            if line.isspace():
                continue
            rows.append(self._parse(number, line))
            places.append(number)
            size += len(line)
            bools = bools or "true" in line or "false" in line
            if size >= BATCH_BYTES or len(rows) == BATCH_ROWS:
                yield _batch(rows, places, bools)
                rows, places, size, bools = [], [], 0, False
        if rows:
            yield _batch(rows, places, bools)

    def _parse(self, number: int, line: str) -> Row:
        try:
            row = DECODER.decode(line)
        except RecursionError as error:
            raise InvalidField(
                f"line {number}", f"nested too deep, the limit is {self._limits.depth} levels"
            ) from error
        except ValueError as error:
            raise InvalidField(f"line {number}", f"not JSON: {error}") from error
        if not isinstance(row, dict):
            raise InvalidField(f"line {number}", f"expected an object, found {type(row).__name__}")
        if len(row) > self._limits.columns:
            raise InvalidField(f"line {number}", f"{len(row)} columns, the limit is {self._limits.columns}")
        return row


UNFIT = (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, UnicodeEncodeError)
"""What Arrow raises for values that make no column."""


def _batch(rows: list[Row], places: list[int], bools: bool) -> Batch:
    try:
        array = pa.array(rows)
    except UNFIT as error:
        _find_mistake(rows, places)  # else only this is left:
        where = f"lines {places[0]} to {places[-1]}"
        raise InvalidField(where, f"{LARGE_AMONG_FRACTIONS}: {error}") from error
    if bools:  # Arrow takes true for 1.0 among fractions
        for row, place in zip(rows, places, strict=True):
            for name, value in row.items():
                if _has_stray_bool(value, array.type.field(name).type):
                    raise _mistake(place, name, "mixed types float and bool")
    return Batch(array, places)


def _has_stray_bool(value: object, type_: pa.DataType) -> bool:
    if isinstance(value, dict) and is_.is_struct(type_):
        return any(_has_stray_bool(inner, type_.field(key).type) for key, inner in value.items())
    if isinstance(value, list) and is_.is_list(type_):
        return any(_has_stray_bool(inner, type_.value_type) for inner in value)
    return isinstance(value, bool) and not is_.is_boolean(type_)


def _find_mistake(rows: list[Row], places: list[int]) -> None:
    """Raises InvalidField that names the first line and column that do not fit those before."""
    known: dict[str, pa.DataType] = {}
    for row, place in zip(rows, places, strict=True):
        for name, value in row.items():
            try:
                found = pa.array([{name: value}]).type.field(0).type
                known[name] = merge(known.get(name, pa.null()), found, name)
            except Mixed as error:
                raise _mistake(place, error.path, str(error)) from error
            except UnicodeEncodeError as error:
                raise _mistake(place, ascii(name), "half of a surrogate pair is no text") from error
            except OverflowError as error:
                raise _mistake(place, name, "a whole number outside of 64 bits") from error
            except UNFIT as error:
                raise _mistake(place, name, f"mixed types within the value: {error}") from error


def _mistake(place: int, column: str, reason: str) -> InvalidField:
    return InvalidField(f'line {place}, column "{column}"', reason)

"""Rows from Parquet files of others: every value brought to a JSON type, every length distrusted."""

import io
import struct
from collections.abc import Iterator
from typing import Any, BinaryIO, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from rekindle.types import InvalidField
from services.data.limits import MIB, Limits
from services.data.rows import BATCH_BYTES, BATCH_ROWS, Batch
from services.data.shapes import bring, plain
from services.data.source import Parts

MAGIC = b"PAR1"
MAX_FOOTER = 2**26
"""Bytes; the footer is unpacked before anything of it can be checked."""
MAX_GROUPS = 100_000


class ParquetRows:
    """A reader of Parquet files."""

    unit: Literal["row"] = "row"

    def __init__(self, parts: Parts, limits: Limits) -> None:
        self._parts = parts
        self._limits = limits

    def shape(self, seen: pa.StructType) -> pa.StructType:
        return seen

    def batches(self) -> Iterator[Batch]:
        stream = io.BufferedReader(self._parts, MIB)  # Arrow takes a short read for the end
        check_frame(stream, self._parts.size)
        try:
            file = pq.ParquetFile(stream, pre_buffer=False)
            yield from self._read(file)
        except MemoryError:
            raise
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise InvalidField("file", f"not readable as Parquet: {_first_line(error)}") from error

    def _read(self, file: Any) -> Iterator[Batch]:
        size = self._check_metadata(file.metadata)
        columns = plain(pa.struct(list(file.schema_arrow)), "")
        rows_a_batch = max(1, min(BATCH_ROWS, BATCH_BYTES * file.metadata.num_rows // max(1, size)))
        most, seen, place = self._limits.most_bytes(self._parts.size), 0, 1
        for batch in file.iter_batches(rows_a_batch, use_threads=False):
            seen += batch.nbytes
            if seen > most:
                raise InvalidField("file", f"unpacks to more than {most} bytes, the limit for its size")
            batch.validate(full=True)
            places = range(place, place + len(batch))
            yield Batch(_cast(batch.to_struct_array(), columns, places), places)
            place += len(batch)

    def _check_metadata(self, found: Any) -> int:
        """The size in bytes that the file claims to unpack to. Raises InvalidField for absurd numbers."""
        for name, count, most in (
            ("columns", found.num_columns, self._limits.columns),
            ("row groups", found.num_row_groups, MAX_GROUPS),
        ):
            if count > most:
                raise InvalidField("file", f"{count} {name}, the limit is {most}")
        groups = [found.row_group(index) for index in range(found.num_row_groups)]
        size = sum(group.total_byte_size for group in groups)
        if found.num_rows < 0 or any(group.num_rows < 0 or group.total_byte_size < 0 for group in groups):
            raise InvalidField("file", "not readable as Parquet: a negative size")
        if size > (most := self._limits.most_bytes(self._parts.size)):
            raise InvalidField("file", f"unpacks to {size} bytes, the limit for its size is {most}")
        return int(size)


def check_frame(stream: BinaryIO, size: int) -> None:
    """Raises InvalidField unless the file begins and ends as Parquet does."""
    if size < 12:
        raise InvalidField("file", f"{size} bytes are no Parquet file")
    head = stream.read(4)
    stream.seek(-8, io.SEEK_END)
    footer, tail = struct.unpack("<I4s", stream.read(8))
    stream.seek(0)
    if head != MAGIC:
        raise InvalidField("file", f"not Parquet: begins with {head!r}, expected {MAGIC!r}")
    if tail != MAGIC:
        raise InvalidField("file", f"not whole: ends with {tail!r}, expected {MAGIC!r}")
    if footer > min(MAX_FOOTER, size - 12):
        raise InvalidField("file", f"not Parquet: a footer of {footer} bytes in a file of {size}")


def _cast(rows: pa.StructArray, target: pa.StructType, places: range) -> pa.StructArray:
    """The rows in JSON types. Raises InvalidField that names the first row that has no place there."""
    if rows.type == target:
        return rows
    columns = []
    for field, values in zip(target, rows.flatten(), strict=True):
        try:
            columns.append(bring(values, field.type))
        except pa.ArrowInvalid as error:
            place = next((p for i, p in enumerate(places) if not _casts(values.slice(i, 1), field.type)), 0)
            raise InvalidField(f'row {place}, column "{field.name}"', _first_line(error)) from error
    return pa.StructArray.from_arrays(columns, fields=list(target))


def _casts(value: pa.Array, target: pa.DataType) -> bool:
    try:
        bring(value, target)
    except pa.ArrowInvalid:
        return False
    return True


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]

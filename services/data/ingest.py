"""From an uploaded file to a version: read, check, find the shape, write.

The shape of text files shows only at their end. So their rows wait in a spool, each run of batches of one shape
in a file of its own, and are brought to the final shape on their way out of it.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyarrow as pa

from rekindle.types import InvalidField
from rekindle.types.datasets import Compression, Format
from services.data.csv_rows import CsvRows
from services.data.jsonl import JsonLines
from services.data.limits import Limits
from services.data.parquet import ParquetRows
from services.data.rows import LARGE_AMONG_FRACTIONS, Batch, Reader, check_rows
from services.data.shapes import Mixed, bring, check_shape, merge
from services.data.source import Parts, unpacked
from services.data.summary import Summary
from services.data.version import write_version

SPOOL = "spool"
SPOOL_OPTIONS = pa.ipc.IpcWriteOptions(compression="lz4", use_threads=False)


class Spool:
    """Rows that wait for their final shape, in a folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self._folder = folder
        self._paths: list[Path] = []
        self._writer: Any = None
        self.shape: pa.StructType = pa.struct([])
        """What the shapes of all batches so far merge to."""

    def add(self, batch: Batch, unit: str) -> None:
        """Raises InvalidField when the batch does not fit those before."""
        shape = self._merged(batch, unit)
        if self._writer is None or shape != self.shape:
            self._next_file(shape)
        self._writer.write_batch(pa.RecordBatch.from_arrays([bring(batch.rows, shape)], ["rows"]))

    def _merged(self, batch: Batch, unit: str) -> pa.StructType:
        try:
            return merge(self.shape, batch.rows.type)
        except Mixed as error:
            place = next(p for i, p in enumerate(batch.places) if not self._fits(batch.rows.slice(i, 1)))
            raise InvalidField(f'{unit} {place}, column "{error.path}"', str(error)) from error

    def _fits(self, row: pa.StructArray) -> bool:
        shape = pa.array(row.to_pylist()).type  # the row's own: other rows gave its batch its types
        try:
            merge(self.shape, shape)
        except Mixed:
            return False
        return True

    def _next_file(self, shape: pa.StructType) -> None:
        self.close()
        self.shape = shape
        path = self._folder / f"{len(self._paths)}.arrow"
        schema = pa.schema([("rows", shape)])
        self._writer = pa.ipc.new_file(path, schema, options=SPOOL_OPTIONS)
        self._paths.append(path)

    def rows(self, shape: pa.StructType) -> Iterator[pa.StructArray]:
        """All rows in their final shape; each file goes once it is read."""
        for path in self._paths:
            with pa.ipc.open_file(path) as file:
                for index in range(file.num_record_batches):
                    yield _in_shape(file.get_batch(index).column(0), shape)
            path.unlink()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


def _in_shape(rows: pa.StructArray, shape: pa.StructType) -> pa.StructArray:
    try:
        return bring(rows, shape)
    except pa.ArrowInvalid as error:
        raise InvalidField("columns", f"{LARGE_AMONG_FRACTIONS}: {error}") from error


def ingest(
    paths: list[Path], format_: Format, compression: Compression, folder: Path, limits: Limits
) -> Summary:
    """Write the version of a file, given as its parts, into `folder`. Raises InvalidField."""
    with ExitStack() as opened:
        parts = opened.enter_context(Parts(paths))
        if format_ == "parquet":
            summary = _copy(ParquetRows(parts, limits), folder, limits)
        else:
            stream = unpacked(parts, compression, limits)
            reader = JsonLines(stream, limits) if format_ == "jsonl" else CsvRows(stream, limits)
            summary = _spooled(reader, folder, limits)
    return summary


def _copy(reader: Reader, folder: Path, limits: Limits) -> Summary:
    """The version of a file whose batches have the final shape from the first on."""
    batches = _checked(reader, limits)
    first = next(batches, None)
    if first is None:
        raise InvalidField("file", "no rows")
    return write_version(folder, first.rows.type, (batch.rows for batch in _again(first, batches)))


def _again(first: Batch, rest: Iterator[Batch]) -> Iterator[Batch]:
    yield first
    yield from rest


def _checked(reader: Reader, limits: Limits) -> Iterator[Batch]:
    try:
        for batch in reader.batches():
            check_shape(batch.rows.type, limits)
            check_rows(batch, reader.unit, limits)
            yield batch
    except RecursionError as error:
        raise InvalidField("file", f"nested too deep, the limit is {limits.depth} levels") from error


def _spooled(reader: Reader, folder: Path, limits: Limits) -> Summary:
    spool = Spool(folder / SPOOL)
    for batch in _checked(reader, limits):
        spool.add(batch, reader.unit)
        check_shape(spool.shape, limits)
    spool.close()
    if not spool.shape.num_fields:
        raise InvalidField("file", "no rows")
    shape = reader.shape(spool.shape)
    summary = write_version(folder, shape, spool.rows(shape))
    (folder / SPOOL).rmdir()
    return summary

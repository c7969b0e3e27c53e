"""The one form in which rows are kept: a Parquet file of JSON types, in row groups small enough to read singly.

Written batch by batch, with the content hash and the columns' statistics as they pass.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import pyarrow as pa
import pyarrow.parquet as pq

from services.data.columns import ColumnCount
from services.data.digest import ContentHash
from services.data.limits import MIB
from services.data.rows import size_of
from services.data.shapes import check_storable
from services.data.summary import FILE, Summary

GROUP_BYTES = 4 * MIB
GROUP_ROWS = 8192
"""What reading one page costs: a group is read whole."""


class VersionWriter:
    """Writes `FILE` into a folder; leaving the block without an error completes it."""

    def __init__(self, folder: Path, shape: pa.StructType) -> None:
        check_storable(shape)
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / FILE
        self._shape = shape
        self._schema = pa.schema(list(shape))
        self._file = pq.ParquetWriter(self._path, self._schema, compression="zstd", compression_level=1)
        self._hash = ContentHash()
        self._columns = [ColumnCount(field.name, field.type) for field in shape]
        self._waiting: list[pa.RecordBatch] = []
        self._waiting_bytes = self._waiting_rows = 0
        self.rows = 0

    def write(self, rows: pa.StructArray) -> None:
        """Add rows of the shape."""
        self.rows += len(rows)
        self._hash.update(rows)
        for column, values in zip(self._columns, rows.flatten(), strict=True):
            column.add(values)
        for start in range(0, len(rows), GROUP_ROWS):
            self._wait(rows.slice(start, GROUP_ROWS))

    def _wait(self, rows: pa.StructArray) -> None:
        size = size_of(rows)
        if self._waiting_bytes + size > GROUP_BYTES or self._waiting_rows + len(rows) > GROUP_ROWS:
            self._flush()
        self._waiting.append(pa.RecordBatch.from_struct_array(rows))
        self._waiting_bytes += size
        self._waiting_rows += len(rows)

    def _flush(self) -> None:
        if self._waiting_rows:
            self._file.write_table(pa.Table.from_batches(self._waiting, self._schema), GROUP_ROWS)
        self._waiting, self._waiting_bytes, self._waiting_rows = [], 0, 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._flush()
        self._file.close()

    def summary(self) -> Summary:
        """Of the completed file."""
        return Summary(
            sha256=self._hash.hexdigest(),
            rows=self.rows,
            bytes=self._path.stat().st_size,
            columns=tuple(column.result() for column in self._columns),
        )


def write_version(folder: Path, shape: pa.StructType, batches: Iterable[pa.StructArray]) -> Summary:
    """Write all batches. Raises InvalidField for a shape that cannot be kept."""
    with VersionWriter(folder, shape) as writer:
        for rows in batches:
            writer.write(rows)
    return writer.summary()


class VersionFile:
    """A completed file of rows."""

    def __init__(self, source: Path | BinaryIO) -> None:
        """source: its folder, or the file itself, open; that is left open."""
        path = source / FILE if isinstance(source, Path) else source
        self._file = pq.ParquetFile(path, pre_buffer=False)
        self.shape: pa.StructType = pa.struct(list(self._file.schema_arrow))
        self.rows: int = self._file.metadata.num_rows

    def groups(self) -> Iterator[pa.StructArray]:
        """All rows, a row group at a time."""
        for index in range(self._file.num_row_groups):
            yield self._group(index)

    def rows_from(self, offset: int) -> Iterator[pa.StructArray]:
        """The rows from a place on, a row group at a time; groups before it are not read."""
        start = 0
        for index in range(self._file.num_row_groups):
            end = start + self._file.metadata.row_group(index).num_rows
            if end > offset:
                yield self._group(index).slice(max(0, offset - start))
            start = end

    def group_at(self, offset: int) -> tuple[int, pa.StructArray]:
        """(place of its first row, rows) of the row group that holds a row."""
        start = 0
        for index in range(self._file.num_row_groups):
            end = start + self._file.metadata.row_group(index).num_rows
            if end > offset:
                return start, self._group(index)
            start = end
        raise IndexError(f"row {offset} of {self.rows}")

    def _group(self, index: int) -> pa.StructArray:
        table = self._file.read_row_group(index, use_threads=False)
        return table.combine_chunks().to_struct_array().combine_chunks()

    def close(self) -> None:
        self._file.close()

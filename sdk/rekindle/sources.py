"""Whatever people call a dataset, as one file of known format, length and hash.

A file is taken as it is. Rows, streams and data frames are written to a temporary file first, because an upload
is announced with its length and its SHA-256.
"""

import contextlib
import hashlib
import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from rekindle.types import InvalidField
from rekindle.types.datasets import Compression, Format

_FORMATS: Mapping[str, Format] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".parquet": "parquet",
}
_COMPRESSIONS: Mapping[str, Compression] = {".gz": "gzip", ".zst": "zstd"}
_MAGIC: Mapping[bytes, Compression] = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}


@runtime_checkable
class Table(Protocol):
    """A `datasets.Dataset`, a `pandas.DataFrame`, or what writes itself as they do."""

    def to_parquet(self, path: Any) -> Any:
        """Write all rows to a Parquet file."""


@runtime_checkable
class Stream(Protocol):
    """An open binary file, a response body, a pipe."""

    def read(self, size: int = ..., /) -> bytes:
        """The next bytes, none at the end."""


Source = str | Path | Stream | Table | Iterable[Mapping[str, Any]]
"""A file by its path, an open binary stream, a table, or rows as mappings."""


@dataclass(frozen=True, slots=True)
class LocalFile:
    """E.g. `LocalFile(Path("train.csv.gz"), "csv", "gzip", 1024, "5d41…")`."""

    path: Path
    format: Format
    compression: Compression
    size_bytes: int
    sha256: str
    """Of the file as it lies there, 64 hex digits."""


@contextlib.contextmanager
def as_file(source: Source, format: Format | None, compression: Compression | None) -> Iterator[LocalFile]:
    """The source as a file, for as long as the block lasts. Blocks; reads everything once.

    Raises InvalidField for a source or a format that is not known, OSError for a file that cannot be read.
    """
    with tempfile.TemporaryDirectory(prefix="rekindle-") as folder:
        path, format, compression = _place(source, format, compression, Path(folder))
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        yield LocalFile(path, format, compression, path.stat().st_size, digest)


def _place(
    source: Source, format: Format | None, compression: Compression | None, folder: Path
) -> tuple[Path, Format, Compression]:
    if isinstance(source, str | Path):
        return _place_file(Path(source), format, compression, folder)
    if isinstance(source, Table):
        target = folder / "table.parquet"
        source.to_parquet(str(target))
        return target, "parquet", "none"
    if isinstance(source, Stream):
        return _spool(source, format, compression, folder / "stream")
    if isinstance(source, Iterable) and not isinstance(source, Mapping | bytes):
        return _write_rows(source, folder / "rows.jsonl"), "jsonl", "none"
    raise InvalidField(
        "source", f"{type(source).__name__}: expected a path, a binary stream, a table or rows"
    )


def _place_file(
    path: Path, format: Format | None, compression: Compression | None, folder: Path
) -> tuple[Path, Format, Compression]:
    """A pipe can be read once alone, and has no length: it is a stream that has a path."""
    if path.is_fifo():
        with path.open("rb") as stream:
            return _spool(stream, format, compression, folder / "stream")
    found = format or _format(path.name), compression or _compression(path.name)
    if path.stat().st_size == 0:
        raise InvalidField("source", f"{path} is empty, expected at least one row")
    return path, *found


def _spool(
    stream: "Stream", format: Format | None, compression: Compression | None, target: Path
) -> tuple[Path, Format, Compression]:
    name = str(getattr(stream, "name", ""))
    known = format or _format(name)
    with target.open("wb") as file:
        while chunk := stream.read(1 << 20):
            if not isinstance(chunk, bytes | bytearray | memoryview):
                raise InvalidField("source", "a stream of texts, expected a binary one: open(path, 'rb')")
            file.write(chunk)
    if not target.stat().st_size:
        raise InvalidField("source", "the stream is empty, expected at least one row")
    return target, known, compression or _compression_of(target)


def _write_rows(rows: Iterable[Any], target: Path) -> Path:
    with target.open("w", encoding="utf-8") as file:
        for number, row in enumerate(rows):
            if not isinstance(row, Mapping):
                raise InvalidField(f"source[{number}]", f"{type(row).__name__}, expected a row as a mapping")
            try:
                file.write(json.dumps(dict(row), ensure_ascii=False, allow_nan=False) + "\n")
            except (TypeError, ValueError) as error:
                raise InvalidField(f"source[{number}]", f"cannot be written as JSON: {error}") from error
        if not file.tell():
            raise InvalidField("source", "no rows, expected at least one")
    return target


def _format(name: str) -> Format:
    path = Path(name)
    suffix = Path(path.stem).suffix if path.suffix.lower() in _COMPRESSIONS else path.suffix
    found = _FORMATS.get(suffix.lower())
    if found is None:
        known = ", ".join(_FORMATS)
        raise InvalidField(
            "format", f"not given, and {name or 'the stream'!r} does not end in one of {known}"
        )
    return found


def _compression(name: str) -> Compression:
    return _COMPRESSIONS.get(Path(name).suffix.lower(), "none")


def _compression_of(file: Path) -> Compression:
    """By its first bytes: a stream from `gzip.open` has the file's name and not its compression."""
    with file.open("rb") as opened:
        begin = opened.read(4)
    return next((found for magic, found in _MAGIC.items() if begin.startswith(magic)), "none")

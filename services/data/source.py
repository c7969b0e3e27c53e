"""The bytes of an upload: its parts as one file, unpacked under a limit, line by line.

Promises: nothing is read into memory that has no limit, and what is unpacked never exceeds what the file's size
admits, so that a small file cannot become an endless one.
"""

import gzip
import hashlib
import io
import zlib
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import BinaryIO, cast

import pyarrow as pa
from typing_extensions import Buffer

from rekindle.types import InvalidField
from rekindle.types.datasets import Compression
from services.data.limits import MIB, Limits

BOM = b"\xef\xbb\xbf"


class Parts(io.RawIOBase):
    """Several files, read as one. The one that is being read is open: a large upload has thousands."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        self._ends = list(accumulate(path.stat().st_size for path in paths))
        self._at = 0
        self._open: tuple[int, io.BufferedReader] | None = None

    @property
    def size(self) -> int:
        return self._ends[-1] if self._ends else 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size}[whence]
        self._at = max(0, start + offset)
        return self._at

    def readinto(self, buffer: Buffer) -> int:
        index = bisect_right(self._ends, self._at)
        if index == len(self._paths):
            return 0
        before = self._ends[index - 1] if index else 0
        file = self._file(index)
        file.seek(self._at - before)
        count = file.readinto(buffer)
        self._at += count
        return count

    def _file(self, index: int) -> io.BufferedReader:
        if self._open is None or self._open[0] != index:
            self._close()
            self._open = index, self._paths[index].open("rb")
        return self._open[1]

    def _close(self) -> None:
        if self._open is not None:
            self._open[1].close()
            self._open = None

    def close(self) -> None:
        self._close()
        super().close()


def check_content(paths: Sequence[Path], size: int, sha256: str) -> None:
    """Raises InvalidField unless the parts together are what was announced."""
    with Parts(paths) as parts:
        if parts.size != size:
            raise InvalidField("size_bytes", f"announced {size}, received {parts.size}")
        found = hashlib.file_digest(io.BufferedReader(parts, MIB), "sha256").hexdigest()
    if found != sha256:
        raise InvalidField("sha256", f"announced {sha256}, the content's is {found}")


class _Unpacked(io.RawIOBase):
    """What a compressed stream holds, up to a limit."""

    def __init__(self, stream: BinaryIO, most: int) -> None:
        self._stream = stream
        self._left = self._most = most

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Buffer) -> int:
        try:
            data = self._stream.read(len(memoryview(buffer)))
        except (OSError, EOFError, zlib.error) as error:
            raise InvalidField("compression", f"the file cannot be unpacked: {error}") from error
        self._left -= len(data)
        if self._left < 0:
            raise InvalidField("file", f"unpacks to more than {self._most} bytes, the limit for its size")
        memoryview(buffer)[: len(data)] = data
        return len(data)


def unpacked(parts: Parts, compression: Compression, limits: Limits) -> BinaryIO:
    """The content of an upload as a stream. Reading raises InvalidField where it is broken or too much."""
    stream = cast(BinaryIO, io.BufferedReader(parts, MIB))
    if compression == "gzip":
        stream = cast(BinaryIO, gzip.GzipFile(fileobj=stream))
    elif compression == "zstd":
        # Of all its readers Arrow's alone notices that the end is missing.
        stream = cast(BinaryIO, pa.CompressedInputStream(pa.PythonFile(stream, mode="r"), "zstd"))
    most = limits.most_bytes(parts.size) if compression != "none" else limits.decoded_bytes
    return cast(BinaryIO, io.BufferedReader(_Unpacked(stream, most), MIB))


def lines(stream: BinaryIO, limits: Limits) -> Iterator[tuple[int, str]]:
    """(number from 1, text) of every line, line ends kept. Raises InvalidField."""
    number = 0
    while line := stream.readline(limits.row_bytes + 1):
        number += 1
        if len(line) > limits.row_bytes:
            raise InvalidField(f"line {number}", f"longer than the limit of {limits.row_bytes} bytes")
        if number == 1:
            line = line.removeprefix(BOM)
        try:
            yield number, line.decode()
        except UnicodeDecodeError as error:
            raise InvalidField(
                f"line {number}", f"not UTF-8: byte 0x{line[error.start]:02x} at {error.start + 1}"
            ) from error

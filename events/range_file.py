"""Files in ranges: one that lies elsewhere, for whoever takes an open file, and one that is put together here.

Knows nothing of where. A file is read in threads, by one at a time.
"""

import io
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

Read = Callable[[int, int], bytes]
"""(start, length) → exactly these bytes; blocks."""


class RangeFile(io.RawIOBase):
    """A file of `size` bytes."""

    def __init__(self, size: int, read: Read) -> None:
        self._size = size
        self._read = read
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        begin = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        self._place = max(0, begin + offset)
        return self._place

    def readinto(self, into: "WriteableBuffer") -> int:
        """Raises what `read` raises."""
        view = memoryview(into).cast("B")
        length = max(0, min(len(view), self._size - self._place))
        if length:
            view[:length] = self._read(self._place, length)
            self._place += length
        return length


def write_range(handle: int, data: memoryview, start: int) -> None:
    """All of it: a disk that fills takes some, and says so only when asked for the rest. Raises OSError."""
    while data:
        written = os.pwrite(handle, data, start)
        data, start = data[written:], start + written

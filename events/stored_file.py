"""An answer that is one file of a stored folder, sent as it is read from where it lies.

Of a request for ranges the first is answered if it is the only one, as the protocol allows (RFC 9110, 14.2); the file's
tag is the same wherever it is asked for, so that a download is resumed at any replica.
"""

import hashlib
import io
import re
from collections.abc import AsyncIterator
from mimetypes import guess_type
from typing import BinaryIO
from urllib.parse import quote

import anyio.to_thread
from fastapi.responses import Response, StreamingResponse
from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from events.blobs import Blobs

CHUNK_BYTES = 2 * 1024 * 1024
"""Read at once, and in memory for each answer under way."""


class StoredFile(Response):
    """Answers a request for a range of the file, too; 404 where there is no such file."""

    def __init__(
        self, blobs: Blobs, key: str, file: str, *, called: str | None = None, media_type: str | None = None
    ) -> None:
        """key: of the folder. called: the file's name for the client; None = its own."""
        called = called or file
        super().__init__(media_type=media_type or guess_type(called)[0] or "application/octet-stream")
        self._blobs, self._key, self._file = blobs, key, file
        self._called = called

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises NotFound and BlobsUnavailable before anything is sent."""
        async with self._blobs.file(self._key, self._file) as file:
            size = await anyio.to_thread.run_sync(file.seek, 0, io.SEEK_END)
            about = self._about(size)
            wanted = _range(Headers(scope=scope), about["etag"], size)
            if wanted is None:
                answer = Response(status_code=416, headers={"content-range": f"bytes */{size}"})
                return await answer(scope, receive, send)
            await anyio.to_thread.run_sync(file.seek, wanted.start)
            first = await _read(file, len(wanted))
            about["content-length"] = str(len(wanted))
            if len(wanted) < size:
                about["content-range"] = f"bytes {wanted.start}-{wanted.stop - 1}/{size}"
            whole = StreamingResponse(
                _chunks(file, first, len(wanted)),
                206 if len(wanted) < size else 200,
                about,
                self.media_type,
            )
            await whole(scope, receive, send)

    def _about(self, size: int) -> dict[str, str]:
        name = quote(self._called)
        said = f'filename="{name}"' if name == self._called else f"filename*=utf-8''{name}"
        tag = hashlib.sha256(f"{self._key}/{self._file}/{size}".encode()).hexdigest()[:32]
        return {"accept-ranges": "bytes", "etag": f'"{tag}"', "content-disposition": f"attachment; {said}"}


def _range(headers: Headers, tag: str, size: int) -> range | None:
    """The bytes that are asked for, all of them where that cannot be told; None for some that do not exist."""
    found = re.fullmatch(r"bytes=(\d{0,18})-(\d{0,18})", headers.get("range", "").replace(" ", ""))
    if found is None or found[0] == "bytes=-" or headers.get("if-range", tag) != tag:
        return range(size)
    first, last = found.groups()
    if not first:
        start, stop = max(0, size - int(last)), size
    else:
        start, stop = int(first), min(size, int(last) + 1 if last else size)
    if last and first and int(last) < int(first):
        return range(size)
    return range(start, stop) if start < stop else None


async def _read(file: BinaryIO, most: int) -> bytes:
    return await anyio.to_thread.run_sync(file.read, min(most, CHUNK_BYTES))


async def _chunks(file: BinaryIO, chunk: bytes, left: int) -> AsyncIterator[bytes]:
    while left:
        assert chunk, "a stored file has the size that it had"
        yield chunk
        left -= len(chunk)
        chunk = await _read(file, left)

"""One file to the server in parts, several at once, going on where an earlier attempt broke off.

The server finds an upload again by what it was announced with (name, length, hash): the same call after a
crash sends only the parts that are missing.
"""

import asyncio
import hashlib
from pathlib import Path

from rekindle.futures import Progress
from rekindle.inputs import build
from rekindle.session import Session
from rekindle.sources import LocalFile
from rekindle.transfers import OnProgress
from rekindle.types import UntypedFuture, parse_json
from rekindle.types.datasets import CreateDatasetRequest, DatasetVersion, Upload

PARTS_AT_ONCE = 4
OCTETS = "application/octet-stream"


async def upload(
    session: Session,
    file: LocalFile,
    name: str,
    description: str | None,
    waiting: Progress,
    progress: OnProgress | None,
) -> DatasetVersion:
    """The version that became of the file."""
    request = build(
        CreateDatasetRequest,
        name=name,
        format=file.format,
        compression=file.compression,
        size_bytes=file.size_bytes,
        sha256=file.sha256,
        description=description,
    )
    opened = await session.transport.ask(Upload, "POST", "/datasets", body=request)
    if opened.state == "open":
        await _Parts(session, file, opened, progress).send()
    complete = f"/datasets/uploads/{opened.upload_id}/complete"
    accepted = await session.transport.ask(UntypedFuture, "POST", complete)
    return parse_json(DatasetVersion, await session.poller.wait(accepted.request_id, waiting))


class _Parts:
    """The parts of one upload that the server does not have."""

    def __init__(
        self, session: Session, file: LocalFile, opened: Upload, progress: OnProgress | None
    ) -> None:
        self._session, self._file, self._opened, self._progress = session, file, opened, progress
        count = -(-file.size_bytes // opened.part_bytes)
        self._missing = sorted(set(range(count)) - set(opened.parts))
        self._done = file.size_bytes - sum(self._length(number) for number in self._missing)

    def _length(self, number: int) -> int:
        start = number * self._opened.part_bytes
        return min(self._opened.part_bytes, self._file.size_bytes - start)

    async def send(self) -> None:
        """All of them, in order, a few at a time; the first that fails for good ends the rest."""
        self._tell(0)
        waiting = iter(self._missing)

        async def work() -> None:
            for number in waiting:
                await self._send_one(number)

        workers = [asyncio.ensure_future(work()) for _ in range(min(PARTS_AT_ONCE, len(self._missing)))]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()

    async def _send_one(self, number: int) -> None:
        start, length = number * self._opened.part_bytes, self._length(number)
        part, digest = await asyncio.to_thread(_read, self._file.path, start, length)
        path = f"/datasets/uploads/{self._opened.upload_id}/parts/{number}"
        headers = {"Content-Type": OCTETS, "X-Part-SHA256": digest}
        await self._session.transport.send("PUT", path, body=part, headers=headers)
        self._tell(length)

    def _tell(self, more: int) -> None:
        self._done += more
        if self._progress is not None:
            self._progress(self._done, self._file.size_bytes)


def _read(path: Path, start: int, length: int) -> tuple[bytes, str]:
    """A part of the file and its SHA-256."""
    with path.open("rb") as file:
        file.seek(start)
        part = file.read(length)
    return part, hashlib.sha256(part).hexdigest()

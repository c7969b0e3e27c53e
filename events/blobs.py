"""What is too large for an event: adapter files, snapshots, datasets, payloads of large events.

A key is a path of tokens made by `names.py`. A blob appears whole (written aside, flushed, renamed) and never
changes. A folder that nothing is left in is gone too.
"""

import asyncio
import contextlib
import os
import shutil
import socket
import tempfile
from pathlib import Path
from typing import Protocol

from events import names
from events.failure import NotFound


class Blobs(Protocol):
    """A store of immutable blobs."""

    async def put(self, key: str, data: bytes) -> None:
        """Store `data` under `key`; storing the same key again changes nothing."""
        ...

    async def get(self, key: str) -> bytes:
        """Raises NotFound."""
        ...

    async def put_folder(self, key: str, folder: Path) -> int:
        """Move the files of `folder` into the store; returns their size in bytes."""
        ...

    async def folder(self, key: str) -> Path:
        """A local folder with the files of a stored folder, to be read only. Raises NotFound."""
        ...

    async def delete(self, key: str) -> None:
        """Remove a blob or folder; nothing happens if it is not there."""
        ...

    async def under(self, key: str) -> list[str]:
        """Keys of the blobs and folders directly under `key`; none if there is nothing."""
        ...

    def staging(self, work: str = "") -> Path:
        """A fresh private folder on the store's own disk, for `put_folder`.

        work: a name of the work it is for, one token; what an earlier attempt at it left behind goes.
        """
        ...


class FolderBlobs:
    """Blobs in a folder of this machine (or of a shared disk)."""

    def __init__(self, root: Path) -> None:
        self._root = root.resolve()
        self._aside = self._root / "aside"
        self._aside.mkdir(parents=True, exist_ok=True)
        self._writer = f"{names.token(socket.gethostname())}-{os.getpid()}"
        self._sweep()

    async def put(self, key: str, data: bytes) -> None:
        await asyncio.to_thread(self._put, key, data)

    async def get(self, key: str) -> bytes:
        try:
            return await asyncio.to_thread(self._path(key).read_bytes)
        except FileNotFoundError:
            raise NotFound(f"blob {key} does not exist") from None

    async def put_folder(self, key: str, folder: Path) -> int:
        return await asyncio.to_thread(self._put_folder, key, folder)

    async def folder(self, key: str) -> Path:
        path = self._path(key)
        if not path.is_dir():
            raise NotFound(f"blob {key} does not exist")
        return path

    async def delete(self, key: str) -> None:
        await asyncio.to_thread(self._delete, self._path(key))

    async def under(self, key: str) -> list[str]:
        return await asyncio.to_thread(self._under, key)

    def _under(self, key: str) -> list[str]:
        path = self._path(key)
        return [f"{key}/{entry.name}" for entry in sorted(path.iterdir())] if path.is_dir() else []

    def staging(self, work: str = "") -> Path:
        if work:
            self._clear(work)
        return self._folder_aside(work)

    def _folder_aside(self, work: str) -> Path:
        return Path(tempfile.mkdtemp(prefix=f"{self._writer}.{work}.", dir=self._aside))

    def _clear(self, work: str) -> None:
        for left in self._aside.glob(f"*.{work}.*"):
            shutil.rmtree(left, ignore_errors=True)  # others may clear it too

    def _sweep(self) -> None:
        """Remove what processes of this machine have left aside that died over it."""
        for left in self._aside.glob(f"{names.token(socket.gethostname())}-*.*"):
            pid = left.name.partition(".")[0].rpartition("-")[2]
            if pid.isdigit() and not Path(f"/proc/{pid}").exists() and Path("/proc/self").exists():
                shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        path = (self._root / key).resolve()
        assert path.is_relative_to(self._root) and path != self._root, f"blob key {key!r} leaves the store"
        return path

    def _put(self, key: str, data: bytes) -> None:
        path = self._path(key)
        if path.exists():
            return
        handle, name = tempfile.mkstemp(prefix=f"{self._writer}.put.", dir=self._aside)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            _move_in(Path(name), path)
        except OSError:
            Path(name).unlink(missing_ok=True)  # a full disk must not fill further
            raise

    def _put_folder(self, key: str, folder: Path) -> int:
        path = self._path(key)
        size = 0
        for file in folder.iterdir():
            size += file.stat().st_size
            _flush_folder(file)
        if path.exists():  # the same epoch wrote it before an acknowledgement was lost
            shutil.rmtree(folder)
            return size
        _flush_folder(folder)
        _move_in(folder, path)
        return size

    def _delete(self, path: Path) -> None:
        work = f"gone-{names.token(str(path))}"
        while path.is_dir():
            aside = self._folder_aside(work) / path.name
            with contextlib.suppress(FileNotFoundError):  # somebody else is deleting it too
                path.rename(aside)  # gone at once for readers, whatever it takes to remove
        path.unlink(missing_ok=True)
        self._clear(work)
        self._drop_empty(path.parent)

    def _drop_empty(self, folder: Path) -> None:
        """Remove a folder that nothing is left in, and so on upwards."""
        with contextlib.suppress(OSError):  # somebody has put something in, or has removed it
            while folder != self._root:
                folder.rmdir()
                folder = folder.parent


def _move_in(path: Path, place: Path) -> None:
    """Rename into the store, whatever others remove at this moment: empty folders, or what has just come."""
    while True:
        try:
            with contextlib.suppress(FileExistsError):  # it was there, and may be gone again
                place.parent.mkdir(parents=True, exist_ok=True)
            path.rename(place)
            break
        except FileNotFoundError:
            if not path.exists():
                raise
    with contextlib.suppress(FileNotFoundError):
        _flush_folder(place.parent)


def _flush_folder(path: Path) -> None:
    """fsync a file or folder, so that a rename survives the loss of power."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def open_blobs(url: str) -> Blobs:
    """The store that a setting names: a folder. Raises ValueError for a scheme that is not served."""
    if "://" in url:
        raise ValueError(f"blobs: {url!r} is not a folder")
    return FolderBlobs(Path(url))

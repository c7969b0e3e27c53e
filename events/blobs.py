"""What is too large for an event: adapter files, snapshots, datasets, payloads of large events.

A key is a path of tokens made by `blob_keys.py`. A blob appears whole (written aside, flushed, renamed) and never
changes. A folder that nothing is left in is gone too.
"""

import asyncio
import contextlib
import errno
import os
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import BinaryIO, Protocol

from events import names
from events.confined import CONFINED
from events.failure import NotFound
from events.settings import BusSettings


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

    def folder(self, key: str) -> AbstractAsyncContextManager[Path]:
        """A local folder with the files of a stored folder, to be read only; it stays for the block. Raises
        NotFound. Within a process, the path of a folder is the same each time."""
        ...

    async def files(self, key: str) -> list[str]:
        """Names of the files of a stored folder. Raises NotFound."""
        ...

    def file(self, key: str, name: str) -> AbstractAsyncContextManager[BinaryIO]:
        """One file of a stored folder, open for the block and read from where it lies, in threads: none of it is
        copied to this machine's disk. Raises NotFound, here or where it is read."""
        ...

    def gathered(self, key: str) -> AbstractAsyncContextManager[Path]:
        """A local folder with the blobs that were put, one by one, directly under `key`, each a file called by the
        last token of its key; to be read only, and it stays for the block. Raises NotFound when there are none."""
        ...

    async def delete(self, key: str) -> None:
        """Remove a blob or folder; nothing happens if it is not there."""
        ...

    async def under(self, key: str) -> list[str]:
        """Keys of the blobs and folders directly under `key`; none if there is nothing."""
        ...

    def staging(self, work: str = "") -> Path:
        """A fresh private folder for `put_folder`, where that is quick.

        work: a name of the work it is for, one token; what an earlier attempt at it left behind goes.
        """
        ...

    async def close(self) -> None:
        """Remove what is on this machine for this store alone."""
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

    @contextlib.asynccontextmanager
    async def folder(self, key: str) -> AsyncIterator[Path]:
        path = self._path(key)
        if not path.is_dir():
            raise NotFound(f"blob {key} does not exist")
        yield path

    async def files(self, key: str) -> list[str]:
        async with self.folder(key) as folder:
            return await asyncio.to_thread(lambda: sorted(file.name for file in folder.iterdir()))

    @contextlib.asynccontextmanager
    async def file(self, key: str, name: str) -> AsyncIterator[BinaryIO]:
        folder = self._path(key)
        path = folder / name
        if path.parent != folder or not path.is_file():
            raise NotFound(f"file {name!r} does not exist")
        with path.open("rb") as file:
            yield file

    def gathered(self, key: str) -> AbstractAsyncContextManager[Path]:
        return self.folder(key)

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

    async def close(self) -> None:
        """Nothing is."""

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
        try:
            _move_in(folder, path)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            shutil.rmtree(folder)  # somebody else was first
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


class TwoStores:
    """Two stores as one: what the confined service has a right to reach lies in a store of its own."""

    def __init__(self, main: Blobs, confined: Blobs) -> None:
        self._main, self._confined = main, confined

    def _of(self, key: str) -> Blobs:
        return self._confined if key.partition("/")[0] == CONFINED else self._main

    async def put(self, key: str, data: bytes) -> None:
        await self._of(key).put(key, data)

    async def get(self, key: str) -> bytes:
        return await self._of(key).get(key)

    async def put_folder(self, key: str, folder: Path) -> int:
        return await self._of(key).put_folder(key, folder)

    def folder(self, key: str) -> AbstractAsyncContextManager[Path]:
        return self._of(key).folder(key)

    async def files(self, key: str) -> list[str]:
        return await self._of(key).files(key)

    def file(self, key: str, name: str) -> AbstractAsyncContextManager[BinaryIO]:
        return self._of(key).file(key, name)

    def gathered(self, key: str) -> AbstractAsyncContextManager[Path]:
        return self._of(key).gathered(key)

    async def delete(self, key: str) -> None:
        await self._of(key).delete(key)

    async def under(self, key: str) -> list[str]:
        return await self._of(key).under(key)

    def staging(self, work: str = "") -> Path:
        return self._main.staging(work)

    async def close(self) -> None:
        await self._main.close()
        await self._confined.close()


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


def check_key(key: str) -> None:
    """Keys are our own: one that leads elsewhere is a mistake of ours."""
    assert not {"", ".", ".."}.intersection(key.split("/")), f"blob key {key!r} leaves the store"


def open_blobs(settings: BusSettings) -> Blobs:
    """The store that the settings name. Raises ValueError for one that is not served."""
    main = _open("blobs", settings.blobs, settings)
    if not settings.reward_blobs:
        return main
    return TwoStores(main, _open("reward_blobs", settings.reward_blobs, settings))


def _open(field: str, url: str, settings: BusSettings) -> Blobs:
    scheme, separator, _ = url.partition("://")
    if not separator:
        return FolderBlobs(Path(url))
    if scheme != "s3":
        raise ValueError(f"{field}: {url!r} is neither a folder nor s3://BUCKET[/PREFIX]")
    from events.blob_cache import BlobCache
    from events.s3_blobs import S3Blobs  # its library only where it is wanted

    root = settings.blob_cache or Path(tempfile.gettempdir(), f"rekindle-blobs-{os.getuid()}")
    return S3Blobs(url, BlobCache(root, settings.blob_cache_bytes))

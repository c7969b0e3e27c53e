"""Blobs in a bucket of S3 or of what speaks its protocol, so that services need no disk in common.

A blob is an object, put only where there is none. A folder is its manifest, an object that names the others: these
lie beside it below a part of their own, so that writers who die or race leave a folder that is not there, or one that
never changes. Deleting removes manifests first. Folders are read from copies on the local disk (`blob_cache.py`).

Credentials, endpoint and all else come from the usual variables: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION,
AWS_ENDPOINT_URL, AWS_ALLOW_HTTP, ... The bucket must be there, and the store must know conditional writes. What a
writer that died had sent of a large file is in no list: a rule of the bucket's own ends such uploads.
"""

import asyncio
import contextlib
import io
import os
import secrets
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from datetime import timedelta
from pathlib import Path
from typing import BinaryIO, TypeVar

import obstore
import structlog
from cachetools import TTLCache
from obstore.exceptions import AlreadyExistsError
from obstore.store import S3Store
from pydantic import BaseModel, ConfigDict

from events import tasks
from events.blob_cache import BlobCache
from events.blobs import check_key
from events.failure import NotFound, RekindleError
from events.range_file import RangeFile, write_range
from events.s3_answers import answering

log = structlog.get_logger(__name__)

MIB = 1024 * 1024
PART_BYTES = 8 * MIB
"""Larger files travel in parts of so many bytes, or of more where that would be too many parts."""
MOST_PARTS = 10_000
"""Of an upload, by the protocol."""
READ_BYTES = MIB
"""Asked for at least where a file is read in place."""
LARGE_BYTES = 256 * MIB
"""Copying so much takes a while: people shall see what is waited for."""
AT_ONCE = 4
"""Parts of a file under way at once, and files."""
PATIENCE = 15.0
"""Seconds for which the library tries again before it says that the store does not answer."""
KNOWN_SECONDS = 30.0
"""For so long a folder that others delete may still be found."""
MANIFEST = ".manifest"

T = TypeVar("T")


class Manifest(BaseModel):
    """What makes objects a folder. Example: Manifest(part="5f1c2a90", files={"adapter_config.json": 412})."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    part: str
    """The files lie below it; each writer has one of its own."""
    files: dict[str, int]
    """Size of each file in bytes."""


class UnfitStore(RekindleError):
    """The store does not do what all else rests on: it must be another one."""


def open_store(url: str, patience: float) -> S3Store:
    """What lies below `s3://bucket[/prefix]`; it is asked again for so many seconds. Raises ValueError."""
    return S3Store.from_url(
        url,
        retry_config={
            "max_retries": 100,
            "retry_timeout": timedelta(seconds=patience),
            "backoff": {"init_backoff": timedelta(seconds=0.1), "max_backoff": timedelta(seconds=2)},
        },
    )


class S3Blobs:
    """Blobs below `s3://bucket[/prefix]`."""

    def __init__(self, url: str, cache: BlobCache, *, patience: float = PATIENCE) -> None:
        """patience: seconds until BlobsUnavailable. Raises ValueError for settings that make no sense."""
        self._store = open_store(url, patience)
        self._cache = cache
        self._manifests: TTLCache[str, Manifest] = TTLCache(4096, KNOWN_SECONDS)
        self._proven = False
        """Whether the store was seen to keep what stands."""

    async def put(self, key: str, data: bytes) -> None:
        check_key(key)
        await self._create(key, data)

    async def get(self, key: str) -> bytes:
        check_key(key)
        with answering(key):
            found = await obstore.get_async(self._store, key)
            return bytes(await found.bytes_async())

    async def put_folder(self, key: str, folder: Path) -> int:
        check_key(key)
        files = await asyncio.to_thread(_sizes, folder)
        manifest = Manifest(part=secrets.token_hex(4), files=files)
        own = f"{key}/{manifest.part}"
        try:
            with answering(key, writing=True):
                await _each(files, lambda name: self._upload(f"{own}/{name}", folder / name, files[name]))
            won = await self._create(f"{key}/{MANIFEST}", manifest.model_dump_json().encode())
        finally:
            await asyncio.to_thread(shutil.rmtree, folder)
        self._manifests.pop(key, None)  # what was known is older than what was just seen to stand
        if not won and (await self._manifest(key)).part != manifest.part:  # or the answer to ours was lost
            await self._drop(own)
        return sum(files.values())

    @contextlib.asynccontextmanager
    async def folder(self, key: str) -> AsyncIterator[Path]:
        check_key(key)
        try:
            manifest = await self._manifest(key)
        except NotFound:
            self._cache.forget(key)
            raise
        source, size = f"{key}/{manifest.part}", sum(manifest.files.values())

        async def fetch(into: Path) -> None:
            if size >= LARGE_BYTES:
                log.info("blobs.copying", key=key, bytes=size)
            try:
                await _each(
                    manifest.files, lambda name: self._download(source, name, manifest.files[name], into)
                )
            except NotFound:
                self._manifests.pop(key, None)  # it was deleted since
                raise

        async with self._cache.hold(source, size, fetch) as folder:
            yield folder

    async def files(self, key: str) -> list[str]:
        check_key(key)
        return sorted((await self._manifest(key)).files)

    @contextlib.asynccontextmanager
    async def file(self, key: str, name: str) -> AsyncIterator[BinaryIO]:
        check_key(key)
        manifest = await self._manifest(key)
        if name not in manifest.files:
            raise NotFound(f"file {name!r} does not exist")
        path = f"{key}/{manifest.part}/{name}"

        def read(start: int, length: int) -> bytes:
            with answering(path):
                return bytes(obstore.get_range(self._store, path, start=start, length=length))

        try:
            yield io.BufferedReader(RangeFile(manifest.files[name], read), READ_BYTES)
        except NotFound:
            self._manifests.pop(key, None)  # it was deleted since
            raise

    @contextlib.asynccontextmanager
    async def gathered(self, key: str) -> AsyncIterator[Path]:
        check_key(key)
        with answering(key):
            found = await obstore.list_with_delimiter_async(self._store, key)
        sizes = {meta["path"].rpartition("/")[2]: meta["size"] for meta in found["objects"]}
        if not sizes:
            raise NotFound(f"blob {key} does not exist")
        folder = self._cache.staging()
        try:
            await _each(sizes, lambda name: self._download(key, name, sizes[name], folder))
            yield folder
        finally:
            await asyncio.to_thread(shutil.rmtree, folder)

    async def delete(self, key: str) -> None:
        check_key(key)
        self._manifests.pop(key, None)
        with answering(key):
            found = [key, *await self._all_below(key)]
            manifests = [path for path in found if path.endswith(f"/{MANIFEST}")]
            if manifests:
                await obstore.delete_async(self._store, manifests)
            with contextlib.suppress(FileNotFoundError):  # some stores say so
                await obstore.delete_async(self._store, [path for path in found if path not in manifests])
        self._cache.forget(key)

    async def under(self, key: str) -> list[str]:
        check_key(key)
        with answering(key):
            found = await obstore.list_with_delimiter_async(self._store, key)
        objects = [meta["path"] for meta in found["objects"]]
        return sorted(
            path for path in [*found["common_prefixes"], *objects] if not path.endswith(f"/{MANIFEST}")
        )

    def staging(self, work: str = "") -> Path:
        return self._cache.staging(work)

    async def close(self) -> None:
        await asyncio.to_thread(self._cache.close)

    async def _create(self, path: str, data: bytes) -> bool:
        """Whether there was no such object before. Returns when there is one."""
        with answering(path, writing=True):
            try:
                await obstore.put_async(self._store, path, data, mode="create")
            except AlreadyExistsError:
                # Said of one that stands (412), and while somebody else puts or deletes one (409).
                await obstore.head_async(self._store, path)
                self._proven = True
                return False
        if not self._proven:
            await self._prove(path, data)
        return True

    async def _prove(self, path: str, data: bytes) -> None:
        """Once in a process: what stands, stands. Raises UnfitStore for a store that puts over it and says nothing."""
        with answering(path, writing=True):
            try:
                await obstore.put_async(self._store, path, data, mode="create")
            except AlreadyExistsError:
                self._proven = True
                return
        raise UnfitStore("blobs: the store puts over what stands: it does not know conditional writes")

    async def _manifest(self, key: str) -> Manifest:
        """Raises NotFound."""
        if (known := self._manifests.get(key)) is not None:
            return known
        found = Manifest.model_validate_json(await self.get(f"{key}/{MANIFEST}"))
        self._manifests[key] = found
        return found

    async def _drop(self, part: str) -> None:
        """Remove what nobody will read. Never another writer's: a store may let two of them win for a moment."""
        with answering(part):
            await obstore.delete_async(self._store, await self._all_below(part))

    async def _all_below(self, key: str) -> list[str]:
        return [meta["path"] async for chunk in obstore.list(self._store, key) for meta in chunk]

    async def _upload(self, path: str, file: Path, size: int) -> None:
        part = max(PART_BYTES, -(-size // MOST_PARTS))
        await obstore.put_async(self._store, path, file, chunk_size=part, max_concurrency=AT_ONCE)

    async def _download(self, source: str, name: str, size: int, into: Path) -> None:
        """One file, in ranges: a part that fails is asked for again, and none takes longer than a request may."""
        handle = os.open(into / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)

        async def fetch(start: int) -> None:
            length = min(PART_BYTES, size - start)
            with answering(f"{source}/{name}"):
                data = await obstore.get_range_async(
                    self._store, f"{source}/{name}", start=start, length=length
                )
            assert len(data) == length, f"blob {source}/{name} has changed its size"
            await asyncio.to_thread(write_range, handle, memoryview(data), start)

        try:
            await _each(range(0, size, PART_BYTES), fetch)
        finally:
            os.close(handle)


def _sizes(folder: Path) -> dict[str, int]:
    return {file.name: file.stat().st_size for file in folder.iterdir()}


async def _each(items: Iterable[T], work: Callable[[T], Awaitable[None]]) -> None:
    """Some at once. Raises the first error."""
    room = asyncio.Semaphore(AT_ONCE)

    async def one(item: T) -> None:
        async with room:
            await work(item)

    await tasks.together(*map(one, items))

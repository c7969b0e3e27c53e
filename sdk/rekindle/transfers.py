"""Files from the server: whole or not at all.

A file is written beside its place under another name and moved there once it has the announced length, so that
a broken download never looks like a finished one.
"""

import asyncio
import os
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import IO

import httpx

from rekindle.errors import ConnectionFailed, RekindleError, TransferFailed, api_error
from rekindle.transport import CONNECT_SECONDS, Retries, Transport, detail_of, may_pass, retry_after
from rekindle.types import ExternalWeightsUrlsResponse, TinkerPath

OnProgress = Callable[[int, int | None], object]
"""Called with the bytes that are through and those there are in all, None if not known. Called in the
background thread: it must be quick."""
SILENCE_SECONDS = 60.0
PATIENCE = 60.0


async def download_export(
    transport: Transport, path: str, folder: Path, progress: OnProgress | None = None
) -> list[Path]:
    """The files of an exported checkpoint, `tinker://<run>/external_weights/<name>`, in `folder`."""
    export = TinkerPath.parse(path)
    found = await transport.ask(
        ExternalWeightsUrlsResponse,
        "GET",
        f"/training_runs/{export.run_id}/checkpoints/{export.checkpoint_id}/external_weights_urls",
    )
    targets = {folder / _inside(name): url for name, url in sorted(found.urls.items())}
    # The links carry their own permission: the API key stays out of these requests.
    async with httpx.AsyncClient(
        timeout=httpx.Timeout(SILENCE_SECONDS, connect=CONNECT_SECONDS), trust_env=transport.trust_env
    ) as http:
        done = 0
        for target, url in targets.items():
            before = done

            def count(through: int, _: int | None, before: int = before) -> None:
                if progress is not None:
                    progress(before + through, None)

            done += await fetch(http, url, target, progress=count)
    return list(targets)


async def fetch(
    http: httpx.AsyncClient,
    url: str,
    target: Path,
    *,
    params: Mapping[str, str] | None = None,
    progress: OnProgress | None = None,
) -> int:
    """GET `url` into the file `target`; returns its bytes. Tries again while that brings it further.

    Raises TransferFailed or ConnectionFailed when it stays broken, APIError when it is refused, OSError when
    it cannot be written.
    """
    if await asyncio.to_thread(target.is_dir):
        raise IsADirectoryError(f"{target} is a folder, expected the name of a file")
    retries, furthest = Retries(PATIENCE), 0

    def advance(through: int, total: int | None) -> None:
        nonlocal retries, furthest
        if through > furthest:  # a transfer may take hours: patience is for one that stands still
            retries, furthest = Retries(PATIENCE), through
        if progress is not None:
            progress(through, total)

    while True:
        try:
            return await _fetch_once(http, url, target, params, advance)
        except httpx.RequestError as error:
            failure: RekindleError = ConnectionFailed(f"{url}: {error or type(error).__name__}")
        except TransferFailed as error:
            failure = error
        await retries.pause(failure)


async def _fetch_once(
    http: httpx.AsyncClient,
    url: str,
    target: Path,
    params: Mapping[str, str] | None,
    progress: OnProgress,
) -> int:
    await asyncio.to_thread(target.parent.mkdir, parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    async with http.stream("GET", url, params=params) as answer:
        if not answer.is_success:
            await answer.aread()
            failure = api_error(answer.status_code, detail_of(answer), retry_after(answer))
            raise TransferFailed(f"{url}: {failure}") if may_pass(answer.status_code) else failure
        announced = answer.headers.get("content-length")
        total = int(announced) if announced and "content-encoding" not in answer.headers else None
        try:
            with await asyncio.to_thread(part.open, "wb") as file:
                size = await _write(answer, file, total, progress)
            if total is not None and size != total:
                raise TransferFailed(f"{url}: {size} bytes, {total} were announced")
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
    return size


async def _write(answer: httpx.Response, file: IO[bytes], total: int | None, progress: OnProgress) -> int:
    size = 0
    async for chunk in answer.aiter_bytes(1 << 20):
        await asyncio.to_thread(file.write, chunk)
        size += len(chunk)
        progress(size, total)
    return size


def _inside(name: str) -> PurePosixPath:
    """A name from outside, which must not lead out of a folder. Raises TransferFailed."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or not path.parts:
        raise TransferFailed(f"{name!r} is no name of a file in a folder")
    return path

"""`client.checkpoints`: saved weights, by their path `tinker://<run>/<kind>/<name>`."""

import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rekindle.errors import NotFound
from rekindle.futures import Future, Progress
from rekindle.runs import CheckpointList, pages, run_checkpoints
from rekindle.session import Session
from rekindle.training import create_run_from
from rekindle.transfers import OnProgress, download_export
from rekindle.types import (
    MIN_TTL_SECONDS,
    Checkpoint,
    CheckpointsListResponse,
    TinkerPath,
    WeightsInfoRequest,
    WeightsInfoResponse,
)

Files = list[Path]
EXPORT = "external_weights"


class Checkpoints:
    """List, describe, delete, publish, expire and download. All paths are checked at once (InvalidField)."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def list(self, limit: int | None = 100, offset: int = 0) -> Future[CheckpointList]:
        """Checkpoints of all runs, newest first; limit None for all of them."""
        return self._session.future(lambda _: pages(self._page, limit, offset))

    async def _page(self, limit: int, offset: int) -> Sequence[Checkpoint]:
        params = {"limit": limit, "offset": offset}
        found = await self._session.transport.ask(
            CheckpointsListResponse, "GET", "/checkpoints", params=params
        )
        return found.checkpoints

    def get(self, path: str) -> Future[Checkpoint]:
        """Size, times and metadata. Raises NotFound from the future."""
        wanted = TinkerPath.parse(path)

        async def find(_: Progress) -> Checkpoint:
            for checkpoint in await run_checkpoints(self._session, wanted.run_id):
                if checkpoint.checkpoint_id == wanted.checkpoint_id:
                    return checkpoint
            raise NotFound(404, f"{path} does not exist")

        return self._session.future(find)

    def info(self, path: str) -> Future[WeightsInfoResponse]:
        """What one must know to go on from it: base model, rank, trained layers."""
        body = WeightsInfoRequest(tinker_path=str(TinkerPath.parse(path)))
        return self._session.future(
            lambda _: self._session.transport.ask(WeightsInfoResponse, "POST", "/weights_info", body=body)
        )

    def delete(self, path: str) -> Future[None]:
        """Delete it for good. Raises NotFound from the future."""
        return self._change("DELETE", path)

    def publish(self, path: str) -> Future[None]:
        """Let others read it."""
        return self._change("POST", path, "/publish")

    def unpublish(self, path: str) -> Future[None]:
        """Stop letting others read it."""
        return self._change("DELETE", path, "/publish")

    def set_ttl(self, path: str, ttl_seconds: int | None) -> Future[None]:
        """Let it expire that many seconds from now (an hour to ten years); None: never."""
        return self._change("PUT", path, "/ttl", {"ttl_seconds": ttl_seconds})

    def download(self, path: str, folder: str | Path, progress: OnProgress | None = None) -> Future[Files]:
        """The adapter's files in PEFT's format, in `folder`; returns them.

        Of an export (`external_weights`) as they are; any other checkpoint is exported for it first.
        """
        wanted = TinkerPath.parse(path)
        number = None if wanted.kind == EXPORT else next(self._session.model_numbers)

        async def fetch(waiting: Progress) -> Files:
            if number is None:
                return await download_export(self._session.transport, path, Path(folder), progress)
            training = await create_run_from(self._session, number, waiting, path=path, optimizer=False)
            name = f"download-{uuid.uuid4().hex}"
            export = await training.save_weights_external(name, ttl_seconds=MIN_TTL_SECONDS)
            files = await download_export(self._session.transport, export.path, Path(folder), progress)
            await self.delete(export.path)
            return files

        return self._session.future(fetch)

    def _change(
        self, method: str, path: str, what: str = "", body: Mapping[str, Any] | None = None
    ) -> Future[None]:
        checkpoint = TinkerPath.parse(path)
        route = f"/training_runs/{checkpoint.run_id}/checkpoints/{checkpoint.checkpoint_id}{what}"

        async def change(_: Progress) -> None:
            await self._session.transport.send(method, route, body=body)

        return self._session.future(change)

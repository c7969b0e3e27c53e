"""`client.runs`: the training runs at the server, of this and of earlier sessions."""

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar
from urllib.parse import quote

from rekindle.futures import Future
from rekindle.session import Session
from rekindle.types import (
    MAX_PAGE,
    Checkpoint,
    CheckpointsListResponse,
    TrainingRun,
    TrainingRunsResponse,
)

T = TypeVar("T")
RunList = list[TrainingRun]
CheckpointList = list[Checkpoint]


class Runs:
    """Reads only; runs are made by `ServiceClient.create_lora_training_client`."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def list(self, limit: int | None = 20, offset: int = 0) -> Future[RunList]:
        """Runs, newest first; limit None for all of them."""
        return self._session.future(lambda _: pages(self._page, limit, offset))

    async def _page(self, limit: int, offset: int) -> Sequence[TrainingRun]:
        params = {"limit": limit, "offset": offset}
        found = await self._session.transport.ask(
            TrainingRunsResponse, "GET", "/training_runs", params=params
        )
        return found.training_runs

    def get(self, run_id: str) -> Future[TrainingRun]:
        """One run. Raises NotFound from the future."""
        return self._session.future(
            lambda _: self._session.transport.ask(TrainingRun, "GET", run_route(run_id))
        )

    def checkpoints(self, run_id: str) -> Future[CheckpointList]:
        """The checkpoints of one run, newest first. Raises NotFound from the future."""
        return self._session.future(lambda _: run_checkpoints(self._session, run_id))


async def pages(
    fetch: Callable[[int, int], Awaitable[Sequence[T]]], limit: int | None, offset: int
) -> list[T]:
    """At most `limit` things from `offset` on, all with None; `fetch(limit, offset)` gets a page of them."""
    found: list[T] = []
    while limit is None or len(found) < limit:
        wanted = MAX_PAGE if limit is None else min(MAX_PAGE, limit - len(found))
        page = await fetch(wanted, offset + len(found))
        found += page
        if len(page) < wanted:
            break
    return found


def run_route(run_id: str) -> str:
    """Where a run is; whatever stands in its id stays in its id."""
    return f"/training_runs/{quote(run_id, safe=':')}"


async def run_checkpoints(session: Session, run_id: str) -> CheckpointList:
    """The checkpoints of one run, newest first."""
    page = await session.transport.ask(CheckpointsListResponse, "GET", f"{run_route(run_id)}/checkpoints")
    return list(page.checkpoints)

"""`client.rl_runs`: RL runs that need no client, from the start to the plot.

The server drives a run by itself; whoever watches only reads, and may come and go. A spec is a `RlRunSpec`, a mapping
or the path of a YAML file; `rekindle.types.rl` says what may stand in it.
"""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote

from rekindle import background, exports
from rekindle.futures import Future, Progress
from rekindle.polling import LONGEST_POLL, SHORTEST_POLL
from rekindle.session import Session
from rekindle.specs import Spec, as_run_spec
from rekindle.types.rl import MetricsResponse, MetricsRow, RlPhase, RlRunInfo, RlRunsResponse

LONGEST_WAIT = 30.0
"""Seconds for which the server is asked to hold a watch's poll."""
PAGE_ROWS = 1000
OVER = ("completed", "failed", "cancelled")
"""Phases that nothing follows."""
RunList = list[RlRunInfo]
RowList = list[MetricsRow]
T = TypeVar("T")


class Update(NamedTuple):
    """What a look at a run has brought."""

    run: RlRunInfo
    rows: tuple[MetricsRow, ...]
    """Those that are new."""


class RlRuns:
    """RL runs of the server. Methods raise InvalidField at once, other errors from the future."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def create(self, spec: Spec, idempotency_key: str | None = None) -> Future[RlRunInfo]:
        """Start a run.

        idempotency_key: 1 to 128 characters; the same key starts one run, however often it is sent, also by another
        process. None makes one for this call, so that retries never start two.

        Raises:
            InvalidField: at once, for a mistake in the spec; with file and line where it is a file. OSError for a
                file that cannot be read.
            BadRequest: from the future, for what the server lacks: base model, dataset, column, grader.
        """
        body = as_run_spec(spec).model_dump_json().encode()  # with its nulls, which mean something here
        headers = {"X-Idempotency-Key": idempotency_key or uuid.uuid4().hex}
        return self._ask("POST", "/rl_runs", body=body, headers=headers)

    def get(self, run_id: str) -> Future[RlRunInfo]:
        """Where a run stands."""
        return self._ask("GET", run_route(run_id))

    def list(self) -> Future[RunList]:
        """All runs, newest first."""

        async def ask(_: Progress) -> RunList:
            return list((await self._session.transport.ask(RlRunsResponse, "GET", "/rl_runs")).runs)

        return self._session.future(ask)

    def pause(self, run_id: str) -> Future[RlRunInfo]:
        """Have a run stop soon and wait; it costs nothing until it is resumed."""
        return self._ask("POST", f"{run_route(run_id)}/pause")

    def resume(self, run_id: str) -> Future[RlRunInfo]:
        """Have a paused run go on where it was."""
        return self._ask("POST", f"{run_route(run_id)}/resume")

    def cancel(self, run_id: str) -> Future[RlRunInfo]:
        """End a run for good; its checkpoints stay."""
        return self._ask("POST", f"{run_route(run_id)}/cancel")

    def delete(self, run_id: str) -> Future[None]:
        """End a run and leave nothing of it, checkpoints included."""

        async def drop(_: Progress) -> None:
            await self._session.transport.send("DELETE", run_route(run_id))

        return self._session.future(drop)

    def metrics(self, run_id: str, after: int | None = None) -> Future[RowList]:
        """All rows of metrics so far, in order; with `after`, those behind the row of that number."""
        return self._session.future(lambda _: self._rows(run_id, -1 if after is None else after))

    def watch(self, run_id: str, after: int | None = None, every: float | None = None) -> "Watch":
        """What happens to a run until it ends: `for run, rows in service.rl_runs.watch(id):`, or `async for`.

        after: the last row that is known already; None: none. every: seconds after which it is given though nothing
        is new, for those who show other things beside it; None: only news.
        """

        def look(known: int, phase: RlPhase | None) -> Future[Update]:
            return self._session.future(lambda _: self._look(run_id, known, phase, every or LONGEST_WAIT))

        return Watch(look, after, idle=every is not None)

    # ---- Out ----

    def plot(self, run_id: str, path: str | Path) -> Future[Path]:
        """Draw reward, length, KL, entropy, staleness and seconds by stage over the steps so far.

        The file's ending decides about its format (png, svg, pdf). Needs the extra `plot`.
        """

        def draw(run: RlRunInfo, rows: RowList) -> Path:
            from rekindle.plots import draw_run

            return draw_run(run, rows, Path(path))

        return self._export(run_id, draw)

    def to_csv(self, run_id: str, path: str | Path) -> Future[Path]:
        """Write the metrics so far as CSV, a row a line, empty where nothing is known."""
        return self._export(run_id, lambda _, rows: exports.to_csv(rows, Path(path)))

    def to_wandb(self, run_id: str, project: str, **options: Any) -> Future[str]:
        """Log spec and metrics so far as a run of Weights & Biases; its address. Needs the extra `wandb`.

        options: of `wandb.init`, e.g. `entity` or `mode`.
        """
        return self._export(run_id, partial(exports.to_wandb, project=project, **options))

    def to_mlflow(self, run_id: str, experiment: str) -> Future[str]:
        """Log spec and metrics so far as a run of MLflow; its id. Needs the extra `mlflow`.

        Where MLflow keeps its runs is said by `MLFLOW_TRACKING_URI`, as ever.
        """
        return self._export(run_id, partial(exports.to_mlflow, experiment=experiment))

    # ---- How ----

    def _ask(self, method: str, path: str, **options: Any) -> Future[RlRunInfo]:
        return self._session.future(lambda _: self._session.transport.ask(RlRunInfo, method, path, **options))

    def _export(self, run_id: str, write: Callable[[RlRunInfo, RowList], T]) -> Future[T]:
        """What `write` makes of a run and its rows, in a thread of its own."""

        async def export(_: Progress) -> T:
            run, rows = await self._info(run_id), await self._rows(run_id, -1)
            return await background.in_thread(lambda: write(run, rows))

        return self._session.future(export)

    async def _info(self, run_id: str) -> RlRunInfo:
        return await self._session.transport.ask(RlRunInfo, "GET", run_route(run_id))

    async def _rows(self, run_id: str, after: int) -> RowList:
        found: RowList = []
        while True:
            page = await self._page(run_id, after)
            found += page.rows
            if len(page.rows) < PAGE_ROWS:
                return found
            after = page.next

    async def _page(self, run_id: str, after: int, **waiting: Any) -> MetricsResponse:
        params = {"after": after, "limit": PAGE_ROWS, **waiting}
        path = f"{run_route(run_id)}/metrics"
        return await self._session.transport.ask(
            MetricsResponse, "GET", path, params=params, held=LONGEST_POLL
        )

    async def _look(self, run_id: str, after: int, phase: RlPhase | None, wait: float) -> Update:
        """Where a run stands; of one that was looked at before, when something is new or after a while."""
        found: tuple[MetricsRow, ...] = ()
        if phase is not None:
            started = time.monotonic()
            found = (await self._page(run_id, after, wait=wait, phase=phase)).rows
            if not found:
                await asyncio.sleep(started + SHORTEST_POLL - time.monotonic())
        run = await self._info(run_id)  # before its rows: one that has ended has written them all
        return Update(run, (*found, *await self._rows(run_id, found[-1].row if found else after)))


class Watch:
    """Looks at a run again and again; gives the first look, each that brings something (or every one), and the last."""

    def __init__(
        self, look: Callable[[int, RlPhase | None], Future[Update]], after: int | None, *, idle: bool
    ) -> None:
        self._look = look
        self._after = -1 if after is None else after
        self._idle = idle

    def __iter__(self) -> Iterator[Update]:
        known, last = self._after, None
        while True:
            found = self._look(known, last.phase if last else None).result()
            if self._idle or _is_news(last, found):
                yield found
            known, last = _known(known, found), found.run
            if last.phase in OVER:
                return

    async def __aiter__(self) -> AsyncIterator[Update]:
        known, last = self._after, None
        while True:
            found = await self._look(known, last.phase if last else None)
            if self._idle or _is_news(last, found):
                yield found
            known, last = _known(known, found), found.run
            if last.phase in OVER:
                return


def _is_news(last: RlRunInfo | None, found: Update) -> bool:
    return last is None or bool(found.rows) or (last.phase, last.step) != (found.run.phase, found.run.step)


def _known(known: int, found: Update) -> int:
    return found.rows[-1].row if found.rows else known


def run_route(run_id: str) -> str:
    """Where a run is; whatever stands in its id stays in its id."""
    return f"/rl_runs/{quote(run_id, safe='')}"

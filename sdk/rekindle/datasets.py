"""`client.datasets`: rows under a name, in numbered versions that never change.

Upload files, streams, tables or plain rows; read them row by row; derive new versions by filtering, removing
duplicates and splitting; get them back as Parquet. `version` is a number or `latest`.
"""

import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel

from rekindle import background
from rekindle.futures import Future, Progress
from rekindle.inputs import build
from rekindle.rows import Row, Rows
from rekindle.runs import run_route
from rekindle.session import Session
from rekindle.sources import Source, as_file
from rekindle.transfers import OnProgress, fetch
from rekindle.types import InvalidField, UntypedFuture, parse_json
from rekindle.types.datasets import (
    Compression,
    Dataset,
    DatasetsList,
    DatasetVersion,
    DatasetVersions,
    Dedupe,
    ExportRolloutsRequest,
    Filter,
    Format,
    RowsPage,
    RowsQuery,
    Split,
    Where,
    check_name,
)
from rekindle.uploads import upload

Version = int | Literal["latest"]
Condition = Where | tuple[str, str, Any] | Mapping[str, Any]
"""A `Where`, or its column, op and value: `("level", ">=", 3)`."""
R = TypeVar("R", bound=BaseModel)
DatasetList = list[DatasetVersion]
RowList = list[Row]
PAGE_ROWS = 1000


class Datasets:
    """Datasets of the server. Methods raise InvalidField at once (`upload` later), other errors from the future."""

    def __init__(self, session: Session) -> None:
        self._session = session

    # ---- In and out ----

    def upload(
        self,
        source: Source,
        name: str,
        format: Format | None = None,
        *,
        compression: Compression | None = None,
        description: str | None = None,
        progress: OnProgress | None = None,
    ) -> Future[DatasetVersion]:
        """A new version of the dataset `name`, made of a file, a stream, a table or rows.

        source: a path (.jsonl, .csv, .parquet, also with .gz or .zst), an open binary stream, a Hugging Face
        `datasets.Dataset` or a data frame, or mappings; a stream or rows are read in a thread of their own and
        written to a temporary file first. format, compression: needed where no name tells. progress: called
        with (bytes there, bytes in all). An upload that broke off goes on where it was when the same is
        uploaded again.

        Raises:
            InvalidField: from the future, for a source or a format that is none; OSError for a file.
            RequestFailed: from the future; the server names the row that is wrong.
        """

        async def send(waiting: Progress) -> DatasetVersion:
            prepared = as_file(source, format, compression)
            file = await background.in_thread(prepared.__enter__)
            try:
                return await upload(self._session, file, name, description, waiting, progress)
            finally:
                prepared.__exit__(None, None, None)

        return self._session.future(send)

    def download(
        self,
        name: str,
        path: str | Path,
        version: Version = "latest",
        progress: OnProgress | None = None,
    ) -> Future[Path]:
        """The version as a Parquet file at `path`."""

        async def get(_: Progress) -> Path:
            route = f"{await self._version(name, version)}/file"
            with self._session.transport.pool() as http:
                await fetch(http, route, Path(path), progress=progress)
            return Path(path)

        return self._session.future(get)

    def export_rollouts(self, run_id: str, name: str) -> Future[DatasetVersion]:
        """The rollouts and scores of a training run so far, as the next version of the dataset `name`."""
        body = build(ExportRolloutsRequest, name=name)
        return self._command(DatasetVersion, f"{run_route(run_id)}/rollouts", body)

    # ---- Reading ----

    def list(self) -> Future[DatasetList]:
        """The newest version of every dataset."""

        async def ask(_: Progress) -> DatasetList:
            return list((await self._session.transport.ask(DatasetsList, "GET", "/datasets")).datasets)

        return self._session.future(ask)

    def get(self, name: str, version: Version = "latest") -> Future[DatasetVersion]:
        """Columns, row count, hash and origin of one version."""

        async def ask(_: Progress) -> DatasetVersion:
            if version == "latest":
                return (await self._dataset(name)).versions[0]
            return await self._session.transport.ask(DatasetVersion, "GET", _route(name, version))

        return self._session.future(ask)

    def versions(self, name: str) -> Future[DatasetList]:
        """All versions of a dataset, newest first."""

        async def ask(_: Progress) -> DatasetList:
            return list((await self._dataset(name)).versions)

        return self._session.future(ask)

    def rows(self, name: str, version: Version = "latest", limit: int | None = None) -> Rows:
        """The rows in order, fetched as they are read; at most `limit` of them."""
        route: Future[str] = self._session.future(lambda _: self._version(name, version))
        page = PAGE_ROWS if limit is None else max(1, min(PAGE_ROWS, limit))

        def fetch_page(cursor: str | None) -> Future[RowsPage]:
            async def ask(_: Progress) -> RowsPage:
                params = {"limit": page} | ({} if cursor is None else {"cursor": cursor})
                return await self._session.transport.ask(
                    RowsPage, "GET", f"{await route}/rows", params=params
                )

            return self._session.future(ask)

        return Rows(fetch_page, limit)

    def page(
        self, name: str, version: Version = "latest", limit: int = 100, cursor: str | None = None
    ) -> Future[RowsPage]:
        """At most `limit` rows from `cursor` on, which the page before has given; None: the first ones."""
        query = build(RowsQuery, limit=limit, cursor=cursor).model_dump(exclude_none=True)

        async def ask(_: Progress) -> RowsPage:
            route = f"{await self._version(name, version)}/rows"
            return await self._session.transport.ask(RowsPage, "GET", route, params=query)

        return self._session.future(ask)

    def preview(self, name: str, version: Version = "latest", rows: int = 10) -> Future[RowList]:
        """The first rows."""

        async def ask(_: Progress) -> RowList:
            return [row async for row in self.rows(name, version, rows)]

        return self._session.future(ask)

    # ---- New versions ----

    def filter(
        self, name: str, where: Iterable[Condition], version: Version = "latest"
    ) -> Future[DatasetVersion]:
        """A version of the rows that fulfil all conditions. E.g. `where=[("level", ">=", 3)]`."""
        body = build(Filter, op="filter", where=tuple(_condition(one) for one in where))
        return self._derive(DatasetVersion, name, version, body)

    def dedupe(
        self, name: str, columns: Sequence[str] | None = None, version: Version = "latest"
    ) -> Future[DatasetVersion]:
        """A version without rows that equal an earlier one, in the given columns or in all."""
        body = build(Dedupe, op="dedupe", columns=None if columns is None else tuple(columns))
        return self._derive(DatasetVersion, name, version, body)

    def split(
        self,
        name: str,
        parts: Mapping[str, float],
        seed: int = 0,
        by: Sequence[str] | None = None,
        version: Version = "latest",
    ) -> Future[dict[str, DatasetVersion]]:
        """A version for every part; a row's part depends on the seed and its content alone.

        parts: expected share by name, summing to 1. by: columns that decide, so that rows which agree in them
        stay together. The result has the version of every part under its name.
        """
        body = build(Split, op="split", parts=dict(parts), seed=seed, by=None if by is None else tuple(by))
        made = self._derive(DatasetVersions, name, version, body)

        async def by_name(_: Progress) -> dict[str, DatasetVersion]:
            return {found.split or str(found.version): found for found in (await made).versions}

        return self._session.future(by_name)

    def delete(self, name: str, version: Version | None = None) -> Future[None]:
        """Delete one version, or with None the whole dataset."""

        async def drop(_: Progress) -> None:
            route = _route(name) if version is None else await self._version(name, version)
            await self._session.transport.send("DELETE", route)

        return self._session.future(drop)

    # ---- How ----

    async def _dataset(self, name: str) -> Dataset:
        return await self._session.transport.ask(Dataset, "GET", _route(name))

    async def _version(self, name: str, version: Version) -> str:
        """The route of a version; `latest` is settled here, once for all that follows."""
        number = (await self._dataset(name)).versions[0].version if version == "latest" else version
        return _route(name, number)

    def _derive(self, kind: type[R], name: str, version: Version, body: BaseModel) -> Future[R]:
        async def work(waiting: Progress) -> R:
            return await self._run(kind, f"{await self._version(name, version)}/derive", body, waiting)

        return self._session.future(work)

    def _command(self, kind: type[R], route: str, body: BaseModel) -> Future[R]:
        return self._session.future(lambda waiting: self._run(kind, route, body, waiting))

    async def _run(self, kind: type[R], route: str, body: BaseModel, waiting: Progress) -> R:
        headers = {"X-Idempotency-Key": uuid.uuid4().hex}  # one for all attempts: nothing is made twice
        accepted = await self._session.transport.ask(UntypedFuture, "POST", route, body=body, headers=headers)
        return parse_json(kind, await self._session.poller.wait(accepted.request_id, waiting))


def _route(name: str, version: int | None = None) -> str:
    """Raises InvalidField for what is no name: as a part of a route it would mean something else."""
    try:
        check_name(name)
    except ValueError as error:
        raise InvalidField("name", str(error)) from error
    return f"/datasets/{name}" + ("" if version is None else f"/versions/{version}")


def _condition(condition: Condition) -> Where:
    if isinstance(condition, Where):
        return condition
    if isinstance(condition, Mapping):
        return build(Where, **condition)
    column, op, value = condition
    return build(Where, column=column, op=op, value=value)

"""`client.rewards`: completions scored on the server's CPUs, honestly.

A score is a number only where the grader had an opinion: a grader that failed (`error`, `timeout`) gives none,
and its item belongs in no batch. Where it failed on too many, there is an error instead of a result.
"""

import asyncio
import json
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pydantic import BaseModel

from rekindle.errors import TooManyExcluded
from rekindle.futures import Future, Progress
from rekindle.inputs import build
from rekindle.session import Session
from rekindle.types import InvalidField, UntypedFuture, parse_json
from rekindle.types.rewards import (
    MAX_ITEMS,
    FunctionInfo,
    FunctionsResponse,
    GraderInfo,
    GradersResponse,
    RegisterRequest,
    RegisterResponse,
    SandboxInfo,
    ScoreItem,
    ScoreRequest,
    ScoreResponse,
)

GraderSpec = BaseModel | Mapping[str, Any]
"""One of `rekindle.types.rewards`, or the same as a mapping: `{"type": "math", "params": {…}}`."""
PAGE_BYTES = 8_000_000
"""Of the items of one request: half of what the server takes as JSON."""
MAX_EXCLUDED = 0.25
"""Share of items on which a grader may fail before there is an error."""
Item = ScoreItem | Mapping[str, Any]
"""`{"prompt", "completion", "columns"}`, the columns being what the grader compares with."""


class Rewards:
    """Graders of the server."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def score(
        self,
        grader: GraderSpec,
        items: Iterable[Item],
        columns: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
        max_excluded: float | None = MAX_EXCLUDED,
    ) -> Future[ScoreResponse]:
        """One score an item, in their order, and how many are `excluded` because the grader failed.

        columns: shared by all items; an item's own win. idempotency_key: 1 to 120 characters; the same key
        scores once, however often it is sent, also by another process. None makes one for this call, so that
        retries never score twice. Any number of items; more than the server takes at once go in several parts.
        max_excluded: the share of the items, 0 to 1, that may be excluded; None: all of them.

        Raises:
            InvalidField: at once, for a grader or an item that is none.
            RequestFailed: from the future.
            TooManyExcluded: from the future; it holds the response.
        """
        if max_excluded is not None and not 0 <= max_excluded <= 1:
            raise InvalidField("max_excluded", f"{max_excluded}, expected a share from 0 to 1, or None")
        key = idempotency_key or uuid.uuid4().hex
        pages = list(_pages([_plain(item) for item in items]))
        parts = [
            build(
                ScoreRequest,
                grader=_plain(grader),
                items=page,
                columns=dict(columns or {}),
                idempotency_key=key if len(pages) == 1 else f"{key}.{number}",
            )
            for number, page in enumerate(pages)
        ]
        return self._session.future(lambda waiting: self._score(parts, max_excluded, waiting))

    def graders(self) -> Future[Sequence[GraderInfo]]:
        """The types of graders that the server has, with the schema of their parameters."""

        async def ask(_: Progress) -> Sequence[GraderInfo]:
            return (await self._session.transport.ask(GradersResponse, "GET", "/rewards/graders")).graders

        return self._session.future(ask)

    def register(
        self,
        function: str | Path,
        name: str | None = None,
        *,
        examples: Iterable[Item],
        pure: bool = False,
    ) -> Future[RegisterResponse]:
        """Register a reward function of your own for graders `{"type": "function", "params": {"name": …}}`.

        function: a file `*.py`, or its source. name: None takes the file's. examples: 1 to 64 items that it is tried
        on; one that it fails on refuses it. pure: equal items always have equal rewards, so each is scored once.
        To register the same again changes nothing.

        Raises:
            InvalidField: at once, for an example or a name that is none.
            OSError: at once, for a file that cannot be read.
            BadRequest, RequestFailed: from the future, saying what is wrong with the function.
        """
        source, found = _source(function)
        wanted = build(
            RegisterRequest,
            name=name if name is not None else found,
            source=source,
            examples=[_plain(item) for item in examples],
            pure=pure,
        )

        async def ask(waiting: Progress) -> RegisterResponse:
            path, body = "/rewards/functions", wanted.model_dump_json().encode()
            accepted = await self._session.transport.ask(UntypedFuture, "POST", path, body=body)
            return parse_json(RegisterResponse, await self._session.poller.wait(accepted.request_id, waiting))

        return self._session.future(ask)

    def functions(self, name: str | None = None) -> Future[Sequence[FunctionInfo]]:
        """Your functions, the newest version of each; of one `name`, all versions, the newest first."""
        path = "/rewards/functions" if name is None else f"/rewards/functions/{quote(name, safe='')}"

        async def ask(_: Progress) -> Sequence[FunctionInfo]:
            return (await self._session.transport.ask(FunctionsResponse, "GET", path)).functions

        return self._session.future(ask)

    def unregister(self, name: str) -> Future[None]:
        """Forget a function with all its versions. Raises NotFound, from the future, if there is none."""

        async def ask(_: Progress) -> None:
            await self._session.transport.send("DELETE", f"/rewards/functions/{quote(name, safe='')}")

        return self._session.future(ask)

    def sandbox(self) -> Future[SandboxInfo]:
        """What holds untrusted code on the server, as it has found by trying. Raises NotFound if no replica has
        started yet."""

        async def ask(_: Progress) -> SandboxInfo:
            return await self._session.transport.ask(SandboxInfo, "GET", "/rewards/sandbox")

        return self._session.future(ask)

    async def _score(
        self, parts: Sequence[ScoreRequest], max_excluded: float | None, waiting: Progress
    ) -> ScoreResponse:
        found = await asyncio.gather(*(self._score_part(part, waiting) for part in parts))
        response = ScoreResponse.of(tuple(score for part in found for score in part.scores))
        share = response.excluded / len(response.scores)  # 29 of 100 are 0.29, but 0.29 * 100 is less than 29
        if max_excluded is not None and share > max_excluded:
            raise TooManyExcluded(response, max_excluded)
        return response

    async def _score_part(self, request: ScoreRequest, waiting: Progress) -> ScoreResponse:
        body = request.model_dump_json().encode()  # with its nulls, which mean something here
        accepted = await self._session.transport.ask(UntypedFuture, "POST", "/rewards/score", body=body)
        return parse_json(ScoreResponse, await self._session.poller.wait(accepted.request_id, waiting))


def _pages(items: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Items in a row that fit one request, by number and size; one page at least."""
    page: list[dict[str, Any]] = []
    size = 0
    for item in items:
        more = len(json.dumps(item, default=str))
        if page and (len(page) == MAX_ITEMS or size + more > PAGE_BYTES):
            yield page
            page, size = [], 0
        page.append(item)
        size += more
    yield page


def _source(function: str | Path) -> tuple[str, str]:
    """(source, name) of a file, or of a text, which has no name."""
    if isinstance(function, str) and ("\n" in function or not function.endswith(".py")):
        return function, ""
    path = Path(function)
    return path.read_text(encoding="utf-8"), path.stem.lower()


def _plain(value: BaseModel | Mapping[str, Any]) -> dict[str, Any]:
    return value.model_dump() if isinstance(value, BaseModel) else dict(value)

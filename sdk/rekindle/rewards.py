"""`client.rewards`: completions scored on the server's CPUs, honestly.

A score is a number only where the grader had an opinion: a grader that failed (`error`, `timeout`) gives none,
and its item belongs in no batch.
"""

import asyncio
import json
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from rekindle.futures import Future, Progress
from rekindle.inputs import build
from rekindle.session import Session
from rekindle.types import UntypedFuture, parse_json
from rekindle.types.rewards import (
    MAX_ITEMS,
    GraderInfo,
    GradersResponse,
    ScoreItem,
    ScoreRequest,
    ScoreResponse,
)

GraderSpec = BaseModel | Mapping[str, Any]
"""One of `rekindle.types.rewards`, or the same as a mapping: `{"type": "math", "params": {…}}`."""
PAGE_BYTES = 8_000_000
"""Of the items of one request: half of what the server takes as JSON."""
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
    ) -> Future[ScoreResponse]:
        """One score an item, in their order, and how many are `excluded` because the grader failed.

        columns: shared by all items; an item's own win. idempotency_key: 1 to 120 characters; the same key
        scores once, however often it is sent, also by another process. None makes one for this call, so that
        retries never score twice. Any number of items; more than the server takes at once go in several parts.

        Raises:
            InvalidField: at once, for a grader or an item that is none.
            RequestFailed: from the future.
        """
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
        return self._session.future(lambda waiting: self._score(parts, waiting))

    def graders(self) -> Future[Sequence[GraderInfo]]:
        """The types of graders that the server has, with the schema of their parameters."""

        async def ask(_: Progress) -> Sequence[GraderInfo]:
            return (await self._session.transport.ask(GradersResponse, "GET", "/rewards/graders")).graders

        return self._session.future(ask)

    async def _score(self, parts: Sequence[ScoreRequest], waiting: Progress) -> ScoreResponse:
        found = await asyncio.gather(*(self._score_part(part, waiting) for part in parts))
        return ScoreResponse.of(tuple(score for part in found for score in part.scores))

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


def _plain(value: BaseModel | Mapping[str, Any]) -> dict[str, Any]:
    return value.model_dump() if isinstance(value, BaseModel) else dict(value)

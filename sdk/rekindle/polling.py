"""From a request id to its answer: long polls, for as long as it takes.

The server holds each poll and answers 408 when there is no result yet: it is asked again at once, and what it
says about its queue is kept in the future's progress. A pause of the server is logged once in a while, not once
a poll.
"""

import asyncio
import logging
import math
import time
from collections.abc import Mapping
from typing import Any

import httpx

from rekindle.errors import Category, RequestFailed
from rekindle.futures import Progress
from rekindle.transport import JSON, PROTOBUF, Transport
from rekindle.types import FutureRetrieveRequest

POLL_PATIENCE = 1800.0
"""Seconds for which a server that does not answer polls is asked again."""
LONGEST_POLL = 45.0
"""Seconds for which a server may hold a poll."""
SHORTEST_POLL = 0.25
"""Seconds from one poll to the next: a server that does not hold them must not be stormed."""
WARN_SECONDS = 60.0
"""From one warning about waiting work to the next."""

log = logging.getLogger("rekindle")


class Poller:
    """Waits for results at one server; many at once."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._warned = -math.inf

    async def wait(self, request_id: str, progress: Progress, accept: str = JSON) -> bytes:
        """The result's bytes, JSON or protobuf as `accept` says.

        Raises RequestFailed for a failed command, Gone for a result that is no longer kept, NotFound for a
        request that the server does not know.
        """
        body = FutureRetrieveRequest(request_id=request_id)
        progress.request_id, progress.state = request_id, "active"
        while True:
            started = time.monotonic()
            answer = await self._transport.send(
                "POST",
                "/retrieve_future",
                body=body,
                headers={"Accept": accept},
                also=(408,),
                patience=POLL_PATIENCE,
                held=LONGEST_POLL,
            )
            said = _read_json(answer)
            if not _is_pending(answer, said):
                return _result(answer, said, request_id)
            self._note(said, progress)
            await asyncio.sleep(started + SHORTEST_POLL - time.monotonic())

    def _note(self, said: Mapping[str, Any], progress: Progress) -> None:
        """Keep what the server says of its queue; an answer that says nothing of it is no news."""
        state, reason = said.get("queue_state"), said.get("queue_state_reason")
        if state not in ("paused_capacity", "paused_rate_limit"):
            progress.state, progress.reason = "active", None
            return
        progress.state, progress.reason = state, reason
        if (now := time.monotonic()) - self._warned >= WARN_SECONDS:  # reasons may hold numbers that change
            self._warned = now
            log.warning("the server has work waiting, %s: %s", state, reason or "no reason given")


def _read_json(answer: httpx.Response) -> dict[str, Any]:
    """The JSON object of an answer, empty for anything else: results in protobuf, pages of a proxy."""
    if answer.headers.get("content-type", "").startswith(PROTOBUF):
        return {}
    try:
        said = answer.json()
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


def _is_pending(answer: httpx.Response, said: Mapping[str, Any]) -> bool:
    return answer.status_code == 408 or said.get("type") == "try_again"


def _result(answer: httpx.Response, said: Mapping[str, Any], request_id: str) -> bytes:
    """Raises RequestFailed: failures are JSON with a top-level `error`, whatever was accepted."""
    if "error" in said:
        category = said.get("category")
        known: Category = category if category in ("server", "user") else "unknown"
        raise RequestFailed(str(said["error"]), known, request_id)
    return answer.content

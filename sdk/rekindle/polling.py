"""From a request id to its answer: long polls, for as long as it takes.

The server holds each poll and answers 408 when there is no result yet: it is asked again at once, and what it
says about its queue is kept in the future's progress. A pause of the server is logged once, not once a poll.
"""

import asyncio
import logging
import time

import httpx

from rekindle.errors import RequestFailed
from rekindle.futures import Progress
from rekindle.transport import JSON, PROTOBUF, Transport
from rekindle.types import FutureRetrieveRequest, PendingResponse, RequestFailedResponse, parse_json

POLL_PATIENCE = 1800.0
"""Seconds for which a server that does not answer polls is asked again."""
SHORTEST_POLL = 0.25
"""Seconds from one poll to the next: a server that does not hold them must not be stormed."""

log = logging.getLogger("rekindle")


class Poller:
    """Waits for results at one server; many at once."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._said: set[str] = set()

    async def wait(self, request_id: str, progress: Progress, accept: str = JSON) -> bytes:
        """The result's bytes, JSON or protobuf as `accept` says.

        Raises RequestFailed for a failed command, Gone for a result that is no longer kept, NotFound for a
        request that the server does not know.
        """
        body = FutureRetrieveRequest(request_id=request_id)
        progress.request_id = request_id
        while True:
            started = time.monotonic()
            answer = await self._transport.send(
                "POST",
                "/retrieve_future",
                body=body,
                headers={"Accept": accept},
                also=(408,),
                patience=POLL_PATIENCE,
            )
            pending = _pending(answer)
            if pending is None:
                return _result(answer, request_id)
            self._note(pending, progress)
            await asyncio.sleep(started + SHORTEST_POLL - time.monotonic())

    def _note(self, pending: PendingResponse, progress: Progress) -> None:
        progress.state, progress.reason = pending.queue_state, pending.queue_state_reason
        if pending.queue_state == "active":
            return
        said = f"{pending.queue_state}: {pending.queue_state_reason or 'no reason given'}"
        if said not in self._said:
            self._said.add(said)
            log.warning("the server has work waiting, %s", said)


def _pending(answer: httpx.Response) -> PendingResponse | None:
    """What a poll says that brings no result; None for one that does."""
    if answer.headers.get("content-type", "").startswith(PROTOBUF):
        return None
    if answer.status_code == 408 or b'"try_again"' in answer.content[:256]:
        return parse_json(PendingResponse, answer.content)
    return None


def _result(answer: httpx.Response, request_id: str) -> bytes:
    """Raises RequestFailed: failures are JSON with a top-level `error`, whatever was accepted."""
    if not answer.headers.get("content-type", "").startswith(PROTOBUF):
        said = answer.json()
        if isinstance(said, dict) and "error" in said:
            failed = RequestFailedResponse.model_validate({"category": "unknown", **said})
            raise RequestFailed(failed.error, failed.category, request_id)
    return answer.content

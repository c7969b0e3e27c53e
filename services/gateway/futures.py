"""Long polls for results. A poll wakes no GPU and makes no consumer; a lost answer can be asked for again."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator

from cloudevents.core.v1.event import CloudEvent
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from events import envelope, names, tasks
from events.edge import AdmittedDep, EdgeDep, TenantDep, failed, read
from events.failure import Failure
from events.quotas import QuotaExceeded
from rekindle.types import InvalidField
from rekindle.types.requests import FutureRetrieveRequest, PendingResponse, RequestFailedResponse

router = APIRouter(tags=["futures"])
MAX_LIVE = 100
"""Streams of facts of one tenant at a gateway: each keeps what is not taken from it."""
PAUSE_SECONDS = 5.0
"""Without a fact, after which a stream says that it is there, and sees whether it shall be."""


@router.post("/retrieve_future")
async def retrieve_future(request: Request, edge: EdgeDep, tenant: TenantDep) -> Response:
    """The result, its failure, or 408 after a while: ask again."""
    wanted = await read(request, FutureRetrieveRequest)
    try:
        found = await edge.futures.wait(tenant, wanted.request_id, edge.settings.poll_seconds)
    except ValueError as error:
        if isinstance(error, InvalidField):
            raise
        return failed(404, str(error))
    if found is None:
        return await _pending(edge, tenant, wanted.request_id)
    if isinstance(found, Failure):
        return JSONResponse(RequestFailedResponse(error=found.message, category=found.category).model_dump())
    return Response(found.data, media_type=found.content_type)


async def _pending(edge: EdgeDep, tenant: str, request_id: str) -> JSONResponse:
    """Why there is no result yet."""
    reason = await edge.futures.why_waiting(tenant, request_id, edge.settings.gap_seconds)
    state = PendingResponse(queue_state="paused_capacity" if reason else "active", queue_state_reason=reason)
    return JSONResponse(state.model_dump(exclude_none=True), status_code=408)


@router.get("/events")
async def live_facts(edge: EdgeDep, tenant: TenantDep, admitted: AdmittedDep) -> Response:
    """Live facts of the tenant as server-sent events: one structured CloudEvent a message, and lines in between that
    say nothing. It ends when the process does, and when the key is taken back."""
    if edge.live[tenant] >= MAX_LIVE:
        raise QuotaExceeded("events", MAX_LIVE, edge.live[tenant], 1)

    async def stream() -> AsyncIterator[bytes]:
        edge.live[tenant] += 1
        try:
            yield b": facts follow\n\n"
            facts = _with_pauses(edge.bus.follow(names.fact_filter(tenant)))
            async with contextlib.aclosing(facts):
                async for event in facts:
                    if edge.futures.released or not admitted():
                        return
                    yield b":\n\n" if event is None else b"data: " + envelope.to_json(event) + b"\n\n"
        finally:
            edge.live[tenant] -= 1

    return StreamingResponse(stream(), media_type="text/event-stream")


async def _with_pauses(
    facts: AsyncGenerator[CloudEvent, None],
) -> AsyncGenerator[CloudEvent | None, None]:
    """What comes, and None whenever nothing has for a while."""
    coming = asyncio.ensure_future(anext(facts, None))
    try:
        while True:
            done, _ = await asyncio.wait({coming}, timeout=PAUSE_SECONDS)
            if done and (event := coming.result()) is None:
                return  # the connection was closed
            yield event if done else None
            coming = asyncio.ensure_future(anext(facts, None)) if done else coming
    finally:
        await tasks.end(coming)
        await facts.aclose()

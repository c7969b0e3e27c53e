"""Long polls for results. A poll wakes no GPU and makes no consumer; a lost answer can be asked for again."""

from collections.abc import AsyncIterator

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from events import envelope, names
from events.edge import EdgeDep, TenantDep, failed, read
from events.failure import Failure
from events.quotas import QuotaExceeded
from rekindle.types import InvalidField
from rekindle.types.requests import FutureRetrieveRequest, PendingResponse, RequestFailedResponse

router = APIRouter(tags=["futures"])
MAX_LIVE = 100
"""Streams of facts of one tenant at a gateway: each keeps what is not taken from it."""


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
async def live_facts(edge: EdgeDep, tenant: TenantDep) -> Response:
    """Live facts of the tenant as server-sent events: one structured CloudEvent a message."""
    if edge.live[tenant] >= MAX_LIVE:
        raise QuotaExceeded("events", MAX_LIVE, edge.live[tenant], 1)

    async def stream() -> AsyncIterator[bytes]:
        edge.live[tenant] += 1
        try:
            yield b": facts follow\n\n"
            async for event in edge.bus.follow(names.fact_filter(tenant)):
                yield b"data: " + envelope.to_json(event) + b"\n\n"
        finally:
            edge.live[tenant] -= 1

    return StreamingResponse(stream(), media_type="text/event-stream")

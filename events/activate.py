"""The HTTP side of an activation: answered 200 without work, at its deadline, and when the replica drains.

A replica that drains already answers 503. Who hangs up is noticed.
"""

from datetime import UTC, datetime, timedelta

from cloudevents.core.bindings.http import HTTPMessage, from_http_event
from cloudevents.core.exceptions import BaseCloudEventException
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from events import catalog
from events.activation import PATH, Activation
from events.edge import EdgeDep, failed, parse, read_body
from rekindle.types import InvalidField

BODY_LIMIT = 16 * 1024

router = APIRouter(tags=["activation"])


@router.post(PATH)
async def activate(request: Request, edge: EdgeDep) -> Response:
    """Take work while this request is open."""
    activity = edge.activity
    if activity.draining:
        return failed(503, "this replica ends", **{"Retry-After": "1"})
    left = (await _deadline(request) - datetime.now(UTC)) / timedelta(seconds=1)
    ending = await activity.hold(max(0.0, left), _gone(request))
    return JSONResponse({"ended": ending})


async def _deadline(request: Request) -> datetime:
    """Raises InvalidField for what is no activation."""
    body = await read_body(request, BODY_LIMIT)
    if not body.lstrip().startswith(b"{"):
        raise InvalidField("body", "expected a JSON object")
    try:
        event = from_http_event(HTTPMessage(dict(request.headers), body))
    except (ValueError, BaseCloudEventException) as error:
        raise InvalidField("body", f"not a CloudEvent: {error}") from error
    if event.get_type() != catalog.ACTIVATE.replace("<service>", request.app.state.service):
        raise InvalidField("type", f"{event.get_type()!r} is not an activation of this service")
    found = event.get_data()
    deadline = parse(Activation, found if isinstance(found, dict) else {}).deadline
    return deadline if deadline.tzinfo else deadline.replace(tzinfo=UTC)


async def _gone(request: Request) -> None:
    """Return when the client has hung up."""
    while (await request.receive())["type"] != "http.disconnect":
        pass

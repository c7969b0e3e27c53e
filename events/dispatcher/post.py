"""One activation: a request that stays open while a replica works; how it ended is all that is said."""

import asyncio
import uuid
from datetime import UTC, datetime, timedelta

import httpx
import structlog

from events.activation import PATH, activation_event, to_http
from events.platform import ServiceSpec

log = structlog.get_logger(__name__)

LATE_SECONDS = 20.0
"""How long after its deadline an activation is still waited for."""


def make_client(key: str) -> httpx.AsyncClient:
    """A client for requests that are answered minutes later; `key` is the services' API key, if they ask for one."""
    headers = {"X-API-Key": key} if key else {}
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=16)
    timeout = httpx.Timeout(None, connect=10.0)
    return httpx.AsyncClient(headers=headers, limits=limits, timeout=timeout, trust_env=False)


async def post(http: httpx.AsyncClient, spec: ServiceSpec) -> bool:
    """Hold one activation open; whether the service ended it as it should."""
    deadline = datetime.now(UTC) + timedelta(seconds=spec.seconds)
    message = to_http(activation_event(spec.name, spec.kind, uuid.uuid4().hex, deadline))
    try:
        async with asyncio.timeout(spec.seconds + LATE_SECONDS):
            answer = await http.post(f"{spec.url}{PATH}", content=message.body, headers=message.headers)
    except (httpx.HTTPError, TimeoutError) as error:
        log.info("activation.broke", service=spec.name, reason=repr(error))
        return False
    if answer.status_code >= 400:
        log.info("activation.refused", service=spec.name, status=answer.status_code, said=answer.text[:200])
    return answer.status_code < 400

"""What every HTTP edge shares: an HTTP request becomes an event in one line, an error becomes an answer.

An edge validates, appends and returns the future; it never computes. Bodies are read under a limit. A command
whose number can be read never gets a 4xx: its rejection is appended under the number, so that nothing behind it
waits, and the future fails with category `user`.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeVar

import anyio.to_thread
import structlog
from cachetools import LRUCache
from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from events.activity import Activity
from events.blobs import Blobs, open_blobs
from events.bus import Bus
from events.checkpoints import Checkpoints
from events.failure import BusUnavailable, Busy, NotFound, StreamFull
from events.futures import Futures, Gone
from events.quotas import RETRY_SECONDS, QuotaExceeded, Quotas
from events.record_store import Records
from events.runlog import RunLog
from events.settings import EdgeSettings
from rekindle.types import InvalidField
from rekindle.types.requests import first_mistake

log = structlog.get_logger(__name__)

PREFIX = "/api/v1"
THREAD_BYTES = 64 * 1024
HEALTH, LIFE = f"{PREFIX}/healthz", f"{PREFIX}/livez"
OPEN_PATHS = frozenset({HEALTH, LIFE, "/metrics"})
"""Whoever asks these keeps no replica: they are no load."""
MAX_DRAIN_BYTES = 1024 * 1024 * 1024
"""A body over the limit is read on and dropped up to this size, so that the client sees the answer."""


@dataclass(slots=True)
class Edge:
    """What a route needs, made once per process."""

    bus: Bus
    blobs: Blobs
    records: Records
    checkpoints: Checkpoints
    futures: Futures
    log: RunLog
    settings: EdgeSettings
    activity: Activity
    """Whether this replica shall take work."""
    quotas: Quotas
    highest: LRUCache[str, int] = field(default_factory=lambda: LRUCache(maxsize=1024))
    """The highest number seen of the commands of runs in use, by root subject."""
    live: Counter[str] = field(default_factory=Counter)
    """Streams of facts that are open, by tenant."""

    @classmethod
    async def open(cls, settings: EdgeSettings, name: str) -> "Edge":
        bus = await Bus.connect(
            settings.nats_url, name=name, replicas=settings.replicas, api=settings.jetstream_api
        )
        await bus.ensure_shared_streams()
        blobs = open_blobs(settings)
        records = Records(bus)
        await records.start()
        futures = Futures(bus, blobs, records)
        await futures.start()
        activity = Activity(always=not settings.activation, linger=settings.linger_seconds)
        return cls(
            bus,
            blobs,
            records,
            Checkpoints(bus, records),
            futures,
            RunLog(bus, blobs),
            settings,
            activity,
            Quotas(settings.quotas),
        )

    @property
    def ready(self) -> asyncio.Event:
        """Set once the service can work; until then its health says `starting`."""
        return self.activity.ready


def edge_of(request: Request) -> Edge:
    edge: Edge = request.app.state.edge
    return edge


def tenant_of(request: Request) -> str:
    tenant: str = request.scope["tenant"]
    return tenant


def admitted_of(request: Request) -> Callable[[], bool]:
    admitted: Callable[[], bool] = request.scope["admitted"]
    return admitted


EdgeDep = Annotated[Edge, Depends(edge_of)]
TenantDep = Annotated[str, Depends(tenant_of)]
AdmittedDep = Annotated[Callable[[], bool], Depends(admitted_of)]
"""Whether whoever asked may still come in: an answer that has no end ends with that."""


# Reading requests


class BodyTooLarge(ValueError):
    """The body is over the limit; `head` is its beginning."""

    def __init__(self, limit: int, head: bytes) -> None:
        super().__init__(f"body: larger than the limit of {limit} bytes")
        self.head = head


async def read_body(request: Request, limit: int | None = None) -> bytes:
    """The whole body, JSON unless it has a limit of its own.

    Raises BodyTooLarge once over the limit, after reading on for a while.
    """
    limit = limit or edge_of(request).settings.json_limit_bytes
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size <= limit:
            chunks.append(chunk)
        elif size > MAX_DRAIN_BYTES:
            break
    if size > limit:
        raise BodyTooLarge(limit, b"".join(chunks)[:1024])
    return b"".join(chunks)


M = TypeVar("M", bound=BaseModel)


async def read(request: Request, kind: type[M]) -> M:
    """The JSON body as a message. Raises InvalidField (400) or BodyTooLarge (413)."""
    return parse(kind, await read_json(request))


async def read_json(request: Request) -> dict[str, Any]:
    """The JSON object in the body; a large one is parsed in a thread, so that it does not hold up others."""
    body = await read_body(request)
    return await anyio.to_thread.run_sync(load_json, body) if len(body) > THREAD_BYTES else load_json(body)


def load_json(body: bytes) -> dict[str, Any]:
    """A JSON object of proper text. Raises InvalidField for anything else."""
    try:
        text = body.decode()
        value = json.loads(text)
        if "\\u" in text:  # half of a surrogate pair is no text: it can be neither stored nor sent back
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise InvalidField("body", f"not JSON: {error}") from error
    if not isinstance(value, dict):
        raise InvalidField("body", "expected a JSON object")
    return value


def parse(kind: type[M], value: dict[str, Any]) -> M:
    """Raises InvalidField for the first mistake."""
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise first_mistake(error) from error


def text_field(value: dict[str, Any], field: str) -> str:
    """A text that must be there for the command to have an owner at all. Raises InvalidField."""
    found = value.get(field)
    if not isinstance(found, str) or not found or len(found) > 256:
        raise InvalidField(field, "missing, or not a text of 1 to 256 characters")
    return found


def number_field(value: dict[str, Any], field: str, *, least: int) -> int:
    """A number that must be there for the command to have a place. Raises InvalidField."""
    found = value.get(field)
    if not isinstance(found, int) or isinstance(found, bool) or not least <= found < 2**63:
        raise InvalidField(field, f"missing, or not a whole number of at least {least}")
    return found


# Answering


def failed(status: int, detail: str, **headers: str) -> JSONResponse:
    return JSONResponse({"detail": detail}, status_code=status, headers=headers)


def add_error_answers(app: FastAPI) -> None:
    """Errors become answers here and nowhere else."""

    def answer(kind: type[Exception], status: int, **headers: str) -> None:
        async def handler(_: Request, error: Exception) -> Response:
            return failed(status, str(error), **headers)

        app.add_exception_handler(kind, handler)

    answer(InvalidField, 400)
    answer(BodyTooLarge, 413)
    answer(NotFound, 404)
    answer(Gone, 410)
    answer(Busy, 503, **{"Retry-After": "1"})
    answer(BusUnavailable, 503, **{"Retry-After": "1"})
    answer(StreamFull, 429, **{"Retry-After": "1"})
    answer(QuotaExceeded, 429, **{"Retry-After": str(RETRY_SECONDS)})
    answer(ClientDisconnect, 400)  # nobody hears it

    async def invalid(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError), "registered for this class"
        mistake = error.errors()[0]
        return failed(400, f"{'.'.join(map(str, mistake['loc'][1:]))}: {mistake['msg']}")

    app.add_exception_handler(RequestValidationError, invalid)

    async def no_route(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException), "registered for this class"
        said = f"{request.method} {request.url.path}: {error.detail}"
        return failed(error.status_code, said, **(error.headers or {}))

    app.add_exception_handler(HTTPException, no_route)

    async def broken(_: Request, error: Exception) -> Response:
        return failed(500, f"internal error ({type(error).__name__}); the server's log says more")

    app.add_exception_handler(Exception, broken)

"""A service's application: its routes, health, metrics, activation, and the work beside them."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable

import structlog
from fastapi import APIRouter, FastAPI
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from events import activate, metrics, scrape, tasks
from events.admission import Admission
from events.edge import HEALTH, LIFE, OPEN_PATHS, PREFIX, Edge, EdgeDep, add_error_answers
from events.failure import BusUnavailable
from events.notify import Notify
from events.observe import observed
from events.settings import EdgeSettings

log = structlog.get_logger(__name__)

Background = Callable[[Edge], Awaitable[None]]
"""Work that a service does beside its routes, for as long as it lives."""


def make_app(
    service: str, settings: EdgeSettings, routers: list[APIRouter], background: Background | None = None
) -> FastAPI:
    """The application of a service, or of a gateway (no background), which nobody activates."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with observed(service, settings), working(app):
            yield

    @contextlib.asynccontextmanager
    async def working(app: FastAPI) -> AsyncIterator[None]:
        app.state.edge = edge = await Edge.open(settings, service)
        beside = [asyncio.ensure_future(Notify(settings.notify_fd).follow(edge.activity))]
        if background is not None:
            beside.append(asyncio.ensure_future(background(edge)))
            beside[-1].add_done_callback(_end_with_it)
        else:
            edge.ready.set()
        yield
        await tasks.end(*beside, patience=10.0)
        await edge.bus.close()
        await edge.blobs.close()

    app = FastAPI(title=f"Rekindle {service}", lifespan=lifespan, docs_url="/docs", redoc_url=None)
    app.state.service = service
    for router in routers:
        app.include_router(router, prefix=PREFIX)
    if background is not None:
        app.include_router(activate.router)
    app.add_api_route(HEALTH, _healthz, methods=["GET"])
    app.add_api_route(LIFE, _livez, methods=["GET"])
    app.add_api_route(scrape.METRICS, _metrics, methods=["GET"])
    add_error_answers(app)
    app.add_middleware(Admission, settings=settings)
    app.add_middleware(Presence, state=app.state)
    return app


class Presence:
    """Counts requests, but for health and metrics: open ones are a reason to stay."""

    def __init__(self, app: ASGIApp, state: object) -> None:
        self._app = app
        self._state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS:
            return await self._app(scope, receive, send)

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                metrics.HTTP_ANSWERS.labels(message["status"]).inc()
            await send(message)

        edge: Edge = self._state.edge  # type: ignore[attr-defined]
        with edge.activity.presence.during():
            return await self._app(scope, receive, counted)


def _end_with_it(work: "asyncio.Future[None]") -> None:
    """A service whose work has failed must not look alive: end the process, the platform starts another."""
    if not work.cancelled() and work.exception() is not None:
        log.critical("service.failed", exc_info=work.exception())
        os.kill(os.getpid(), signal.SIGTERM)


async def _livez() -> JSONResponse:
    """The process answers. That NATS is away is no reason to start it anew."""
    return JSONResponse({"status": "ok"})


async def _healthz(edge: EdgeDep) -> JSONResponse:
    if not edge.bus.client.is_connected:
        raise BusUnavailable("NATS is not connected")
    ready = edge.ready.is_set()
    return JSONResponse({"status": "ok" if ready else "starting"}, status_code=200 if ready else 503)


async def _metrics() -> Response:
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

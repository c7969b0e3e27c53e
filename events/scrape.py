"""A port of its own for metrics, and for the question whether the process lives; nobody is asked for a key there.

A pod's metrics are read at the pod, whatever its services ask of their clients. What listens nowhere else answers here
when it is asked for its life.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

from prometheus_client import make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer

METRICS, LIFE = "/metrics", "/livez"
PATIENCE = 5.0
"""Seconds that the event loop may take to answer."""

Wsgi = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


@asynccontextmanager
async def scraped(host: str, port: int) -> AsyncIterator[None]:
    """Answer within the block, at port 0 nowhere. Raises OSError where the port is taken."""
    if port == 0:
        yield
        return
    app = _app(asyncio.get_running_loop())
    with make_server(host, port, app, ThreadingWSGIServer, _Quiet) as server:
        thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
        thread.start()
        try:
            yield
        finally:
            await asyncio.to_thread(server.shutdown)


def _app(loop: asyncio.AbstractEventLoop) -> Wsgi:
    metrics: Wsgi = make_wsgi_app()

    def answer(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        if environ["PATH_INFO"] == METRICS:
            return metrics(environ, start)
        known = environ["PATH_INFO"] == LIFE
        status = "404 Not Found" if not known else "200 OK" if _turns(loop) else "503 Service Unavailable"
        start(status, [("Content-Type", "text/plain")])
        return [status.encode()]

    return answer


def _turns(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether the event loop gets to what is asked of it: a thread alone would answer for a process that hangs."""
    turned = threading.Event()
    loop.call_soon_threadsafe(turned.set)
    return turned.wait(PATIENCE)


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """A line for every scrape is not wanted."""

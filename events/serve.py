"""Run an application as a process: on a port, or on a socket that the parent holds.

On SIGTERM, and when nothing has asked for it for `idle_seconds`, it takes no more work, finishes what it has in
hand and ends. Connections to a socket of the parent's wait there for the next process meanwhile.
"""

import asyncio
import socket
import sys
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from events import logs
from events.edge import Edge
from events.settings import EdgeSettings

FRESH_SECONDS = 1.0
"""How long a connection that was accepted last may take to send its request."""
MAX_HEAD_BYTES = 1024 * 1024
"""Of a request's address, headers, and the marks between the chunks of its body."""


class BoundedHttp(HttpToolsProtocol):
    """Hangs up on a request whose address and headers have no end: the parser keeps all of them, whoever asks."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head = 0
        """Bytes of the request so far that are none of its body's."""

    def data_received(self, data: bytes) -> None:
        self._head += len(data)
        super().data_received(data)
        if self._head > MAX_HEAD_BYTES:
            self.transport.abort()

    def on_body(self, body: bytes) -> None:
        self._head -= len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._head = 0
        super().on_message_complete()


class _Server(uvicorn.Server):
    """A server that drains before it ends."""

    def __init__(self, config: uvicorn.Config, settings: EdgeSettings) -> None:
        super().__init__(config)
        self._settings = settings

    @property
    def _edge(self) -> Edge:
        edge: Edge = self.config.app.state.edge  # type: ignore[union-attr]
        return edge

    async def main_loop(self) -> None:
        watch = asyncio.ensure_future(self._until_idle())
        try:
            await super().main_loop()
        finally:
            watch.cancel()

    async def _until_idle(self) -> None:
        if self._settings.idle_seconds > 0:
            await self._edge.ready.wait()
            await self._edge.activity.presence.lasts(self._settings.idle_seconds)
            self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self.config.fd is not None:  # whoever comes now is the next process's
            for server in self.servers:
                server.close()
            await self._until_heard()
        # Held polls are answered before open requests are waited for: they would be cut off with a 500.
        self._edge.futures.release()
        await self._edge.activity.drain(self._settings.grace_seconds)
        await super().shutdown(sockets)

    async def _until_heard(self) -> None:
        """Wait for the first request of connections that were just accepted: closed, they would count as refused."""
        deadline = asyncio.get_running_loop().time() + FRESH_SECONDS
        while any(connection.cycle is None for connection in self.server_state.connections):  # type: ignore[union-attr]
            if asyncio.get_running_loop().time() > deadline:
                return
            await asyncio.sleep(0.005)


def serve(app: FastAPI, settings: EdgeSettings, service: str) -> None:
    """Serve until SIGTERM, or until nobody needs it; open requests get time to end."""
    logs.configure(service, as_json=settings.log_json)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        fd=settings.socket_fd,
        loop="uvloop",
        http=BoundedHttp,
        access_log=False,
        log_level="warning",
        timeout_keep_alive=75,
        timeout_graceful_shutdown=settings.grace_seconds,
        backlog=4096,
    )
    server = _Server(config, settings)
    server.run()
    if not server.started:
        sys.exit(1)

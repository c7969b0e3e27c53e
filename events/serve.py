"""Run an application as a process: on a port, or on a socket that the parent holds."""

import socket
import sys

import uvicorn
from fastapi import FastAPI

from events import logs
from events.settings import EdgeSettings


class _Server(uvicorn.Server):
    """Answers held polls before it waits for open requests: otherwise they would be cut off with a 500."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.config.app.state.edge.futures.release()  # type: ignore[union-attr]
        await super().shutdown(sockets)


def serve(app: FastAPI, settings: EdgeSettings, service: str) -> None:
    """Serve until SIGTERM; open requests get time to end."""
    logs.configure(service, as_json=settings.log_json)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        fd=settings.socket_fd,
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="warning",
        timeout_keep_alive=75,
        timeout_graceful_shutdown=settings.grace_seconds,
        backlog=4096,
    )
    server = _Server(config)
    server.run()
    if not server.started:
        sys.exit(1)

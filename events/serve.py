"""Run an application as a process: on a port, or on a socket that the parent holds."""

import uvicorn
from fastapi import FastAPI

from events import logs
from events.settings import EdgeSettings


def serve(app: FastAPI, settings: EdgeSettings, service: str) -> None:
    """Serve until SIGTERM; open requests get time to end."""
    logs.configure(service, as_json=settings.log_json)
    uvicorn.run(
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

"""Run an application as a process: on a port, or on a socket that the parent holds."""

import os

import uvicorn
from fastapi import FastAPI

from events import logs
from events.settings import EdgeSettings

SOCKET_FD = "REKINDLE_SOCKET_FD"
"""Variable with the number of a listening socket that this process inherits."""


def serve(app: FastAPI, settings: EdgeSettings, service: str) -> None:
    """Serve until SIGTERM; open requests get time to end."""
    logs.configure(service, as_json=settings.log_json)
    inherited = os.environ.get(SOCKET_FD)
    uvicorn.run(
        app,
        host=settings.host,
        port=settings.port,
        fd=int(inherited) if inherited else None,
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="warning",
        timeout_keep_alive=75,
        timeout_graceful_shutdown=settings.grace_seconds,
        backlog=4096,
    )

"""A user's grader that takes its time: an HTTP service that waits, and takes no core meanwhile."""

import asyncio
import socket
import threading
import zlib
from types import TracebackType
from typing import Any, Self

import uvicorn
from fastapi import FastAPI

HOST = "127.0.0.1"


class SlowGrader:
    """`with SlowGrader() as grader:` a thread of this process answers what `grader.spec` asks."""

    def __init__(self) -> None:
        self.delay = 0.0
        """Seconds that the questions wait that come from now on."""
        self.waiting = 0
        """Questions that wait now."""
        app = FastAPI()
        app.post("/")(self._answer)
        config = uvicorn.Config(app, log_level="critical", lifespan="off")
        self._server = uvicorn.Server(config)
        self._socket = socket.create_server((HOST, 0))
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],), daemon=True)
        self.spec = {"type": "remote", "params": {"url": f"http://{HOST}:{self._socket.getsockname()[1]}/"}}

    async def _answer(self, asked: dict[str, Any]) -> dict[str, list[float]]:
        """A number from 0 to 1 for each completion, which no two completions are likely to share."""
        self.waiting += 1
        await asyncio.sleep(self.delay)
        self.waiting -= 1
        return {"rewards": [zlib.crc32(text.encode()) / 2**32 for text in asked["completions"]]}

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.should_exit = self._server.force_exit = True
        self._thread.join()
        self._socket.close()

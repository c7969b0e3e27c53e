"""A real HTTP server on this machine that answers as the test says, well or badly."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from events.tasks import end


@dataclass(frozen=True)
class Asked:
    """A request."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


Answer = bytes
Handler = Callable[[Asked], Awaitable[Answer]]


def answer(body: Any = b"", status: int = 200, **headers: str) -> Answer:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = {"content-length": str(len(data)), "content-type": "application/json"}
    head |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = "".join(f"{name}: {value}\r\n" for name, value in head.items())
    return f"HTTP/1.1 {status} said\r\n{lines}\r\n".encode() + data


@dataclass
class Server:
    """Answers by `handler`, or by the `answers` in turn, of which the last one stays."""

    url: str = ""
    port: int = 0
    asked: list[Asked] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    handler: Handler | None = None
    open: int = 0
    most: int = 0
    """Requests that were open at once."""
    connections: set["asyncio.Task[None]"] = field(default_factory=set)

    def says(self, *answers: Answer) -> None:
        self.answers = list(answers)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.connections.add(task)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while True:
                asked = await _read(reader)
                self.asked.append(asked)
                self.open += 1
                self.most = max(self.most, self.open)
                try:
                    said = await self._answer(asked)
                finally:
                    self.open -= 1
                writer.write(said)
                await writer.drain()
                if not said.startswith(b"HTTP/1.1 ") or b"content-length" not in said:
                    break
        writer.close()

    async def _answer(self, asked: Asked) -> Answer:
        if self.handler is not None:
            return await self.handler(asked)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


async def _read(reader: asyncio.StreamReader) -> Asked:
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines if line)}
    return Asked(first.split()[1], headers, await reader.readexactly(int(headers.get("content-length", 0))))


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    one = Server()
    listening = await asyncio.start_server(one.serve, "127.0.0.1", 0)
    one.port = listening.sockets[0].getsockname()[1]
    one.url = f"http://127.0.0.1:{one.port}"
    yield one
    listening.close()
    await end(*one.connections)

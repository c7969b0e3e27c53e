"""The way of a request to a pod of one revision: counted, held while none has room, timed, forwarded; ASGI.

While no replica is ready a request is held for a short patience, then answered 503 or 504 in turn. The time to the
first byte and that of the whole request end it with 504, or cut it off where an answer has begun. A pod that dies
with a request is a 502. Bodies of requests are read before they are forwarded.
"""

import asyncio
import itertools
from typing import Any

import httpx

from events import tasks
from tests.fake_knative.pod import Pod
from tests.fake_knative.revision import Revision

HOP = {b"connection", b"keep-alive", b"transfer-encoding", b"te", b"upgrade", b"content-length"}
"""Headers that are for one hop."""


class Cut(Exception):
    """The connection ends in the middle of an answer."""


class Answer:
    """What the client gets of one request."""

    def __init__(self, send: Any) -> None:
        self._send = send
        self.status: int | None = None
        self.body = b""

    async def begin(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self.status = status
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def write(self, body: bytes, more: bool) -> None:
        self.body = (self.body + body)[:200]
        await self._send({"type": "http.response.body", "body": body, "more_body": more})

    async def refuse(self, status: int, said: str) -> None:
        if self.status is not None:
            raise Cut(said)
        await self.begin(status, [(b"content-type", b"text/plain")])
        await self.write(said.encode(), more=False)


class Activator:
    """In front of one revision."""

    def __init__(self, revision: Revision, patience: float) -> None:
        self._revision = revision
        self._patience = patience
        self._impatient = itertools.cycle((503, 504))
        self._working: set[asyncio.Task[None]] = set()
        self._http = httpx.AsyncClient(
            trust_env=False,
            timeout=None,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
        )
        self.answers: list[tuple[str, int, bytes]] = []
        """Path, status (499: the client hung up) and head of the body of all requests that have ended."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http", scope["type"]
        body, answer, revision = await _read(receive), Answer(send), self._revision
        revision.open += 1
        revision.arrived += 1
        work = asyncio.create_task(self._forward(scope, body, answer))
        gone = asyncio.create_task(_gone(receive))
        self._working.add(work)
        try:
            await self._until(work, gone, answer)
        finally:
            self._working.discard(work)
            revision.open -= 1
            await tasks.end(work, gone)
            self.answers.append((scope["path"], answer.status or 499, answer.body))

    async def _until(self, work: "asyncio.Task[None]", gone: "asyncio.Task[None]", answer: Answer) -> None:
        """Wait for the answer, and for what comes before it."""
        spec = self._revision.spec
        whole, start = float(spec["timeoutSeconds"]), float(spec["responseStartTimeoutSeconds"])
        await asyncio.wait({work, gone}, timeout=min(start, whole), return_when=asyncio.FIRST_COMPLETED)
        if answer.status is not None:
            await asyncio.wait(
                {work, gone}, timeout=max(0.0, whole - start), return_when=asyncio.FIRST_COMPLETED
            )
        if gone.done():
            return
        if not work.done():
            await tasks.end(work)
            await answer.refuse(504, "activator request timeout")
        elif work.cancelled():
            await answer.refuse(502, "broken")
        else:
            work.result()

    async def _forward(self, scope: Any, body: bytes, answer: Answer) -> None:
        try:
            async with self._revision.slot(self._patience) as pod:
                await self._exchange(pod, scope, body, answer)
        except TimeoutError:
            await answer.refuse(next(self._impatient), "no replica is ready")
        except httpx.HTTPError as error:
            await answer.refuse(502, f"the pod did not answer: {error!r}")

    async def _exchange(self, pod: Pod, scope: Any, body: bytes, answer: Answer) -> None:
        query = f"?{scope['query_string'].decode()}" if scope["query_string"] else ""
        request = self._http.build_request(
            scope["method"],
            f"http://127.0.0.1:{pod.port}{scope['raw_path'].decode()}{query}",
            headers=[(name, value) for name, value in scope["headers"] if name not in HOP],
            content=body,
        )
        response = await self._http.send(request, stream=True)
        try:
            headers = [pair for pair in response.headers.raw if pair[0].lower() not in HOP]
            await answer.begin(response.status_code, headers)
            async for chunk in response.aiter_raw():
                await answer.write(chunk, more=True)
            await answer.write(b"", more=False)
        finally:
            await response.aclose()

    def break_one(self, choose: Any) -> bool:
        """Break one open request off in the middle; whether there was one."""
        if not self._working:
            return False
        choose(sorted(self._working, key=id)).cancel()
        return True

    async def close(self) -> None:
        await tasks.end(*self._working)
        await self._http.aclose()


async def refuse(send: Any, status: int, said: str) -> None:
    """Answer a request that goes nowhere."""
    await Answer(send).refuse(status, said)


async def _read(receive: Any) -> bytes:
    chunks = []
    while True:
        message = await receive()
        chunks.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(chunks)


async def _gone(receive: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass

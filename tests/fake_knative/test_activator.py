"""Requests on their way to a pod: held, timed, cut off, as Knative does it."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from tests.fake_knative.activator import Activator
from tests.fake_knative.pod import Pod
from tests.fake_knative.revision import Revision


async def never() -> Any:
    """A container that does not start."""
    await asyncio.Event().wait()


class StandIn:
    """A pod that is ready and belongs to the test."""

    def __init__(self, port: int | None) -> None:
        self.port, self.ready, self.requests, self.exit_code = port, True, 0, None


def revision(**limits: float) -> Revision:
    spec = {"timeoutSeconds": 60, "responseStartTimeoutSeconds": 60, "containerConcurrency": 1, **limits}
    annotations = {"autoscaling.knative.dev/target-utilization-percentage": "100"}
    one = {"metadata": {"name": "stand-in-00001", "annotations": annotations}, "spec": spec}
    return Revision(
        one, lambda _, changed: Pod("a pod", None, never, changed), drain=0.0, rng=random.Random(0)
    )


@asynccontextmanager
async def client(made: Revision, patience: float = 60.0) -> AsyncIterator[httpx.AsyncClient]:
    activator = Activator(made, patience)
    transport = httpx.ASGITransport(activator)
    async with httpx.AsyncClient(transport=transport, base_url="http://stand-in") as http:
        yield http
    await activator.close()


@asynccontextmanager
async def pod(answer: bytes) -> AsyncIterator[StandIn]:
    """It sends `answer` to whoever connects, and nothing more."""
    closing = asyncio.Event()

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        await closing.wait()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield StandIn(server.sockets[0].getsockname()[1])
    closing.set()
    server.close()


async def test_while_no_replica_is_ready_refusals_are_503_and_504() -> None:
    async with client(revision(), patience=0.01) as http:
        found = [(await http.get("/")).status_code for _ in range(4)]
    assert found == [503, 504, 503, 504]


@pytest.mark.parametrize("limit", ["timeoutSeconds", "responseStartTimeoutSeconds"])
async def test_a_request_without_answer_is_a_504_at_its_limit(limit: str) -> None:
    made = revision(**{limit: 0.1})
    async with pod(b"") as mute, client(made) as http:
        made.pods = [mute]  # type: ignore[list-item]
        answer = await http.get("/")
    assert (answer.status_code, answer.text) == (504, "activator request timeout")
    assert (made.open, mute.requests) == (0, 0)


async def test_an_answer_that_has_begun_is_cut_off() -> None:
    made = revision(timeoutSeconds=0.2, responseStartTimeoutSeconds=0.2)
    begun = b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf"
    async with pod(begun) as slow, client(made) as http:
        made.pods = [slow]  # type: ignore[list-item]
        with pytest.raises(Exception, match="activator request timeout"):
            await http.get("/")


async def test_a_pod_that_is_gone_is_a_502() -> None:
    made = revision()
    made.pods = [StandIn(1)]  # type: ignore[list-item]
    async with client(made) as http:
        assert (await http.get("/")).status_code == 502


async def test_three_held_requests_start_three_pods() -> None:
    made = revision()
    async with client(made) as http:
        held = [asyncio.create_task(http.get("/")) for _ in range(3)]
        while made.open < 3:  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0)
        made.scale(0.1)
        assert len(made.pods) == 3
        for one in held:
            one.cancel()
        await asyncio.wait(held)
    await made.end()

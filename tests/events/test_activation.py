"""The activate endpoint over HTTP: what it takes, when it answers, and that a broken connection is noticed."""

import asyncio
import socket
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
import uvicorn

from events import activation
from events.activity import Activity
from events.app import make_app
from events.edge import Edge
from events.platform import ServiceSpec
from events.settings import EdgeSettings
from events.tasks import end
from tests.events.nats_process import NatsProcess


class Replica(SimpleNamespace):
    """A service with nothing to do but what the test says."""

    activity: Activity
    url: str
    server: uvicorn.Server


@pytest.fixture
async def replica(nats: NatsProcess, tmp_path: Path) -> AsyncIterator[Replica]:
    settings = EdgeSettings(
        nats_url=nats.url, blobs=str(tmp_path), activation=True, linger_seconds=0.1, poll_seconds=1
    )
    found: asyncio.Future[Edge] = asyncio.get_running_loop().create_future()

    async def work(edge: Edge) -> None:
        edge.ready.set()
        found.set_result(edge)
        await asyncio.get_running_loop().create_future()

    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        server = uvicorn.Server(
            uvicorn.Config(make_app("checkpoint", settings, [], work), log_level="warning")
        )
        serving = asyncio.create_task(server.serve([listening]))
        edge = await asyncio.wait_for(found, 20)
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        yield Replica(activity=edge.activity, url=url, server=server)
        server.should_exit = True
        await serving


def message(seconds: float = 60.0, kind: str = "checkpoint") -> tuple[dict[str, str], bytes]:
    deadline = datetime.now(UTC) + timedelta(seconds=seconds)
    spec = ServiceSpec(name="checkpoint", kind=kind, url="http://127.0.0.1")
    found = activation.to_http(activation.activation_event(spec.name, spec.kind, "1", deadline))
    return found.headers, found.body


async def activate(replica: Replica, seconds: float = 60.0) -> httpx.Response:
    headers, body = message(seconds)
    async with httpx.AsyncClient(trust_env=False, timeout=30) as http:
        return await http.post(f"{replica.url}/activate", content=body, headers=headers)


async def until_active(replica: Replica, count: int = 1) -> None:
    async with asyncio.timeout(10):
        while replica.activity.activations != count:  # noqa: ASYNC110  # nobody tells
            await asyncio.sleep(0.01)


async def test_an_activation_without_work_is_answered_soon(replica: Replica) -> None:
    answer = await activate(replica)
    assert answer.status_code == 200 and answer.json() == {"ended": "idle"}
    assert not replica.activity.open


async def test_an_activation_stays_open_with_work_until_its_deadline(replica: Replica) -> None:
    with replica.activity.working():
        began = asyncio.get_running_loop().time()
        answer = await activate(replica, 0.5)
        assert answer.json() == {"ended": "deadline"}
        assert 0.3 < asyncio.get_running_loop().time() - began < 5


async def test_a_client_that_hangs_up_is_noticed_in_mid_work(replica: Replica) -> None:
    with replica.activity.working():
        asking = asyncio.create_task(activate(replica))
        await until_active(replica)
        await end(asking)
        await until_active(replica, 0)
        assert replica.activity.open, "it keeps what it has for a while"


async def test_a_replica_that_drains_finishes_and_answers_and_refuses_new_ones(replica: Replica) -> None:
    replica.activity.begin()
    asking = asyncio.create_task(activate(replica))
    await until_active(replica)
    draining = asyncio.create_task(replica.activity.drain(20))
    refused = await activate(replica)
    assert refused.status_code == 503 and refused.headers["retry-after"] == "1"
    assert not asking.done()
    replica.activity.end()
    assert (await asking).json() == {"ended": "draining"}
    await draining


@pytest.mark.parametrize(
    ("headers", "body", "field"),
    [
        ({}, b"", "body"),
        ({}, b"{}", "body"),
        (message()[0], b"[]", "body"),
        (message()[0], b"{}", "deadline"),
        (message()[0], b'{"deadline": "soon"}', "deadline"),
        (message(kind="train")[0], message()[1], "type"),
        ({"content-type": "application/cloudevents+json"}, b"{", "body"),
    ],
    ids=["nothing", "no event", "no object", "no deadline", "no time", "another service", "broken"],
)
async def test_what_is_no_activation_is_refused_with_the_reason(
    replica: Replica, headers: dict[str, str], body: bytes, field: str
) -> None:
    async with httpx.AsyncClient(trust_env=False) as http:
        answer = await http.post(f"{replica.url}/activate", content=body, headers=headers)
    assert answer.status_code == 400 and field in answer.json()["detail"]


async def test_requests_count_as_presence_but_not_questions_about_health(replica: Replica) -> None:
    async with httpx.AsyncClient(trust_env=False, base_url=replica.url) as http:
        quiet = asyncio.create_task(replica.activity.presence.lasts(0.3))
        for _ in range(8):
            assert (await http.get("/api/v1/nothing")).status_code == 404
            await asyncio.sleep(0.1)
        assert not quiet.done()
        async with asyncio.timeout(20):
            while not quiet.done():
                assert (await http.get("/api/v1/healthz")).status_code == 200
                await asyncio.sleep(0.05)

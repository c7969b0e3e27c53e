"""Repeated requests, at once, through another gateway, or long after, change nothing; waiting for results is cheap."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import httpx
import psutil
import pytest
from nats.js.api import StreamConfig

from events import names
from events.bus import Bus
from events.streams import FACTS
from rekindle.types import decode_forward_backward_output
from services.local import nats_server
from tests.gateway.wire import PROTOBUF, Run, Wire, connect, datum
from tests.stack import ROOT, Stack

TENANT = "local"
POLLS = 200
NEW_EACH_TIME = "/api/v1/create_session"
"""What has no name of the client's making."""


@pytest.fixture(scope="module")
def other_gateway(stack: Stack) -> Iterator[str]:
    """URL of a second gateway on the same NATS and blobs."""
    port = nats_server.free_port()
    settings = {
        "NATS_URL": nats_server.address(stack.data_dir).url,
        "REKINDLE_BLOBS": str(stack.data_dir / "blobs"),
        "REKINDLE_PORT": str(port),
    }
    with (stack.data_dir.parent / "other-gateway.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "services.gateway.app"],
            cwd=ROOT,
            env={**os.environ, **settings},
            stdout=log,
            stderr=log,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        _until_well(url, process)
        yield url
    finally:
        process.terminate()
        process.wait(60)


def _until_well(url: str, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 90
    while process.poll() is None and time.monotonic() < deadline:
        try:
            if httpx.get(f"{url}/api/v1/healthz", trust_env=False).json() == {"status": "ok"}:
                return
        except httpx.TransportError:
            time.sleep(0.05)
    raise AssertionError("the second gateway does not start")


class Twice(httpx.BaseTransport):
    """Sends every POST to one gateway, and again to another; both must answer the same."""

    def __init__(self, other: str) -> None:
        self._other = httpx.URL(other)
        self._transport = httpx.HTTPTransport()
        self.repeated = 0

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        first = self._transport.handle_request(request)
        first.read()
        if request.method != "POST" or request.url.path == NEW_EACH_TIME:
            return first
        url = request.url.copy_with(port=self._other.port)
        headers = {key: value for key, value in request.headers.items() if key != "host"}
        again = self._transport.handle_request(
            httpx.Request("POST", url, headers=headers, content=request.content)
        )
        again.read()
        if 408 in (first.status_code, again.status_code):  # one of them came before the result
            return first if first.status_code == 408 else again
        assert (again.status_code, again.content) == (first.status_code, first.content)
        self.repeated += 1
        return first

    def close(self) -> None:
        self._transport.close()


def lesson(wire: Wire, steps: int) -> tuple[Run, list[float]]:
    """A run that trains, saves, samples and scores; the loss of each step."""
    run, losses = wire.run(), []
    for step in range(steps):
        trained = run.post_batch(run.batch(run.number(), datum(5, 6, 7, 8 + step)))
        applied = wire.ok("/optim_step", run.step_body(run.number(), learning_rate=0.01))
        losses.append(_loss(wire.result(trained.json()["request_id"])))
        assert "error" not in wire.result(applied["request_id"]).json()
        sampler = _save_for_sampler(wire, run, step)
        assert _sampled(wire, sampler).headers["content-type"] == PROTOBUF
    saved = wire.ok("/save_weights", {"model_id": run.id, "seq_id": run.number(), "path": "end"})
    assert wire.result(saved["request_id"]).json()["path"].endswith("/weights/end")
    item = {"prompt": "6 * 7?", "completion": "42", "columns": {"answer": 42}}
    score = {"grader": {"type": "numeric"}, "items": [item], "idempotency_key": run.id}
    scored = wire.result(wire.ok("/rewards/score", score)["request_id"]).json()
    assert [one["value"] for one in scored["scores"]] == [1.0]
    return run, losses


def _loss(result: httpx.Response) -> float:
    return decode_forward_backward_output(result.content).metrics["loss:sum"]


def _save_for_sampler(wire: Wire, run: Run, seq: int) -> str:
    body = {"model_id": run.id, "seq_id": run.number(), "sampling_session_seq_id": seq}
    saved = wire.result(wire.ok("/save_weights_for_sampler", body)["request_id"]).json()
    return str(saved["sampling_session_id"])


def _sampled(wire: Wire, sampler: str) -> httpx.Response:
    return wire.result(wire.ok("/asample", _sample_body(sampler))["request_id"])


def _sample_body(sampler: str) -> dict[str, Any]:
    return {
        "sampling_session_id": sampler, "seq_id": 0, "num_samples": 2,
        "prompt": {"chunks": [{"type": "encoded_text", "tokens": [5, 6, 7]}]},
        "sampling_params": {"max_tokens": 4},
    }  # fmt: skip


async def _subjects(stack: Stack, run: Run, part: str) -> dict[str, int]:
    """Entries of a part of the run's log, by the subject's end."""
    bus = await Bus.connect(nats_server.address(stack.data_dir).url, name="auditor")
    root = names.run_root(stack.base_model, TENANT, run.id)
    info = await bus.js.stream_info(names.run_stream(stack.base_model), subjects_filter=f"{root}.{part}.*")
    await bus.close()
    return {subject.rpartition(".")[2]: count for subject, count in (info.state.subjects or {}).items()}


def test_every_post_twice_and_polls_of_two_gateways_change_nothing(
    stack: Stack, wire: Wire, other_gateway: str
) -> None:
    transport = Twice(other_gateway)
    base_url = f"{stack.url}/api/v1"
    with httpx.Client(base_url=base_url, transport=transport, timeout=60.0, trust_env=False) as http:
        run, losses = lesson(Wire(http, stack.base_model), steps=3)
    plain, plain_losses = lesson(wire, steps=3)
    assert transport.repeated > 20
    assert losses == pytest.approx(plain_losses, rel=1e-5)
    results = asyncio.run(_subjects(stack, run, "result"))
    assert results == asyncio.run(_subjects(stack, plain, "result"))
    assert set(results.values()) == {1}


def test_the_same_posts_again_when_all_that_remembered_them_is_gone_change_nothing(
    stack: Stack, wire: Wire, other_gateway: str
) -> None:
    """As after ten minutes: commands are purged, a fact's copy is not told from a new one, caches are another's."""
    run = wire.run()
    batch, step = run.batch(run.number(), datum()), run.step_body(run.number(), learning_rate=0.01)
    trained = run.post_batch(batch).json()["request_id"]
    applied = wire.ok("/optim_step", step)["request_id"]
    sampler = _save_for_sampler(wire, run, 0)
    save = {"model_id": run.id, "seq_id": run.number(), "path": "kept"}
    saved = wire.ok("/save_weights", save)["request_id"]
    sampled = wire.ok("/asample", _sample_body(sampler))["request_id"]
    first = {id: wire.result(id).content for id in (trained, applied, saved, sampled)}
    before = _loss(run.train())
    asyncio.run(_until_purged(stack, run))
    facts = asyncio.run(_forget_copies(stack))
    with connect(other_gateway, stack.base_model) as later:
        again = Run(later, run.session, run.id)
        assert again.post_batch(batch).json()["request_id"] == trained
        assert later.ok("/optim_step", step)["request_id"] == applied
        assert later.ok("/save_weights", save)["request_id"] == saved
        assert later.ok("/asample", _sample_body(sampler))["request_id"] == sampled
        assert {id: later.result(id).content for id in first} == first
    assert _loss(run.train()) == pytest.approx(before, rel=1e-5), "the weights are others"
    assert set(asyncio.run(_subjects(stack, run, "result")).values()) == {1}
    assert asyncio.run(_facts(stack)) == facts


async def _until_purged(stack: Stack, run: Run) -> None:
    """A named save is followed by a snapshot, and that by the purge of what it contains."""
    async with asyncio.timeout(60):
        while {"1", "2"} & (await _subjects(stack, run, "cmd")).keys():  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.05)


async def _forget_copies(stack: Stack) -> dict[str, int]:
    """Let the window end in which a second copy of a fact is known for one; the facts so far."""
    bus = await Bus.connect(nats_server.address(stack.data_dir).url, name="auditor")
    config: StreamConfig = (await bus.js.stream_info(FACTS)).config
    await bus.js.update_stream(config, duplicate_window=0.1)
    copy = {"Nats-Msg-Id": "copy"}
    await bus.js.publish("facts.nobody.copied", b"", headers=copy)
    async with asyncio.timeout(60):
        while (await bus.js.publish("facts.nobody.copied", b"", headers=copy)).duplicate:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    await bus.close()
    return await _facts(stack)


async def _facts(stack: Stack) -> dict[str, int]:
    """How many facts there are of each type but those of passes, which leave nothing in the weights."""
    bus = await Bus.connect(nats_server.address(stack.data_dir).url, name="auditor")
    info = await bus.js.stream_info(FACTS, subjects_filter=">")
    await bus.close()
    return {s: n for s, n in (info.state.subjects or {}).items() if not s.endswith("batch.trained")}


async def test_hundreds_of_polls_cost_no_consumer_and_are_all_answered(stack: Stack, wire: Wire) -> None:
    run = wire.run()
    run.goes_on()
    missing = run.number()
    future = run.post_batch(run.batch(run.number(), datum())).json()["request_id"]
    bus = await Bus.connect(nats_server.address(stack.data_dir).url, name="auditor")
    before = await _consumers(bus)
    async with httpx.AsyncClient(
        base_url=wire.http.base_url, timeout=60, trust_env=False, limits=httpx.Limits(max_connections=None)
    ) as http:

        async def result() -> bytes:
            answer = await http.post("/retrieve_future", json={"request_id": future})
            while answer.status_code == 408:
                answer = await http.post("/retrieve_future", json={"request_id": future})
            assert answer.headers["content-type"] == PROTOBUF, answer.text
            return answer.content

        polls = [asyncio.create_task(result()) for _ in range(POLLS)]
        async with asyncio.timeout(60):
            while _open_polls(stack) < POLLS:  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(0.1)
        assert not any(poll.done() for poll in polls)
        during = await _consumers(bus)
        assert (await http.get("/healthz")).json() == {"status": "ok"}
        await asyncio.to_thread(run.post_batch, run.batch(missing, datum()))
        assert len(set(await asyncio.gather(*polls))) == 1
    await bus.close()
    assert during == before


async def _consumers(bus: Bus) -> dict[str, int]:
    """Consumers of the streams in which results lie."""
    return {
        str(info.config.name): info.state.consumer_count
        for info in await bus.js.streams_info()
        if str(info.config.name).startswith(("RUNS_", "RESULTS"))
    }


def _open_polls(stack: Stack) -> int:
    """Connections that the gateway holds."""
    port = httpx.URL(stack.url).port
    found = psutil.Process(stack.row("gateway")["pid"]).net_connections("tcp")
    return sum(one.status == psutil.CONN_ESTABLISHED and one.laddr.port == port for one in found)

"""Spans reach a collector, joined by what events carry; without one there are none, and events carry the same."""

import asyncio
import random
import socket
import sys
from collections.abc import Iterator

import httpx
import pytest
from fastapi import APIRouter, FastAPI
from prometheus_client import REGISTRY
from starlette.types import ASGIApp

from events import catalog, envelope, names, trace
from events.admission import Admission
from events.blobs import FolderBlobs
from events.bus import Bus
from events.failure import UserError
from events.observe import traced
from events.queues import Answer, Queue
from events.settings import EdgeSettings
from events.tasks import end
from events.worker import QueueWorker
from tests.events.collector import Collector, Seen, collecting

CALLER = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
SERVER, CONSUMER = 2, 5
"""Kinds of spans in OTLP."""


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    with collecting() as found:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", found.url)
        yield found


def named(spans: list[Seen], name: str) -> Seen:
    (found,) = (span for span in spans if span.name == name)
    return found


def said() -> str:
    """The `traceparent` that an event carries now."""
    event = envelope.make_event(catalog.SAMPLE, id="a", tenant="local", service="test", subject="a", data=b"")
    found: str = event.get_extension("traceparent")
    return found


async def test_without_a_collector_nothing_is_recorded_and_events_carry_the_trace(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    monkeypatch.delitem(sys.modules, "events.otel", raising=False)
    async with traced("test"):
        trace.take_up(CALLER)
        with trace.span("work"):
            assert said() == CALLER
    assert "events.otel" not in sys.modules


async def test_what_is_said_within_a_span_goes_on_from_it(collector: Collector) -> None:
    random.seed(7)
    before = random.getstate()
    async with traced("test"):
        trace.take_up(CALLER)
        with trace.span("outer", run="a:train:0"):
            outer = said()
            with trace.span("inner"):
                inner = said()
            assert said() == outer
        assert said() == CALLER
        assert random.getstate() == before, "seeds of others give what they gave"
    first, second = named(collector.spans, "outer"), named(collector.spans, "inner")
    assert (first.trace, first.parent) == (CALLER[3:35], CALLER[36:52])
    assert (second.trace, second.parent) == (first.trace, first.id)
    assert outer[36:52] == first.id and inner[36:52] == second.id
    assert first.about == {"rekindle.run": "a:train:0"} and first.service == "test"


async def test_a_step_s_own_span_has_the_id_that_all_who_drive_it_give_it(collector: Collector) -> None:
    for driver in ("first", "second"):
        async with traced(driver):
            trace.take_up(trace.derived("run", 3))
            with trace.span(f"of {driver}"):
                pass
    async with traced("second"):
        trace.take_up(trace.derived("run", 3))
        with trace.span("step", itself=True):
            pass
    step = named(collector.spans, "step")
    assert step.parent == "" and trace.derived("run", 3)[3:52] == f"{step.trace}-{step.id}"
    for driver in ("first", "second"):
        below = named(collector.spans, f"of {driver}")
        assert (below.trace, below.parent) == (step.trace, step.id)
    assert trace.derived("run", 4)[3:35] != step.trace


async def test_a_collector_that_does_not_answer_keeps_no_process_from_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "600")
        monkeypatch.setattr("events.otel.END_SECONDS", 0.1)
        async with asyncio.timeout(60):
            async with traced("test"):
                trace.take_up(CALLER)
                with trace.span("work"):
                    pass
            connection, _ = await asyncio.to_thread(silent.accept)
        with connection:  # or its thread would go on trying
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")


def edge() -> ASGIApp:
    router = APIRouter()

    @router.post("/api/v1/things/{name}")
    async def thing(name: str) -> str:
        return said()

    @router.post("/api/v1/retrieve_future")
    async def poll() -> str:
        return said()

    app = FastAPI()
    app.include_router(router)
    settings = EdgeSettings(nats_url="nats://127.0.0.1:1", blobs="blobs")
    return Admission(app, settings)


async def test_a_request_is_a_part_of_its_caller_s_trace_or_begins_one(collector: Collector) -> None:
    transport = httpx.ASGITransport(edge())
    async with (
        traced("gateway"),
        httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http,
    ):
        own = (await http.post("/api/v1/things/a")).json()
        called = (await http.post("/api/v1/things/b", headers={"traceparent": CALLER})).json()
        await http.post("/api/v1/retrieve_future")
    first, second = collector.spans
    assert {first.name, second.name} == {"POST /api/v1/things/{name}"}
    assert {first.kind, second.kind} == {SERVER}
    assert first.parent == "" and own[3:52] == f"{first.trace}-{first.id}"
    assert (second.trace, second.parent) == (CALLER[3:35], CALLER[36:52])
    assert called[3:52] == f"{second.trace}-{second.id}"


def counted() -> tuple[float, float, float]:
    """Commands that went well, that failed by their sender's fault, and that were in hand."""
    outcomes = [
        REGISTRY.get_sample_value("rekindle_commands_total", {"type": "reward.score", "outcome": outcome})
        for outcome in ("ok", "user")
    ]
    in_hand = REGISTRY.get_sample_value("rekindle_command_in_hand_seconds_count", {"type": "reward.score"})
    return outcomes[0] or 0.0, outcomes[1] or 0.0, in_hand or 0.0


async def test_a_command_in_hand_is_counted_and_a_span_of_its_sender_s_trace(
    collector: Collector, bus: Bus, blobs: FolderBlobs, unique: str
) -> None:
    queue = Queue(
        stream=unique,
        consumer=unique,
        filter=f"{unique}.>",
        result_subject=lambda event: names.result_subject("test", "local", unique, event.get_id()),
        tenant=lambda _: "local",
    )

    async def handle(_: envelope.CloudEvent, data: bytes) -> Answer:
        if data == b"bad":
            raise UserError("bad")
        return Answer(b"{}")

    before = counted()
    await bus.js.add_stream(name=unique, subjects=[f"{unique}.>"])
    trace.take_up(CALLER)
    for number, data in enumerate((b"bad", b"good")):
        event = envelope.make_event(
            catalog.SCORE, id=str(number), tenant="local", service="test", subject=unique, data=data
        )
        await bus.append(f"{unique}.local.{number}", event)
    async with traced("reward"):
        working = asyncio.create_task(QueueWorker(bus, blobs, queue, handle, budget=1).run())
        async with asyncio.timeout(30):
            while counted() != (before[0] + 1, before[1] + 1, before[2] + 2):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await end(working)
    assert {(one.name, one.trace, one.parent, one.kind) for one in collector.spans} == {
        ("reward.score", CALLER[3:35], CALLER[36:52], CONSUMER)
    }
    assert {one.about["rekindle.command"]: one.failed for one in collector.spans} == {"0": True, "1": False}
    assert {one.said for one in collector.spans if one.failed} == {("UserError",)}, "and not what it said"

"""Metrics and life at a port of their own."""

import asyncio
import os
import signal
import threading
from pathlib import Path

import httpx
import pytest

from events import scrape
from events.dispatcher.__main__ import run
from events.dispatcher.settings import DispatcherSettings
from events.platform import ServiceSpec
from services.local.nats_server import free_port
from tests.events.nats_process import NatsProcess


async def ask(port: int, path: str) -> httpx.Response:
    async with httpx.AsyncClient(trust_env=False, timeout=30) as http:
        return await http.get(f"http://127.0.0.1:{port}{path}")


async def test_metrics_and_life_are_answered_within_the_block_and_nothing_else_is() -> None:
    port = free_port()
    async with scrape.scraped("127.0.0.1", port):
        assert "rekindle_commands_total" in (await ask(port, "/metrics")).text
        assert (await ask(port, "/livez")).status_code == 200
        assert (await ask(port, "/api/v1/healthz")).status_code == 404
    with pytest.raises(httpx.ConnectError):
        await ask(port, "/metrics")


async def test_a_process_whose_loop_hangs_does_not_live(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scrape, "PATIENCE", 0.1)
    port = free_port()
    found: list[int] = []
    async with scrape.scraped("127.0.0.1", port):
        url = f"http://127.0.0.1:{port}/livez"
        asking = threading.Thread(
            target=lambda: found.append(httpx.get(url, trust_env=False, timeout=30).status_code)
        )
        asking.start()
        asking.join()  # the loop does nothing else meanwhile
    assert found == [503]


async def test_a_taken_port_is_an_error() -> None:
    port = free_port()
    async with scrape.scraped("127.0.0.1", port):
        with pytest.raises(OSError, match="in use"):
            async with scrape.scraped("127.0.0.1", port):
                pass


async def test_the_dispatcher_says_what_waits(nats: NatsProcess, tmp_path: Path) -> None:
    port, state = free_port(), tmp_path / "state.json"
    state.write_text("[]")
    settings = DispatcherSettings(
        nats_url=nats.url,
        blobs=str(tmp_path / "blobs"),
        services=[ServiceSpec(name="scores", kind="reward", url="http://127.0.0.1:9")],
        state_file=state,
        metrics_port=port,
    )
    dispatching = asyncio.create_task(run(settings))
    async with asyncio.timeout(30):
        while True:
            try:
                said = (await ask(port, "/metrics")).text
            except httpx.ConnectError:
                await asyncio.sleep(0.01)
                continue
            if 'rekindle_queue_commands{service="scores"}' in said:
                break
    assert 'rekindle_activations_open{service="scores"} 0.0' in said
    assert (await ask(port, "/livez")).status_code == 200
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait_for(dispatching, 30)

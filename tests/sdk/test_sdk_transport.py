"""What is tried again and what is not, how long, and what a call carries."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

from rekindle import (
    BadRequest,
    ClientClosed,
    ConnectionFailed,
    InvalidField,
    NotFound,
    RateLimited,
    ServerUnavailable,
    ServiceClient,
    Unauthorized,
    transport,
)
from tests.sdk.fake_server import FakeServer, always

CAPABILITIES = "/get_server_capabilities"


@pytest.fixture(autouse=True)
def _models(fake: FakeServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    plain = fake.answer
    models = httpx.Response(200, json={"supported_models": [{"model_name": "base"}]})
    monkeypatch.setattr(
        fake,
        "answer",
        lambda method, path, body: models if path == CAPABILITIES else plain(method, path, body),
    )
    yield


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_what_may_pass_is_tried_again(fake: FakeServer, faked: ServiceClient, status: int) -> None:
    fake.trouble[CAPABILITIES] = always(status, times=2)
    assert faked.get_server_capabilities().result(10).supported_models[0].model_name == "base"
    assert len(fake.calls) == 3


@pytest.mark.parametrize(
    ("status", "error"), [(400, BadRequest), (401, Unauthorized), (404, NotFound), (501, ServerUnavailable)]
)
def test_what_will_not_pass_fails_at_once(
    fake: FakeServer, faked: ServiceClient, status: int, error: type[Exception]
) -> None:
    fake.trouble[CAPABILITIES] = always(status)
    with pytest.raises(error, match=f"trouble {status}"):
        faked.get_server_capabilities().result(10)
    assert len(fake.calls) == 1


def test_a_lost_answer_is_asked_for_again(fake: FakeServer, faked: ServiceClient) -> None:
    fake.lose[CAPABILITIES] = 2
    assert faked.get_server_capabilities().result(10).supported_models
    assert len(fake.calls) == 3


def test_the_server_says_how_long_to_wait(fake: FakeServer, faked: ServiceClient) -> None:
    fake.trouble[CAPABILITIES] = always(429, **{"retry-after": "0.6"})
    started = time.monotonic()
    faked.get_server_capabilities().result(10)
    assert time.monotonic() - started >= 0.6


def test_patience_ends_with_the_last_error(
    fake: FakeServer, faked: ServiceClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        transport.Transport.send,
        "__kwdefaults__",
        dict(transport.Transport.send.__kwdefaults__, patience=0.3),
    )
    fake.trouble[CAPABILITIES] = always(503, times=1000)
    with pytest.raises(ServerUnavailable):
        faked.get_server_capabilities().result(10)
    fake.trouble[CAPABILITIES] = always(429, times=1000, **{"retry-after": "30"})
    with pytest.raises(RateLimited) as limited:
        faked.get_server_capabilities().result(10)
    assert limited.value.retry_after == 30
    del fake.trouble[CAPABILITIES]
    fake.lose[CAPABILITIES] = 1000
    with pytest.raises(ConnectionFailed, match=r"http://fake\.test: the answer was lost"):
        faked.get_server_capabilities().result(10)


def test_an_answer_that_cannot_be_read_is_asked_for_again(fake: FakeServer, faked: ServiceClient) -> None:
    async def garbled() -> AsyncIterator[bytes]:
        yield b"no gzip"

    left = [httpx.Response(200, content=garbled(), headers={"content-encoding": "gzip"})]
    fake.trouble[CAPABILITIES] = lambda _: left.pop() if left else None
    assert faked.get_server_capabilities().result(10).supported_models
    assert len(fake.calls) == 2


def test_a_short_timeout_does_not_cut_off_polls_that_the_server_holds(fake: FakeServer) -> None:
    seconds = {}

    def note(request: httpx.Request) -> None:
        seconds[request.url.path] = request.extensions["timeout"]["read"]

    fake.trouble = {"/get_info": note, "/retrieve_future": note}
    with fake.service(timeout=2.0) as service:
        fake.training(service)
    assert seconds == {"/api/v1/get_info": 2.0, "/api/v1/retrieve_future": 45.0}


FORKED = """
import os, sys, rekindle
with rekindle.ServiceClient(sys.argv[1]) as service:
    service.get_server_capabilities().result(10)
    child = os.fork()
    service.get_server_capabilities().result(10)
    if child:
        assert os.waitpid(child, 0)[1] == 0
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="has no fork")
def test_a_forked_child_opens_connections_of_its_own() -> None:
    peers = set()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            peers.add(self.client_address)
            content = b'{"supported_models": []}'
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        try:
            url = f"http://127.0.0.1:{server.server_port}"
            subprocess.run([sys.executable, "-c", FORKED, url], check=True, timeout=60)
        finally:
            server.shutdown()
            serving.join()
    assert len(peers) == 2


def test_address_and_key_come_from_arguments_or_the_environment(
    fake: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("REKINDLE_BASE_URL", "TINKER_BASE_URL", "REKINDLE_API_KEY", "TINKER_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    assert ServiceClient().base_url == "http://127.0.0.1:8000"
    monkeypatch.setenv("TINKER_BASE_URL", "http://tinker.test/prefix/")
    assert ServiceClient().base_url == "http://tinker.test/prefix"
    monkeypatch.setenv("REKINDLE_BASE_URL", "http://rekindle.test")
    assert ServiceClient().base_url == "http://rekindle.test"
    monkeypatch.setenv("TINKER_API_KEY", "tml-tinker")
    with fake.service() as service:
        service.get_server_capabilities().result(10)
    with fake.service(api_key="tml-own") as service:
        service.get_server_capabilities().result(10)
    monkeypatch.delenv("TINKER_API_KEY")
    with fake.service() as service:
        service.get_server_capabilities().result(10)
    assert [sent.get("x-api-key") for sent in fake.headers] == ["tml-tinker", "tml-own", None]


BAD_URLS = [
    *("127.0.0.1:8000", "ftp://host", "http://", "http://[::1", "http://host:80x", "http://host:99999"),
    *("http://host/?a=b", "http://host#there"),
]


@pytest.mark.parametrize("url", BAD_URLS)
def test_an_address_that_is_none_is_refused_at_once(url: str) -> None:
    with pytest.raises(InvalidField, match="base_url"):
        ServiceClient(url)


def test_a_key_that_cannot_be_a_header_is_refused_at_once() -> None:
    with pytest.raises(InvalidField, match="api_key"):
        ServiceClient("http://host", "tml-x\n")


def test_a_closed_client_refuses_calls_and_can_be_closed_again(fake: FakeServer) -> None:
    service = fake.service()
    service.close().result(5)
    service.close().result(5)
    with pytest.raises(ClientClosed):
        service.get_server_capabilities()

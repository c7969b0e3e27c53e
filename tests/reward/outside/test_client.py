"""One question to somebody outside, who answers badly in every way."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from pydantic import SecretStr

from events.outside import Guard
from services.reward.outside.client import Client, Failed
from services.reward.outside.keys import Keys
from tests.reward.outside.http_server import Asked, Server, answer, server

__all__ = ["server"]

KEY = "sk-secret-1234"


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    keys = Keys({"MINE": SecretStr(KEY)}, {"MINE": ["127.0.0.1"]})
    async with Client(Guard(["127.0.0.0/8"]), keys, calls=3, max_bytes=1000) as client:
        yield client


async def ask(
    client: Client, url: str, *, key: str | None = None, seconds: float = 5.0, tenant: str = "t"
) -> Any:
    return await client.post(
        tenant, url, b"{}", {"Content-Type": "application/json"}, key=key, seconds=seconds
    )


async def failure(client: Client, url: str, **options: Any) -> Failed:
    with pytest.raises(Failed) as failed:
        await ask(client, url, **options)
    assert KEY not in str(failed.value)
    return failed.value


async def test_an_answer_comes_with_its_headers_and_the_key_goes_with_the_question(
    client: Client, server: Server
):
    server.says(answer({"a": 1}, x_test="Yes", set_cookie="a=b"))
    for _ in range(2):
        reply = await ask(client, f"{server.url}/path?q=1", key="MINE")
    assert (reply.body, reply.headers["x-test"]) == (b'{"a": 1}', "Yes")
    for asked in server.asked:
        assert (asked.path, asked.body) == ("/path?q=1", b"{}")
        assert asked.headers["authorization"] == f"Bearer {KEY}"
        assert asked.headers["host"] == f"127.0.0.1:{server.port}"
        assert asked.headers["accept-encoding"] == "identity" and "cookie" not in asked.headers


async def test_no_proxy_of_the_environment_is_used(
    client: Client, server: Server, monkeypatch: pytest.MonkeyPatch
):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    server.says(answer())
    await ask(client, server.url)


@pytest.mark.parametrize(
    ("said", "reason", "hopeless"),
    [
        (
            answer(status=302, location="http://127.0.0.1/"),
            "HTTP 302 Found, redirects are not followed",
            True,
        ),
        (answer(status=307, location="http://127.0.0.1/"), "HTTP 307", True),
        (answer({"error": f"wrong key {KEY}"}, status=401), "HTTP 401 Unauthorized", True),
        (answer(status=404), "HTTP 404", True),
        (answer(status=408), "HTTP 408", False),
        (answer(status=500), "HTTP 500", False),
        (answer(status=503), "HTTP 503", False),
        (answer(status=799), "HTTP 799", False),
        (answer(status=503, retry_after=f"Mon, 01 Jan {'9' * 20} 00:00:00 GMT"), "HTTP 503", False),
        (answer(b"x" * 1001), "larger than 1000 bytes", False),
        (
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + b"fff\r\n" * 1,
            "RemoteProtocolError",
            False,
        ),
        (f"{KEY} is no HTTP\r\n\r\n".encode(), "not spoken as HTTP", False),
        (b"HTTP/1.1 200 OK\r\n" + b"x: " + b"y" * 200_000 + b"\r\n\r\n", "not spoken as HTTP", False),
    ],
)
async def test_a_bad_answer_is_a_failure_with_a_reason(
    client: Client, server: Server, said: bytes, reason: str, hopeless: bool
):
    server.says(said)
    failed = await failure(client, server.url, key="MINE")
    assert reason in str(failed) and failed.verdict.hopeless is hopeless
    assert failed.verdict.outcome == "error" and failed.verdict.value is None
    assert len(server.asked) == 1


async def test_silence_is_a_timeout(client: Client, server: Server):
    async def silent(_: Asked) -> bytes:
        await asyncio.Event().wait()
        raise AssertionError

    server.handler = silent
    failed = await failure(client, server.url, seconds=0.1)
    assert failed.verdict.outcome == "timeout" and "within 0.1 s" in str(failed)


async def test_a_refused_connection_and_an_unknown_name_may_pass_a_refused_address_does_not(client: Client):
    refused = await failure(client, "http://127.0.0.1:1/")
    assert "ConnectError" in str(refused) and not refused.verdict.hopeless
    unknown = await failure(client, "http://nowhere.invalid/")
    assert "nowhere.invalid" in str(unknown) and not unknown.verdict.hopeless
    for url in (
        "http://169.254.169.254/latest",
        "http://[::1]/",
        "http://10.0.0.1/",
        "http://[::ffff:127.0.0.1]/",
    ):
        assert (await failure(client, url)).verdict.hopeless


async def test_a_key_that_is_not_held_or_may_not_go_there_is_not_sent(client: Client, server: Server):
    missing = await failure(client, server.url, key="OTHER")
    assert missing.verdict.hopeless and "REKINDLE_KEY_OTHER is not set" in str(missing)
    elsewhere = await failure(client, f"http://127.0.0.2:{server.port}", key="MINE")
    assert elsewhere.verdict.hopeless and server.asked == []


@pytest.mark.parametrize("status", [429, 503])
async def test_a_busy_service_is_asked_again_when_it_says(client: Client, server: Server, status: int):
    soon = format_datetime(datetime.now(UTC) - timedelta(seconds=5), usegmt=True)
    server.says(
        answer(status=status, retry_after="0"), answer(status=status, retry_after=soon), answer(b"fine")
    )
    assert (await ask(client, server.url)).body == b"fine"
    assert len(server.asked) == 3


async def test_a_busy_service_is_not_waited_for_longer_than_the_question_may_take(
    client: Client, server: Server
):
    server.says(answer(status=429, retry_after="60"))
    failed = await failure(client, server.url, seconds=5.0)
    assert failed.verdict.hopeless and "asks to wait 60 s, the limit is 5 s" in str(failed)
    server.says(answer(status=429))
    failed = await failure(client, server.url, seconds=0.2)
    assert "HTTP 429" in str(failed)


async def test_a_tenant_has_so_many_questions_open_and_no_other_waits_for_it(client: Client, server: Server):
    gate, full = asyncio.Event(), asyncio.Event()

    async def held(asked: Asked) -> bytes:
        if asked.path == "/slow":
            if server.open == 3:
                full.set()
            await gate.wait()
        return answer()

    server.handler = held
    slow = [asyncio.create_task(ask(client, f"{server.url}/slow")) for _ in range(8)]
    await full.wait()
    await ask(client, f"{server.url}/quick", tenant="other")
    assert server.most == 4
    gate.set()
    await asyncio.gather(*slow)
    assert server.most <= 4 and len(server.asked) == 9

"""One question to somebody outside: bounded in time and size, to checked addresses only.

Below the level at which HTTP clients help: no redirect is followed, no cookie is kept or sent, no proxy is taken from
the environment, and nothing is decompressed. What goes wrong is `Failed`, and never quotes what the other side
sent: it may have sent back what it was sent.
"""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Literal

import httpcore
import httpx

from events.outside import Guard, GuardedNetwork, Refused
from services.reward.outside.keys import Keys, Withheld
from services.reward.runner import Verdict

MAX_BYTES = 4 * 2**20
"""Of an answer."""
CONNECTIONS = 1024
IDLE_CONNECTIONS = 64
IDLE_SECONDS = 15.0
THROTTLED = (429, 503)
"""Statuses that may say when to come again."""
BUSY_SECONDS = 1.0
"""How long a 429 is waited for that does not say."""
LEAST_WAIT = 0.1
ALWAYS = {"Accept": "*/*", "Accept-Encoding": "identity", "User-Agent": "rekindle"}
PASSING = (408, 425, 429)
"""Refusals that say nothing of the question; so do all from 500 on."""


class Failed(Exception):
    """There is no answer that could be used."""

    def __init__(
        self, reason: str, *, outcome: Literal["error", "timeout"] = "error", hopeless: bool = False
    ) -> None:
        """hopeless: asked again, it would fail again."""
        super().__init__(reason)
        self.verdict = Verdict(outcome, None, reason, hopeless=hopeless)


@dataclass(frozen=True, slots=True)
class Reply:
    """A successful answer."""

    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes


class Client:
    """`async with Client(guard, keys, calls=16) as client: await client.post(...)`, from any number of tasks."""

    def __init__(self, guard: Guard, keys: Keys, *, calls: int, max_bytes: int = MAX_BYTES) -> None:
        """`calls`: questions of one tenant that are open at once."""
        self._keys = keys
        self._max_bytes = max_bytes
        self._room: defaultdict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(calls))
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=httpx.create_ssl_context(),
            max_connections=CONNECTIONS,
            max_keepalive_connections=IDLE_CONNECTIONS,
            keepalive_expiry=IDLE_SECONDS,
            network_backend=GuardedNetwork(guard),
        )

    async def __aenter__(self) -> "Client":
        await self._pool.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._pool.aclose()

    async def post(
        self,
        tenant: str,
        url: str,
        body: bytes,
        headers: dict[str, str],
        *,
        key: str | None,
        seconds: float,
    ) -> Reply:
        """Ask, and ask again where the other side says when, all within `seconds`. Raises Failed."""
        target = _url(url)
        head = [(name.encode(), value.encode()) for name, value in (ALWAYS | headers).items()]
        if key is not None:
            head.append((b"Authorization", b"Bearer " + self._secret(key, target).encode()))
        async with self._room[tenant]:
            try:
                async with asyncio.timeout(seconds):
                    while (found := await self._once(target, body, head, seconds)) is None:
                        pass
                    return found
            except TimeoutError:
                raise Failed(f"no answer within {seconds:g} s", outcome="timeout") from None

    def _secret(self, key: str, url: httpx.URL) -> str:
        try:
            return self._keys.secret(key, url.host, url.port or (443 if url.scheme == "https" else 80))
        except Withheld as error:
            raise Failed(str(error), hopeless=True) from None

    async def _once(
        self, url: httpx.URL, body: bytes, head: list[tuple[bytes, bytes]], seconds: float
    ) -> Reply | None:
        """None after having waited as long as the other side has asked for."""
        target = httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)
        try:
            async with self._pool.stream("POST", target, headers=head, content=body) as response:
                found = {
                    name.decode("latin-1").lower(): value.decode("latin-1")
                    for name, value in response.headers
                }
                wait = _wait(response.status, found)
                if wait is None:
                    _check(response.status)
                    return Reply(found, await self._body(response))
        except Refused as error:
            raise Failed(str(error), hopeless=True) from None
        except httpcore.TimeoutException:
            raise Failed("no connection in time", outcome="timeout") from None
        except httpcore.NetworkError as error:
            raise Failed(f"{type(error).__name__}: {error}") from error
        except httpcore.ProtocolError as error:
            raise Failed(f"not spoken as HTTP ({type(error).__name__})") from None  # it quotes what was sent
        if wait > seconds:
            raise Failed(
                f"HTTP {response.status}: asks to wait {wait:g} s, the limit is {seconds:g} s", hopeless=True
            )
        await asyncio.sleep(max(wait, LEAST_WAIT))
        return None

    async def _body(self, response: httpcore.Response) -> bytes:
        body = bytearray()
        async for chunk in response.aiter_stream():
            body += chunk
            if len(body) > self._max_bytes:
                raise Failed(f"the answer is larger than {self._max_bytes} bytes")
        return bytes(body)


def _url(url: str) -> httpx.URL:
    try:
        return httpx.URL(url)
    except httpx.InvalidURL as error:
        raise Failed(f"url: {error}", hopeless=True) from error


def _check(status: int) -> None:
    """Raises Failed."""
    if 200 <= status < 300:
        return
    phrase = ""
    with contextlib.suppress(ValueError):
        phrase = f" {HTTPStatus(status).phrase}"
    said = ", redirects are not followed" if 300 <= status < 400 else ""
    raise Failed(f"HTTP {status}{phrase}{said}", hopeless=status < 500 and status not in PASSING)


def _wait(status: int, headers: Mapping[str, str]) -> float | None:
    """Seconds after which the other side wants to be asked again; None: it does not say so."""
    if status not in THROTTLED:
        return None
    after = headers.get("retry-after", "").strip()
    if after.isascii() and after.isdigit():
        return float(after[:9])
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        return max(0.0, (parsedate_to_datetime(after) - datetime.now(UTC)).total_seconds())
    return BUSY_SECONDS if status == 429 else None

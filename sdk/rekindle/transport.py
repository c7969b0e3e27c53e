"""HTTP to one server: the base URL, the key, and patience with what passes.

A call that was not answered, or answered with 408, 429 or from 500 on, is made again, unchanged, until
`patience` seconds have passed; `Retry-After` is obeyed. So every call made through here must be one that may
arrive twice: commands carry numbers for that. Whatever else is not a success becomes an `APIError`.
"""

import asyncio
import json
import logging
import os
import random
import ssl
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx
from pydantic import BaseModel

from rekindle.errors import ClientClosed, ConnectionFailed, RekindleError, api_error
from rekindle.types import InvalidField, parse_json

PREFIX = "/api/v1"
JSON, PROTOBUF = "application/json", "application/x-protobuf"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
PATIENCE = 300.0
"""Seconds for which a call is tried again; the server keeps a missing number's place a little longer."""
FIRST_CONTACT = 30.0
"""Seconds of patience with a server that has never answered: its address may be wrong."""
CONNECT_SECONDS = 5.0
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 10.0
LONGEST_RETRY_AFTER = 60.0
POOLS, KEPT_CONNECTIONS = 16, 20
"""The pool's work for one request grows with its connections, so hundreds of polls are spread over several."""

log = logging.getLogger("rekindle")
M = TypeVar("M", bound=BaseModel)


class Retries:
    """Pauses between attempts, doubling up to a limit, for `patience` seconds in all."""

    def __init__(self, patience: float) -> None:
        self._deadline = time.monotonic() + patience
        self._next = FIRST_PAUSE

    async def pause(self, failure: RekindleError, wanted: float | None = None) -> None:
        """Wait before the next attempt, as long as the server `wanted`. Raises `failure` when time is up."""
        seconds = (
            min(wanted, LONGEST_RETRY_AFTER) if wanted is not None else self._next * random.uniform(0.5, 1)
        )
        if time.monotonic() + seconds > self._deadline:
            raise failure
        self._next = min(2 * self._next, LONGEST_PAUSE)
        log.debug("trying again in %.1f s: %s", seconds, failure)
        await asyncio.sleep(seconds)


class Transport:
    """Calls to `<base_url>/api/v1`. All methods run in the background loop."""

    def __init__(
        self,
        base_url: str,
        api_key: str | None,
        timeout: float,
        *,
        first_contact: float = FIRST_CONTACT,
        handler: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        host = _host(base_url)
        if api_key is not None and not (api_key.isascii() and api_key.isprintable()):
            raise InvalidField("api_key", "expected printable ASCII characters")
        self.base_url = base_url.rstrip("/")
        self._api_key = api_key
        self._timeout = timeout
        self._first_contact = first_contact
        self._answered = False
        self._handler = handler
        # A proxy of the environment is not meant for servers on this machine.
        self.trust_env = host not in LOOPBACK
        self._pools: list[httpx.AsyncClient] = []
        self._in_use = [0] * POOLS
        self._process = os.getpid()
        self._closed = False

    @contextmanager
    def pool(self) -> Iterator[httpx.AsyncClient]:
        """The connection pool with the fewest requests, for one of them. Raises ClientClosed."""
        if self._closed:
            raise ClientClosed("the client is closed")
        if self._process != os.getpid():  # a forked child: these connections are its parent's
            self._process, self._pools, self._in_use = os.getpid(), [], [0] * POOLS
        index = self._in_use.index(min(self._in_use))
        # The first that is free: one request after the other has one pool and its open connection.
        if index == len(self._pools):
            self._pools.append(self._make_pool())
        self._in_use[index] += 1
        try:
            yield self._pools[index]
        finally:
            self._in_use[index] -= 1

    def _make_pool(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            base_url=f"{self.base_url}{PREFIX}",
            headers={"X-API-Key": self._api_key} if self._api_key else {},
            timeout=self._limit(),
            # As many connections as there are polls: each holds one.
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=KEPT_CONNECTIONS),
            verify=self._certificates,
            trust_env=self.trust_env,
            transport=self._handler,
        )

    def _limit(self, held: float = 0.0) -> httpx.Timeout:
        return httpx.Timeout(max(self._timeout, held), connect=CONNECT_SECONDS, pool=None)

    @cached_property
    def _certificates(self) -> ssl.SSLContext | bool:
        """Read once for all pools, and not at all where they are not needed."""
        return httpx.create_ssl_context() if self.base_url.startswith("https:") else False

    async def close(self) -> None:
        """Close all connections; later calls raise ClientClosed."""
        self._closed = True
        for pool in self._pools:
            await pool.aclose()

    async def send(
        self,
        method: str,
        path: str,
        *,
        body: BaseModel | Mapping[str, Any] | bytes | None = None,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, Any] | None = None,
        also: Collection[int] = (),
        patience: float = PATIENCE,
        held: float = 0.0,
    ) -> httpx.Response:
        """The answer, which is a success or has a status in `also`.

        body: a message or mapping (JSON, absent where None) or bytes as they are. held: seconds for which the
        server may hold the call back, however short the client's own timeout is. Raises APIError for other
        statuses, ConnectionFailed when nobody answered for `patience` seconds, or sooner where nobody ever has.
        """
        content = _content(body)
        sent = {"Accept": JSON, **({} if content is None else {"Content-Type": JSON}), **(headers or {})}
        retries = Retries(patience if self._answered else min(patience, self._first_contact))
        while True:
            pause: float | None = None
            try:
                with self.pool() as http:
                    answer = await http.request(
                        method, path, content=content, headers=sent, params=params, timeout=self._limit(held)
                    )
            except httpx.RequestError as error:
                failure: RekindleError = ConnectionFailed(f"{self.base_url}: {error or type(error).__name__}")
            else:
                if not self._answered:
                    self._answered, retries = True, Retries(patience)
                if answer.is_success or answer.status_code in also:
                    return answer
                pause = retry_after(answer)
                failure = api_error(answer.status_code, detail_of(answer), pause)
                if not may_pass(answer.status_code):
                    raise failure
            await retries.pause(failure, pause)

    async def ask(self, kind: type[M], method: str, path: str, **options: Any) -> M:
        """The answer's JSON as a message. Raises as `send`, and InvalidField for another answer."""
        return parse_json(kind, (await self.send(method, path, **options)).content)


def _host(base_url: str) -> str:
    """Raises InvalidField for what is no address."""
    try:
        parts = urlsplit(base_url)
        parts.port  # noqa: B018  # raises for one that is no number up to 65535
    except ValueError as error:
        raise InvalidField("base_url", f"{base_url!r}: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise InvalidField("base_url", f"{base_url!r}, expected http://host:port or https://host")
    return parts.hostname


def may_pass(status: int) -> bool:
    """Whether the same call can succeed later."""
    return status in (408, 429) or (status >= 500 and status != 501)


def retry_after(answer: httpx.Response) -> float | None:
    """Seconds that the server wants us to wait, None if it does not say; dates count as not said."""
    said = answer.headers.get("retry-after", "")
    return float(said) if said.isascii() and said.replace(".", "", 1).isdigit() else None


def detail_of(answer: httpx.Response) -> str:
    """What the server said about an error, at most a few lines of it."""
    try:
        said = answer.json()
    except ValueError:
        said = answer.text
    detail = said.get("detail", said) if isinstance(said, dict) else said
    return str(detail)[:2000] or answer.reason_phrase


def _content(body: BaseModel | Mapping[str, Any] | bytes | None) -> bytes | None:
    if isinstance(body, BaseModel):
        return body.model_dump_json(exclude_none=True).encode()
    return json.dumps(body).encode() if isinstance(body, Mapping) else body

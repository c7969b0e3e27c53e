"""Posts an event to somebody outside, as a structured CloudEvent; an answer from 200 to 299 means that it came.

Addresses are those that may be asked on behalf of a tenant. Redirects are not followed, and of the answer nothing but
its status is read.
"""

import asyncio
from typing import Self

import httpcore
import httpx
from cloudevents.core.v1.event import CloudEvent

from events import envelope
from events.outside import Guard, GuardedNetwork, Refused

SECONDS = 10.0
"""Wall-clock limit of one call."""
PASSING = (408, 425, 429)
"""Refusals that say nothing of the event; so do all from 500 on."""


class NotTaken(Exception):
    """The event did not arrive, as far as is known."""

    def __init__(self, reason: str, *, hopeless: bool = False) -> None:
        """hopeless: sent again, it would not arrive either."""
        super().__init__(reason)
        self.hopeless = hopeless


class Webhooks:
    """Connections to those who want events."""

    def __init__(self, guard: Guard) -> None:
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=httpx.create_ssl_context(), network_backend=GuardedNetwork(guard)
        )

    async def __aenter__(self) -> Self:
        await self._pool.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._pool.aclose()

    async def post(self, url: str, event: CloudEvent) -> None:
        """Raises NotTaken."""
        try:
            status = await self._status(httpx.URL(url), envelope.to_json(event))
        except Refused as error:
            raise NotTaken(str(error), hopeless=True) from None
        except (TimeoutError, httpcore.TimeoutException):
            raise NotTaken(f"no answer within {SECONDS:g} s") from None
        except (httpcore.NetworkError, httpcore.ProtocolError) as error:
            raise NotTaken(f"{type(error).__name__}: {error}") from error
        if not 200 <= status < 300:
            raise NotTaken(f"HTTP {status}", hopeless=status < 500 and status not in PASSING)

    async def _status(self, url: httpx.URL, body: bytes) -> int:
        target = httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)
        head = {"Content-Type": envelope.STRUCTURED, "User-Agent": "rekindle"}
        async with (
            asyncio.timeout(SECONDS),
            self._pool.stream("POST", target, headers=list(head.items()), content=body) as answer,
        ):
            return int(answer.status)

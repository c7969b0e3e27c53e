"""One client process and all that it has under way: its session at the server, its numbers, its tasks.

The session is opened when something first needs it and kept alive by heartbeats. `close` lets commands that
were called be submitted, finishes the session and ends whatever still waits with `ClientClosed`. Calls that
need no session (checkpoints, runs, datasets, rewards) open none.
"""

import asyncio
import concurrent.futures
import itertools
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Literal, TypeVar

from rekindle import background
from rekindle.errors import ClientClosed, Gone, NotFound, RekindleError
from rekindle.futures import Future, Progress
from rekindle.polling import Poller
from rekindle.transport import Transport
from rekindle.types import (
    ClientConfigRequest,
    ClientConfigResponse,
    CreateSessionRequest,
    CreateSessionResponse,
    FinishReason,
    FinishSessionRequest,
    SessionHeartbeatRequest,
)

HEARTBEAT_SECONDS = 10.0
FINISH_PATIENCE = 10.0

log = logging.getLogger("rekindle")
T = TypeVar("T")
Outcome = Literal["success", "errored", "interrupted"]


class Session:
    """What all clients made by one `ServiceClient` share."""

    def __init__(
        self, transport: Transport, user_metadata: Mapping[str, str] | None, tags: Sequence[str]
    ) -> None:
        self.transport = transport
        self.poller = Poller(transport)
        self.config = ClientConfigResponse()
        """The server's wishes; defaults until the session is open."""
        self.model_numbers = itertools.count()
        self.sampler_numbers = itertools.count()
        self._metadata = dict(user_metadata) if user_metadata else None
        self._tags = tuple(tags)
        self._id: str | None = None
        self._opening: asyncio.Task[str] | None = None
        self._heart: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._submissions: set[asyncio.Task[Any]] = set()
        self._closed = False

    # ---- Work ----

    def start(self, work: Coroutine[Any, Any, T]) -> "concurrent.futures.Future[T]":
        """Start work on the background loop, in the order of the calls; it ends with this session at the latest."""
        return self._start(work, self._tasks)

    def submit(self, work: Coroutine[Any, Any, T]) -> "concurrent.futures.Future[T]":
        """As `start`, for work that the end of the session waits for: a command that was called is sent."""
        return self._start(work, self._submissions)

    def _start(
        self, work: Coroutine[Any, Any, T], among: set[asyncio.Task[Any]]
    ) -> "concurrent.futures.Future[T]":
        if self._closed:
            work.close()
            raise ClientClosed("the client is closed")
        return background.start(self._tracked(work, among))

    def future(self, work: Callable[[Progress], Coroutine[Any, Any, T]]) -> Future[T]:
        """The future of work that reports how far it has come."""
        progress = Progress()
        return Future(self.start(work(progress)), progress)

    async def _tracked(self, work: Coroutine[Any, Any, T], among: set[asyncio.Task[Any]]) -> T:
        task = asyncio.current_task()
        assert task is not None, "runs as a task"
        among.add(task)  # also keeps it from the garbage collector
        try:
            return await work
        except asyncio.CancelledError:
            if self._closed:
                raise ClientClosed("the client was closed before this was done") from None
            raise
        finally:
            among.discard(task)

    # ---- Life ----

    async def id(self) -> str:
        """The session's id, opened on first need. Raises APIError or ConnectionFailed; then tried anew."""
        if self._id is None:
            if self._opening is None:
                self._opening = asyncio.ensure_future(self._open())
            opening = self._opening
            try:
                self._id = await asyncio.shield(opening)
            finally:
                if opening.done() and self._opening is opening:
                    self._opening = None
        return self._id

    async def _open(self) -> str:
        from importlib.metadata import version  # slow, and needed here alone

        said = version("rekindle")
        try:
            asked = ClientConfigRequest(sdk_version=said)
            self.config = await self.transport.ask(ClientConfigResponse, "POST", "/client/config", body=asked)
        except NotFound:
            log.debug("the server has no wishes about its clients")
        wanted = CreateSessionRequest(tags=self._tags, user_metadata=self._metadata, sdk_version=said)
        opened = await self.transport.ask(CreateSessionResponse, "POST", "/create_session", body=wanted)
        for level, message in (
            (logging.INFO, opened.info_message),
            (logging.WARNING, opened.warning_message),
            (logging.ERROR, opened.error_message),
        ):
            if message:
                log.log(level, message)
        self._heart = asyncio.ensure_future(self._beat(opened.session_id))
        return opened.session_id

    async def _beat(self, session_id: str) -> None:
        body = SessionHeartbeatRequest(session_id=session_id)
        while True:
            await asyncio.sleep(HEARTBEAT_SECONDS)
            try:
                await self.transport.send("POST", "/session_heartbeat", body=body, patience=HEARTBEAT_SECONDS)
            except Gone as error:
                log.warning("the server has ended this session: %s", error.detail)
                return
            except RekindleError as error:
                log.warning("a heartbeat failed: %s", error)

    async def close(self, outcome: Outcome) -> None:
        """Finish the session and end what still waits; the second time nothing happens."""
        if self._closed:
            return
        self._closed = True
        if self._submissions and outcome == "success":
            await asyncio.wait(self._submissions, timeout=FINISH_PATIENCE)
        waiting = [*self._tasks, *self._submissions]
        waiting += [task for task in (self._opening, self._heart) if task is not None]
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        try:
            if self._id is not None:
                body = FinishSessionRequest(reason=FinishReason(type=outcome))
                path = f"/sessions/{self._id}/finish"
                await self.transport.send("POST", path, body=body, patience=FINISH_PATIENCE)
        except RekindleError as error:  # it is idle then, and forgotten in time
            log.warning("the session could not be finished: %s", error)
        finally:
            await self.transport.close()

"""Keeps one child of the stack alive: always, until it has ended well once, or while somebody asks for it.

A service on demand sleeps at zero until a connection arrives at its socket, which its process then inherits; it
ends by itself when nobody has asked for long enough, or when it is told to. One that crashes is started again,
more slowly while it ends before it was ready; after `MAX_EARLY_EXITS` of those in a row it is given up: that is the
platform's verdict, with its last words as the reason. The next connection tries it again.
"""

import asyncio
import contextlib
import os
import secrets
import signal
import socket
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import structlog

from events.platform import State, Verdict
from services.local.process import Child, Inherited, Process, follow, open_log

log = structlog.get_logger(__name__)

MAX_EARLY_EXITS = 5
MAX_FIRST_EXITS = 2
"""Of a stack that was never ready: what cannot start shall say so soon."""
REMEMBERED = 7
"""Dead processes of a child that others may still want to hear of, beside the last."""
REFUSAL = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
)


class StackFailed(Exception):
    """A process could not be started; the message says which and shows its last words."""


class Keeper:
    """One child and its life."""

    def __init__(
        self,
        child: Child,
        start: Callable[[Child, Inherited], Awaitable[Process]],
        changed: Callable[[], None],
    ) -> None:
        """`changed` is called when its state is another."""
        self.child = child
        self._start = start
        self._changed = changed
        self.patient = False
        """The stack has been ready: what fails now may mend."""

    async def keep(self) -> None:
        """Go on until cancelled, or until there is nothing more to be done.

        Raises StackFailed when it was given up and no demand will bring it back.
        """
        child = self.child
        if child.life == "on demand":
            await self._until_wanted()
        while True:
            code = await self._live()
            if code == 0 and child.life == "once":
                return self._become("ready")
            if child.life == "on demand" and self._ended_well(code):
                child.early_exits = 0
                self._become("zero")
                await self._until_wanted()
            else:
                await self._after_crash(code)

    def _ended_well(self, code: int) -> bool:
        """Because nobody needed it, or on a SIGTERM after which it finished what it had in hand."""
        return code == 0 or (code == -signal.SIGTERM and self.child.state in ("ready", "stopping"))

    async def _live(self) -> int:
        """From start to end; returns the exit code."""
        child = self.child
        replica = f"{child.log.stem}-{secrets.token_hex(4)}"
        child.environment["REKINDLE_REPLICA"] = replica
        self._become("starting")
        hearing = await self._begin()
        assert child.process is not None, "just started"
        if not child.notifies and child.life != "once":
            self._become("ready")
        try:
            return await child.process.wait()
        finally:
            hearing.cancel()
            child.activations = 0
            child.dead = [*child.dead[-REMEMBERED:], replica]
            self._changed()

    async def _begin(self) -> "asyncio.Task[None]":
        """Start the process; returns what hears it."""
        child = self.child
        hear, say = os.pipe()
        log_fd = open_log(child.log)
        try:
            listening = child.listening.fileno() if child.listening is not None else None
            child.process = await self._start(
                child, Inherited(log_fd, listening, say if child.notifies else None)
            )
        finally:
            os.close(say)
            os.close(log_fd)
        self._changed()
        return asyncio.create_task(follow(hear, self._told))

    def _told(self, state: State, activations: int) -> None:
        self.child.activations = activations
        if state == "ready":
            self.child.reason = None
        self._become(state)

    async def _after_crash(self, code: int) -> None:
        """Wait before the next start, or give it up."""
        child = self.child
        log.warning("process.ended", process=child.log.stem, code=code, state=child.state)
        early = child.state not in ("ready", "stopping")
        child.early_exits = child.early_exits + 1 if early else 0
        if child.early_exits >= self._most_exits:
            return await self._give_up()
        child.reason = f"ended {child.early_exits} times at its start" if early else None
        self._become("starting")
        await asyncio.sleep(min(10.0, 0.25 * 2**child.early_exits))

    async def _give_up(self) -> None:
        """The verdict; a service on demand tries again when somebody asks again."""
        child = self.child
        reason = f"it ended {child.early_exits} times at its start:\n{child.last_words()}"
        child.verdict = Verdict(at=datetime.now(UTC), reason=reason)
        child.early_exits, child.reason = 0, None
        self._become("failed")
        if child.life == "optional":
            await asyncio.get_running_loop().create_future()  # nobody needs it
        if child.life != "on demand":
            raise StackFailed(f"{child.log.stem}: {reason}")
        assert child.listening is not None, "a service on demand has a socket"
        _refuse(child.listening)
        await self._until_wanted()

    @property
    def _most_exits(self) -> int:
        return MAX_EARLY_EXITS if self.patient or self.child.life == "on demand" else MAX_FIRST_EXITS

    async def _until_wanted(self) -> None:
        """Return when a connection waits at the child's socket."""
        assert self.child.listening is not None, "a service on demand has a socket"
        loop = asyncio.get_running_loop()
        wanted: asyncio.Future[None] = loop.create_future()
        number = self.child.listening.fileno()
        loop.add_reader(number, wanted.cancel)
        try:
            await asyncio.wait({wanted})
        finally:
            loop.remove_reader(number)

    def _become(self, state: State) -> None:
        self.child.state = state
        self._changed()


def _refuse(listening: socket.socket) -> None:
    """Answer those who wait in vain."""
    with contextlib.suppress(BlockingIOError):
        while True:
            connection, _ = listening.accept()
            with connection, contextlib.suppress(OSError):
                connection.send(REFUSAL)

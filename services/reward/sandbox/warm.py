"""The service's end of a warm interpreter: starts it, orders guests, hears what becomes of them, and ends it.

One datagram an order. A guest is a `Guest` as soon as it exists; its end is a future. When the interpreter dies, its
guests die with it, and whoever waits for one gets `SandboxDied`.
"""

import asyncio
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from services.reward.sandbox.wire import DATAGRAM_BYTES, SETTINGS, News, Order, pack

WARM_SECONDS = 60.0
"""Within which it must have imported everything; a busy machine needs many times what a quiet one does."""

START_SECONDS = 60.0
"""Within which it must have forked; when it has not, it is taken for dead."""
DEATH_MILLISECONDS = 1000


class SandboxError(RuntimeError):
    """The sandbox failed, not the code in it: says nothing about that code."""


class SandboxDied(SandboxError):
    """The warm interpreter ended while a guest was being run."""


@dataclass(slots=True)
class Guest:
    """A process of a guest, as its keeper sees it."""

    pidfd: int
    """-1 when it is gone."""
    process: int
    """Its number as this process's /proc has it; below 0 if it had ended when it was asked for."""
    ended: asyncio.Future[News]

    def kill(self) -> None:
        """At once; nothing happens if it has ended already."""
        if self.pidfd < 0:
            return
        try:
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        except ProcessLookupError:
            return

    def wait_for_death(self) -> None:
        """After a kill: a moment."""
        dying = select.poll()
        dying.register(self.pidfd, select.POLLIN)
        dying.poll(DEATH_MILLISECONDS)

    def forget(self) -> None:
        """It is gone."""
        os.close(self.pidfd)
        self.pidfd = -1


@dataclass(slots=True)
class _Awaited:
    started: asyncio.Future[Guest]
    ended: asyncio.Future[News]
    guest: Guest | None = None


class Warm:
    """One interpreter. Example: warm = await Warm.start(["json"], [], wrapper=[])."""

    def __init__(self, process: subprocess.Popen[bytes], line: socket.socket) -> None:
        self._loop = asyncio.get_running_loop()
        self._process = process
        self._line = line
        self._awaited: dict[int, _Awaited] = {}
        self._warm: asyncio.Future[News] = self._loop.create_future()
        self._room: asyncio.Future[None] | None = None
        self._loop.add_reader(line.fileno(), self._hear)
        self.alive = True
        self.facts: dict[str, int] = {}
        """Of the machine, see `wire.News`."""

    @classmethod
    async def start(
        cls,
        preload: Sequence[str],
        readable: Sequence[str],
        wrapper: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> "Warm":
        """Returns when it is warm. `wrapper`: a command that runs it. Raises SandboxError if it cannot be."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        words = json.dumps({"preload": list(preload), "readable": list(readable)})
        program = [sys.executable, "-P", "-X", "utf8", "-m", "services.reward.sandbox.zygote"]
        with theirs:
            process = _spawn([*wrapper, *program, str(theirs.fileno()), words], theirs, environment or {})
        warm = cls(process, ours)
        try:
            try:
                news = await asyncio.wait_for(warm._warm, WARM_SECONDS)
            except TimeoutError:
                raise SandboxError(f"the warm interpreter is not warm within {WARM_SECONDS:g} s") from None
            if news.what == "broken":
                raise SandboxError(f"the warm interpreter cannot start:\n{news.detail}")
        except BaseException:
            await warm.close()
            raise
        warm.facts = news.facts
        return warm

    async def order(self, order: Order, fds: Sequence[int]) -> Guest:
        """The guest, when it exists. Raises SandboxError when it cannot, SandboxDied when nobody can make it."""
        if not self.alive:
            raise SandboxDied("the warm interpreter is gone")
        awaited = _Awaited(self._loop.create_future(), self._loop.create_future())
        self._awaited[order.id] = awaited
        try:
            await self._send(pack(order), fds)
        except SandboxError:
            self._awaited.pop(order.id, None)
            raise
        try:
            return await asyncio.wait_for(asyncio.shield(awaited.started), START_SECONDS)
        except TimeoutError:
            self._lost()
            raise SandboxDied("the warm interpreter does not answer") from None

    async def _send(self, data: bytes, fds: Sequence[int]) -> None:
        while True:
            try:
                socket.send_fds(self._line, [data], list(fds))
                return
            except BlockingIOError:
                await self._until_room()
            except (BrokenPipeError, ConnectionResetError):
                self._lost()
                return
            except OSError as error:  # such as too many descriptors under way
                raise SandboxError(f"no guest could be ordered: {error}") from error

    async def _until_room(self) -> None:
        if self._room is None:
            self._room = self._loop.create_future()
            self._loop.add_writer(self._line.fileno(), self._make_room)
        await asyncio.shield(self._room)

    def _make_room(self) -> None:
        self._loop.remove_writer(self._line.fileno())
        if self._room is not None:
            self._room.set_result(None)
            self._room = None

    def _hear(self) -> None:
        while True:
            try:
                data, fds, _, _ = socket.recv_fds(self._line, DATAGRAM_BYTES, 1, socket.MSG_CMSG_CLOEXEC)
            except BlockingIOError:
                return
            except ConnectionResetError:
                data = b""
            if not data:
                self._lost()
                return
            self._learn(News(**json.loads(data)), fds)

    def _learn(self, news: News, fds: list[int]) -> None:
        if news.id == 0:
            self._warm.set_result(news)
            return
        awaited = self._awaited[news.id]
        if news.what == "started":
            awaited.guest = Guest(fds[0], _number(fds[0]), awaited.ended)
            awaited.started.set_result(awaited.guest)
            return
        del self._awaited[news.id]
        if awaited.guest is not None:
            awaited.guest.forget()
        if news.what == "failed":
            _fail(awaited.started, SandboxError(f"no guest could be started: {news.detail}"))
        if not awaited.ended.done():
            awaited.ended.set_result(news)

    def _lost(self) -> None:
        """The other end is closed: it is dead, or dies now, and its guests with it."""
        if not self.alive:
            return
        self.alive = False
        self._loop.remove_reader(self._line.fileno())
        if self._room is not None:
            self._make_room()
        self._line.close()
        self._process.kill()
        error = SandboxDied("the warm interpreter died")
        for awaited in self._awaited.values():
            if awaited.guest is not None:
                awaited.guest.kill()
                awaited.guest.wait_for_death()
                awaited.guest.forget()
            _fail(awaited.started, error)
            _fail(awaited.ended, error)
        self._awaited.clear()
        if not self._warm.done():
            self._warm.set_result(News(0, "broken", detail="it ended before it was warm"))

    async def close(self) -> None:
        """End it and all its guests; returns when it is gone."""
        self._lost()
        await asyncio.to_thread(self._process.wait)


def _number(pidfd: int) -> int:
    with open(f"/proc/self/fdinfo/{pidfd}") as info:
        return next(int(line.split()[1]) for line in info if line.startswith("Pid:"))


def _spawn(
    command: list[str], line: socket.socket, environment: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    """With nothing of ours but its line and standard error."""
    paths = os.pathsep.join(path for path in sys.path if path)
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        pass_fds=[line.fileno()],
        env={**environment, **SETTINGS, "PYTHONPATH": paths},
        start_new_session=True,
    )


def _fail(future: asyncio.Future[Guest] | asyncio.Future[News], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
        future.exception()  # it may be that nobody is left to hear it

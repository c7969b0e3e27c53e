"""The supervisor's side of warm parents: has them fork children, and hears what becomes of those.

A parent that has died, or does not get warm in time, is no obstacle: the child is then started like any other.
"""

import asyncio
import contextlib
import json
import os
import signal
import socket
from collections import deque
from dataclasses import dataclass, field, replace

import structlog

from services.local.process import Child, Inherited, Process, spawn

log = structlog.get_logger(__name__)

WARM_SECONDS = 120.0
"""How long a parent that still imports is waited for: the child would have to import the same."""


@dataclass(eq=False, slots=True)
class Forked:
    """A process that a warm parent has started; a `Process`."""

    pid: int
    returncode: int | None = None
    _ended: asyncio.Event = field(default_factory=asyncio.Event)

    async def wait(self) -> int:
        await self._ended.wait()
        assert self.returncode is not None, "it has ended"
        return self.returncode

    def send_signal(self, signal: int) -> None:
        if self.returncode is None:
            os.kill(self.pid, signal)

    def end(self, code: int) -> None:
        self.returncode = code
        self._ended.set()


class WarmParent:
    """One parent, across its restarts."""

    def __init__(self, child: Child) -> None:
        self.child = child
        self._line: socket.socket | None = None
        self.warm = asyncio.Event()
        """Whether it can fork."""
        self._asked: deque[asyncio.Future[Forked]] = deque()
        self._children: dict[int, Forked] = {}

    async def start(self, child: Child, inherited: Inherited) -> Process:
        """Start the parent itself."""
        self._lost()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        with theirs:
            process = await spawn(child, replace(inherited, listening=theirs.fileno()))
        self._line = ours
        asyncio.get_running_loop().add_reader(ours, self._hear)
        return process

    async def fork(self, child: Child, inherited: Inherited) -> Process:
        """Start `child` from this parent, or without it where it cannot help."""
        try:
            async with asyncio.timeout(WARM_SECONDS):
                return await self._fork(child, inherited)
        except (OSError, TimeoutError) as error:
            log.info("fork.failed", parent=self.child.name, child=child.name, reason=repr(error))
            return await spawn(child, inherited)

    async def _fork(self, child: Child, inherited: Inherited) -> Process:
        """Raises OSError."""
        if self.child.state == "failed":
            raise ConnectionRefusedError("the parent was given up")
        await self.warm.wait()
        if self._line is None:
            raise ConnectionResetError("the parent has died")
        fds = {"log": inherited.log, "listening": inherited.listening, "notify": inherited.notify}
        given = {name: fd for name, fd in fds.items() if fd is not None}
        order = {"module": child.command[-1], "environment": child.environment, "fds": list(given)}
        asked: asyncio.Future[Forked] = asyncio.get_running_loop().create_future()
        socket.send_fds(self._line, [json.dumps(order).encode()], list(given.values()))
        self._asked.append(asked)
        return await asked

    def _hear(self) -> None:
        assert self._line is not None, "it is what is read"
        with contextlib.suppress(BlockingIOError):
            try:
                data = self._line.recv(4096)
            except ConnectionResetError:
                data = b""
            if data:
                self._told(json.loads(data))
            else:
                self._lost()

    def _told(self, said: dict[str, int]) -> None:
        if "warm" in said:
            self.warm.set()
        elif "pid" in said:
            forked = self._children[said["pid"]] = Forked(said["pid"])
            asked = self._asked.popleft()
            if not asked.done():
                asked.set_result(forked)
        elif (ended := self._children.pop(said["ended"], None)) is not None:
            ended.end(said["code"])

    def _lost(self) -> None:
        """The parent has died, and its children with it."""
        if self._line is not None:
            asyncio.get_running_loop().remove_reader(self._line)
            self._line.close()
            self._line = None
        self.warm.clear()
        while self._asked:
            asked = self._asked.popleft()
            if not asked.done():
                asked.set_exception(ConnectionResetError("the parent has died"))
        for forked in self._children.values():
            forked.end(-signal.SIGKILL)
        self._children.clear()

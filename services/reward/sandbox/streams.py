"""The service's ends of a guest's streams: feeds it, takes what it says up to a limit, never waits for it.

Standard input and output, error and report are pipes; the lead is a socket: the payload goes down, one byte comes up
when the guest is confined.
"""

import asyncio
import os
import socket
from collections.abc import Callable, Sequence
from typing import Literal

from services.reward.sandbox.guest import BEGUN

CHUNK = 64 * 1024

Name = Literal["stdout", "stderr", "report"]
NAMES: tuple[Name, ...] = ("stdout", "stderr", "report")


class Streams:
    """Of one guest.

    `begins` is called when it goes on to its code, `flooded` once it has said more than `most` bytes altogether.
    """

    def __init__(
        self,
        stdin: bytes,
        payload: bytes,
        more: Sequence[int],
        most: int,
        begins: Callable[[], None],
        flooded: Callable[[], None],
    ) -> None:
        """`more`: descriptors for the guest, of which it gets copies. Raises OSError when there are too many open."""
        self._loop = asyncio.get_running_loop()
        self._begins = begins
        self._flooded = flooded
        self._room = most
        self._said: dict[Name, bytearray] = {name: bytearray() for name in NAMES}
        self._open: set[int] = set()
        self.theirs: list[int] = []
        """The guest's ends, as `wire.Order` orders them; ours until `give`."""
        self.begun = False
        """Whether it was confined completely and went on to its code."""
        self._readers: dict[int, Name] = {}
        try:
            self._open_all(stdin, payload)
            self.theirs += [os.dup(fd) for fd in more]  # the caller may close them at any moment
        except BaseException:
            self.give()
            self.close()
            raise

    def _open_all(self, stdin: bytes, payload: bytes) -> None:
        take, feed = self._pipe()
        self.theirs.append(take)
        self._open.add(feed)
        for name in NAMES:
            ours, theirs = self._pipe()
            self.theirs.append(theirs)
            self._open.add(ours)
            self._readers[ours] = name
        lead, far = socket.socketpair()
        lead.setblocking(False)
        self.theirs.append(far.detach())
        self._lead = lead.detach()
        self._open.add(self._lead)
        for fd, name in self._readers.items():
            self._loop.add_reader(fd, self._read, fd, name)
        self._loop.add_reader(self._lead, self._hear)
        self._feed(feed, memoryview(stdin), self._close)
        self._feed(self._lead, memoryview(payload), _end)

    def _pipe(self) -> tuple[int, int]:
        """Both ends; ours never blocks, the guest's does."""
        take, feed = os.pipe()
        os.set_blocking(feed if not self.theirs else take, False)
        return take, feed

    def give(self) -> None:
        """The guest has its ends, or never will."""
        for fd in self.theirs:
            os.close(fd)
        self.theirs.clear()

    def finish(self) -> None:
        """The guest is gone: take what is still on the way, and close."""
        for fd, name in list(self._readers.items()):
            if fd in self._open:
                self._read(fd, name)
        if not self.begun:
            self._hear()
        self.close()

    def close(self) -> None:
        for fd in list(self._open):
            self._close(fd)

    def said(self, name: Name) -> bytes:
        return bytes(self._said[name])

    def _close(self, fd: int) -> None:
        self._open.discard(fd)
        self._loop.remove_reader(fd)
        self._loop.remove_writer(fd)
        os.close(fd)

    def _read(self, fd: int, name: Name) -> None:
        """All there is now."""
        while True:
            try:
                data = os.read(fd, CHUNK)
            except BlockingIOError:
                return
            if not data:
                self._close(fd)
                return
            self._said[name] += data[: self._room]
            self._room -= len(data)
            if self._room < 0:
                self._room = 0
                self._flooded()
                return
            if len(data) < CHUNK:
                return

    def _feed(self, fd: int, rest: memoryview, done: Callable[[int], None]) -> None:
        """Write as much as goes, and the rest whenever more goes."""
        try:
            while rest:
                rest = rest[os.write(fd, rest[:CHUNK]) :]
        except BlockingIOError:
            self._loop.add_writer(fd, self._feed, fd, rest, done)
            return
        except (BrokenPipeError, ConnectionResetError):  # it reads no more
            self._loop.remove_writer(fd)
            return
        self._loop.remove_writer(fd)
        done(fd)

    def _hear(self) -> None:
        """The one byte that comes up the lead, or its end."""
        try:
            said = os.read(self._lead, len(BEGUN))
        except BlockingIOError:
            return
        except ConnectionResetError:
            said = b""
        self._loop.remove_reader(self._lead)
        if said == BEGUN:
            self.begun = True
            self._begins()


def _end(lead: int) -> None:
    """No more payload; what comes up is still heard."""
    with socket.socket(fileno=os.dup(lead)) as line:
        line.shutdown(socket.SHUT_WR)

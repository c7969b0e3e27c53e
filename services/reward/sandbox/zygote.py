"""The warm interpreter: has imported what guests need, runs none of their code, and forks a child for each order.

    python -P -m services.reward.sandbox.zygote LINE JSON

LINE is the descriptor of a socket pair, over which orders come with the guest's descriptors and go news with a
pidfd, which unlike a number can never mean another process. JSON names the modules to import and the paths that
guests may read.

One thread, no event loop: a fork is safe at any moment. It never reads what passes through a guest's descriptors, so
that no guest inherits anything of another. It ends at the end of its line, and its guests with it.
"""

import gc
import importlib
import json
import os
import resource
import select
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import NoReturn

from services.reward.sandbox import guest, landlock
from services.reward.sandbox.confine import Confinement, readable_paths
from services.reward.sandbox.wire import DATAGRAM_BYTES, MOST_FDS, News, Order, pack

HIGH_UID = 40_000
"""One of those that guests become; only asked here whether that is allowed."""


@dataclass(frozen=True, slots=True)
class Child:
    order: Order
    pid: int


class Zygote:
    def __init__(self, line: socket.socket, confinement: Callable[[frozenset[str]], Confinement]) -> None:
        self._line = line
        self._confinement = confinement
        self._children: dict[int, Child] = {}
        self._poll = select.poll()
        self._poll.register(line, select.POLLIN)

    def serve(self) -> None:
        """Fork for every order, until nobody will give one any more."""
        while True:
            for fd, _ in self._poll.poll():
                if fd in self._children:
                    self._bury(fd)
                    continue
                data, fds, _, _ = socket.recv_fds(
                    self._line, DATAGRAM_BYTES, MOST_FDS, socket.MSG_CMSG_CLOEXEC
                )
                if not data:
                    return
                self._take(Order(**json.loads(data)), fds)

    def _take(self, order: Order, fds: list[int]) -> None:
        try:
            self._fork(order, fds)
        except Exception as error:  # noqa: BLE001 - told to whoever gave the order
            self._tell(News(order.id, "failed", detail=f"{type(error).__name__}: {error}"))
        finally:
            for fd in fds:
                os.close(fd)

    def _fork(self, order: Order, fds: list[int]) -> None:
        entry = _entry(order.entry)
        confinement = self._confinement(frozenset(order.without))
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            guest.live(order, entry, fds, confinement, parent)
        pidfd = os.pidfd_open(pid)
        self._children[pidfd] = Child(order, pid)
        self._poll.register(pidfd, select.POLLIN)
        self._tell(News(order.id, "started"), pidfd)

    def _bury(self, pidfd: int) -> None:
        """What is left of its session goes with it; only then its number becomes free."""
        child = self._children.pop(pidfd)
        self._poll.unregister(pidfd)
        os.close(pidfd)
        if "own session" not in child.order.without:
            with suppress(ProcessLookupError):  # it may have ended before it had one
                os.killpg(child.pid, signal.SIGKILL)
        _, status, used = os.wait4(child.pid, 0)
        self._tell(News(child.order.id, "ended", status=status, cpu_seconds=used.ru_utime + used.ru_stime))

    def _tell(self, news: News, *fds: int) -> None:
        socket.send_fds(self._line, [pack(news)], list(fds))


def _entry(name: str) -> guest.Entry:
    module, _, function = name.partition(":")
    entry: guest.Entry = getattr(sys.modules[module], function)
    return entry


def _can_change_user() -> bool:
    """Whether a child may become another user, and be killed as such. Found by one that tries."""
    ours, theirs = socket.socketpair()
    with ours:
        pid = os.fork()
        if pid == 0:
            ours.close()
            _change_user(theirs)
        theirs.close()
        changed = ours.recv(1) == b"y"
        try:
            os.kill(pid, signal.SIGKILL)
        except PermissionError:
            changed = False
    os.waitpid(pid, 0)
    return changed


def _change_user(line: socket.socket) -> NoReturn:
    """Say whether it goes, and stay until killed or left alone."""
    try:
        os.setgroups([])
        os.setresgid(HIGH_UID, HIGH_UID, HIGH_UID)
        os.setresuid(HIGH_UID, HIGH_UID, HIGH_UID)
        line.send(b"y")
    except OSError:
        line.send(b"n")
    finally:
        line.recv(1)
        os._exit(0)


def _allow_many_descriptors() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def main(line: socket.socket, preload: list[str], readable: list[str]) -> None:
    try:
        for module in preload:
            importlib.import_module(module)
        if len(os.listdir("/proc/self/task")) > 1:
            raise RuntimeError("preload: a module has started a thread; a process with threads must not fork")
        paths = readable_paths(readable)
        gc.collect()
        gc.freeze()  # guests share these pages as long as nobody touches them
        confinement = cache(lambda without: Confinement(paths, without))
        confinement(frozenset())
        facts = {"landlock": landlock.version(), "uids": int(_can_change_user())}
    except Exception:  # noqa: BLE001 - told to whoever started it
        line.send(pack(News(0, "broken", detail=traceback.format_exc()[-4000:])))
        return
    line.send(pack(News(0, "warm", facts=facts)))
    Zygote(line, confinement).serve()


if __name__ == "__main__":
    _allow_many_descriptors()
    _line = socket.socket(fileno=int(sys.argv[1]))
    _line.set_inheritable(False)
    main(_line, **json.loads(sys.argv[2]))

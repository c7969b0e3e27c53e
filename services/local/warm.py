"""A warm parent: has imported what services import, computes nothing, and forks a child for each that is to start.

    python -m services.local.warm MODULE...

Importing torch takes a hundred times as long as forking. A fork is only safe while there is one thread, so this
process has no other: no event loop, no pool, no first pass of a model. Orders come over a socket pair, one
datagram each with the child's file descriptors; it answers with process ids, and with exit codes as they come.
Its children die with it.
"""

import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

from events.notify import Notify
from services.local.process import die_with_parent

ORDER_BYTES = 256 * 1024
MOST_FDS = 3


@dataclass(frozen=True, slots=True)
class Order:
    """A child to be. Example: Order("services.train.app", {"NATS_URL": "…"}, log=7, listening=8, notify=9)."""

    module: str
    """Whose `main` it runs."""
    environment: dict[str, str]
    log: int
    listening: int | None
    notify: int | None

    @classmethod
    def receive(cls, line: socket.socket) -> "Order | None":
        """The next order; None when nobody will give one any more."""
        data, fds, _, _ = socket.recv_fds(line, ORDER_BYTES, MOST_FDS)
        if not data:
            return None
        said = json.loads(data)
        found = dict(zip(said["fds"], fds, strict=True))
        return cls(
            said["module"],
            said["environment"],
            log=found["log"],
            listening=found.get("listening"),
            notify=found.get("notify"),
        )

    def close(self) -> None:
        for fd in (self.log, self.listening, self.notify):
            if fd is not None:
                os.close(fd)


def serve(line: socket.socket) -> Order | None:
    """Fork for every order; returns the order in each child, None in the parent when there are no more."""
    ended, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)  # so that it wakes the pipe
    while True:
        ready, _, _ = select.select([line.fileno(), ended], [], [])
        if ended in ready:
            os.read(ended, 4096)
            _report(line)
        if line.fileno() in ready:
            order = Order.receive(line)
            if order is None or _fork(line, order):
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                os.close(ended)
                os.close(wake)
                return order


def _fork(line: socket.socket, order: Order) -> bool:
    """True in the child."""
    assert len(os.listdir("/proc/self/task")) == 1, "a process with threads must not fork"
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        line.close()
        os.setsid()
        die_with_parent()
        if os.getppid() != parent:
            os._exit(1)  # it died before it could be heard
        return True
    order.close()
    line.send(json.dumps({"pid": pid}).encode())
    return False


def _report(line: socket.socket) -> None:
    """Say which children have ended."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        line.send(json.dumps({"ended": pid, "code": os.waitstatus_to_exitcode(status)}).encode())


def become(order: Order) -> None:
    """Be the child that was ordered."""
    for number in (1, 2):
        os.dup2(order.log, number)
    os.close(order.log)
    os.environ.update(order.environment)
    for name, fd in (("REKINDLE_SOCKET_FD", order.listening), ("REKINDLE_NOTIFY_FD", order.notify)):
        if fd is not None:
            os.environ[name] = str(fd)
    sys.argv = [order.module]
    Path("/proc/self/comm").write_text(order.module[-15:])
    importlib.import_module(order.module).main()


def main() -> None:
    line = socket.socket(fileno=int(os.environ.pop("REKINDLE_SOCKET_FD")))
    notify = int(os.environ.pop("REKINDLE_NOTIFY_FD"))
    os.set_inheritable(line.fileno(), False)
    for module in sys.argv[1:]:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()  # children share these pages as long as nobody touches them
    Notify(notify).tell("ready")
    line.send(json.dumps({"warm": True}).encode())
    order = serve(line)
    os.close(notify)
    if order is not None:
        become(order)


if __name__ == "__main__":
    main()

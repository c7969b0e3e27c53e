"""The guest's process, from the fork to its end: moves its descriptors, confines itself, runs the entry.

Never returns. Ends without the warm interpreter's exit handlers; an uncaught exception is a traceback on standard
error and status 1, as in a script.
"""

import fcntl
import io
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from typing import BinaryIO, NoReturn

from services.reward.sandbox import libc
from services.reward.sandbox.confine import Confinement
from services.reward.sandbox.wire import SETTINGS, Order

OUT_OF_MEMORY = 121
"""Exit status after a MemoryError that nobody caught."""
BEGUN = b"b"
"""Sent up the lead when the confinement is complete: what ends before has not run the guest's code."""
REPORT, LEAD, FIRST_OWN = 3, 4, 5
CLOSE_RANGE, LAST_DESCRIPTOR = 436, 0xFFFFFFFF

Entry = Callable[[bytes, BinaryIO, list[int]], object]


def live(order: Order, entry: Entry, fds: Sequence[int], confinement: Confinement, parent: int) -> NoReturn:
    """Be the guest. `fds` in the order's sequence; `parent` is the warm interpreter's process id."""
    code = 1
    try:
        waiting = _streams(fds)
        confinement.apply(order, parent)
        own = _settle(waiting, close_others="closed descriptors" not in order.without)
        _environment(order)
        os.write(LEAD, BEGUN)
        code = _run(entry, own)
    except BaseException:  # noqa: BLE001 - the last edge of this process
        traceback.print_exc()
    finally:
        try:
            _flush()
        finally:
            os._exit(code)


def _run(entry: Entry, own: list[int]) -> int:
    try:
        payload = _everything(LEAD)
        os.close(LEAD)
        with open(REPORT, "wb", buffering=0) as report:
            entry(payload, report, own)
        return 0
    except SystemExit as leaving:
        return _status(leaving.code)
    except MemoryError:
        traceback.print_exc()
        return OUT_OF_MEMORY


def _status(code: object) -> int:
    """As the interpreter would exit."""
    if code is None or isinstance(code, int):
        return (code or 0) & 0xFF
    print(code, file=sys.stderr)  # noqa: T201 - what sys.exit("text") does
    return 1


def _everything(fd: int) -> bytes:
    parts = []
    while part := os.read(fd, 1 << 20):
        parts.append(part)
    return b"".join(parts)


def _streams(fds: Sequence[int]) -> list[int]:
    """Standard streams of its own, first of all, so that what goes wrong is heard; returns the other descriptors.

    They move out of the way of the places that they will have, not yet there: what the confinement needs is.
    """
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, len(fds)) for fd in fds]
    for place in range(REPORT):
        os.dup2(high[place], place, inheritable=False)
    _replace("stdin", io.TextIOWrapper(os.fdopen(0, "rb", closefd=False), encoding="utf-8"))
    for name, fd in (("stdout", 1), ("stderr", 2)):
        raw = os.fdopen(fd, "wb", closefd=False)
        _replace(name, io.TextIOWrapper(raw, encoding="utf-8", errors="backslashreplace"))
    return high[REPORT:]


def _replace(name: str, stream: io.TextIOWrapper) -> None:
    setattr(sys, name, stream)
    setattr(sys, f"__{name}__", stream)


def _settle(waiting: Sequence[int], close_others: bool) -> list[int]:
    """Put the descriptors where they belong; returns where the run's own ones are."""
    for place, fd in enumerate(waiting, start=REPORT):
        os.dup2(fd, place, inheritable=False)
    end = REPORT + len(waiting)
    if close_others:
        libc.syscall(CLOSE_RANGE, end, LAST_DESCRIPTOR, 0)
    return list(range(FIRST_OWN, end))


def _environment(order: Order) -> None:
    if "clean environment" not in order.without:
        os.environ.clear()
    os.environ.update(SETTINGS, HOME=order.scratch, TMPDIR=order.scratch, PATH="")
    tempfile.tempdir = order.scratch
    sys.argv = [""]


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):  # closed by the guest, or nobody reads any more
            continue

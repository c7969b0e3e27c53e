"""What the probe has a guest try, with one mechanism in force alone: every entry here does what it should not.

Each reports "yes" if it could, "no" if it was stopped; those that are to be killed need not report at all. Nothing
here does harm where it succeeds.
"""

import ctypes
import errno
import json
import mmap
import os
import platform
import resource
import signal
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

from services.reward.sandbox import libc
from services.reward.sandbox.syscalls import NUMBERS
from services.reward.sandbox.wire import SETTINGS

PR_GET_PDEATHSIG, PR_GET_DUMPABLE, PR_GET_NO_NEW_PRIVS = 2, 3, 39
PTRACE_TRACEME = 0
CLONE_NEWUTS = 0x04000000
MINE = {*SETTINGS, "HOME", "TMPDIR", "PATH"}
FOREVER = 60.0
REFUSALS = (errno.EPERM, errno.EACCES, errno.ENOMEM, errno.EFBIG, errno.EMFILE, errno.ENOSYS, errno.EAGAIN)


def nothing(payload: bytes, report: BinaryIO, fds: list[int]) -> None:
    """The honest one among them: what it takes is what the sandbox costs."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What to try, and with what. Example: Asked("open files limit", bytes=0, files=64, uid=0, namespaces={})."""

    name: str
    bytes: int
    """Above the limit in question."""
    files: int
    uid: int
    """The service's."""
    namespaces: dict[str, str]
    """The service's, by kind."""


def attempt(payload: bytes, report: BinaryIO, fds: list[int]) -> None:
    """Do what the payload names."""
    asked = Asked(**json.loads(payload))
    try:
        done = ATTEMPTS[asked.name](asked)
    except MemoryError:
        done = False
    except OSError as refused:
        if refused.errno not in REFUSALS:
            raise
        done = False
    report.write(b"yes" if done else b"no")


def _sleep(asked: Asked) -> bool:
    time.sleep(FOREVER)
    return True


def _have_no_cpu_limit(asked: Asked) -> bool:
    """Asked, not tried: a second of computing at every start would be too much."""
    return resource.getrlimit(resource.RLIMIT_CPU)[1] == resource.RLIM_INFINITY


def _map_much(asked: Asked) -> bool:
    mmap.mmap(-1, asked.bytes).close()
    return True


def _write_much(asked: Asked) -> bool:
    with open("much", "wb", buffering=0) as file:
        return file.write(bytes(asked.bytes)) == asked.bytes


def _open_many(asked: Asked) -> bool:
    for _ in range(asked.files):
        os.dup(0)
    return True


def _say_much(asked: Asked) -> bool:
    os.write(1, bytes(asked.bytes))
    time.sleep(FOREVER)
    return True


def _start_thread(asked: Asked) -> bool:
    try:
        threading.Thread(target=time.sleep, args=(FOREVER,), daemon=True).start()
    except RuntimeError:
        return False
    time.sleep(FOREVER)  # until somebody notices
    return True


def _have_priority(asked: Asked) -> bool:
    return os.getpriority(os.PRIO_PROCESS, 0) <= 0


def _share_session(asked: Asked) -> bool:
    return os.getsid(0) != os.getpid()


def _outlive(asked: Asked) -> bool:
    value = (ctypes.c_int * 1)(0)
    libc.syscall(NUMBERS["prctl"][_column()], PR_GET_PDEATHSIG, value)
    return value[0] != signal.SIGKILL


def _share_folder(asked: Asked) -> bool:
    return os.stat(".").st_mode & 0o777 != 0o700


def _see_environment(asked: Asked) -> bool:
    return bool(os.environ.keys() - MINE)


def _have_descriptors(asked: Asked) -> bool:
    for fd in range(5, 256):
        try:
            os.fstat(fd)
        except OSError:
            continue
        return True
    return False


def _have_report(asked: Asked) -> bool:
    return os.path.sameopenfile(1, 3)


def _gain_privileges(asked: Asked) -> bool:
    return libc.prctl(PR_GET_NO_NEW_PRIVS) == 0


def _be_dumpable(asked: Asked) -> bool:
    return libc.prctl(PR_GET_DUMPABLE) != 0


def _look_around(asked: Asked) -> bool:
    return bool(os.listdir("/"))


def _open_socket(asked: Asked) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM):
        return True


def _fork(asked: Asked) -> bool:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    return True


def _signal_parent(asked: Asked) -> bool:
    os.kill(os.getppid(), 0)
    return True


def _trace(asked: Asked) -> bool:
    libc.syscall(NUMBERS["ptrace"][_column()], PTRACE_TRACEME, 0, 0, 0)
    return True


def _change_mode(asked: Asked) -> bool:
    os.mkdir("folder", 0o700)
    os.chmod("folder", 0o750)
    return os.stat("folder").st_mode & 0o777 == 0o750


def _unshare(asked: Asked) -> bool:
    libc.syscall(NUMBERS["unshare"][_column()], CLONE_NEWUTS)
    return True


def _listen(asked: Asked) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listening:
        listening.bind(("127.0.0.1", 0))
        return True


def _be_the_service(asked: Asked) -> bool:
    return os.getuid() == asked.uid


def _share_namespaces(asked: Asked) -> bool:
    return any(own == os.readlink(f"/proc/self/ns/{kind}") for kind, own in asked.namespaces.items())


def _column() -> int:
    return 0 if platform.machine() == "x86_64" else 1


ATTEMPTS: dict[str, Callable[[Asked], bool]] = {
    "wall clock": _sleep,
    "cpu limit": _have_no_cpu_limit,
    "memory limit": _map_much,
    "file size limit": _write_much,
    "open files limit": _open_many,
    "output limit": _say_much,
    "thread limit": _start_thread,
    "priority": _have_priority,
    "own session": _share_session,
    "death with parent": _outlive,
    "private scratch": _share_folder,
    "clean environment": _see_environment,
    "closed descriptors": _have_descriptors,
    "report pipe": _have_report,
    "no new privileges": _gain_privileges,
    "not dumpable": _be_dumpable,
    "landlock filesystem": _look_around,
    "seccomp network": _open_socket,
    "seccomp processes": _fork,
    "seccomp signals": _signal_parent,
    "seccomp tracing": _trace,
    "seccomp metadata": _change_mode,
    "seccomp kernel surface": _unshare,
    "landlock network": _listen,
    "landlock scope": _signal_parent,
    "uid drop": _be_the_service,
    "namespaces": _share_namespaces,
}

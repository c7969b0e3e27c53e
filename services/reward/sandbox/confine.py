"""Confinement of the process that is about to run a guest's code: from here on it can do little, and never more.

Everything that does not depend on the guest is made ready once, in the warm interpreter. The order of the steps
matters: what needs privileges comes first, and the filter that takes the last system calls away comes last.
"""

import ctypes
import math
import os
import resource
import signal
import stat
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

from services.reward.sandbox import landlock, libc, rules, seccomp
from services.reward.sandbox.wire import Order

NICENESS = 5
CAPABILITY_VERSION = 0x20080522
CAP_DAC_READ_SEARCH = 2
CAPSET = {"x86_64": 126, "aarch64": 91}
SYSTEM_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib")
SYSTEM_FILES = (
    "/etc/ld.so.cache",
    "/usr/share/zoneinfo",
    "/dev/zero",
    "/dev/urandom",
    "/dev/random",
)


def readable_paths(more: Sequence[str] = ()) -> list[str]:
    """What a guest may read: standard library, installed packages, shared libraries. Not where our code lies."""
    python = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    packages = [path for path in sys.path if path.endswith(("/site-packages", "/dist-packages"))]
    native = [str(Path(sys.base_prefix, "lib")), *(path for path in sys.path if path.endswith("lib-dynload"))]
    wanted = {*python, *packages, *native, *SYSTEM_LIBRARIES, *SYSTEM_FILES, *more}
    return sorted(path for path in wanted if os.path.exists(path))


class Confinement:
    """All of it but the mechanisms named in `without`."""

    def __init__(self, paths: Sequence[str], without: frozenset[str] = frozenset()) -> None:
        self._without = without
        self._landlock = landlock.Landlock.known(
            filesystem=self._has("landlock filesystem"),
            network=self._has("landlock network"),
            scope=self._has("landlock scope"),
        )
        self._paths = {os.open(path, os.O_PATH | os.O_CLOEXEC): landlock.READ for path in paths}
        null = os.open(os.devnull, os.O_PATH | os.O_CLOEXEC)
        self._paths[null] = landlock.READ_FILE | landlock.WRITE_FILE | landlock.TRUNCATE
        self._filters = {threads: self._filter(threads) for threads in (False, True)}
        self._keeps_reading = not all(map(_open_to_all, paths))
        self._base_bytes = _address_space()

    def _has(self, name: str) -> bool:
        return name not in self._without

    def _filter(self, threads: bool) -> seccomp.Filter | None:
        if rules.GROUPS.keys() <= self._without:
            return None
        return seccomp.Filter(*rules.verdicts(self._without, threads))

    def apply(self, order: Order, parent: int) -> None:
        """To this process, for good. `parent` is the process that must outlive it. Raises OSError."""
        if self._has("own session"):
            os.setsid()
        if self._has("memory limit"):
            Path("/proc/self/oom_score_adj").write_text(
                "1000"
            )  # the machine's last resort takes guests first
        if order.uid is not None and self._has("uid drop"):
            self._become(order.uid)
        if self._has("death with parent"):
            libc.prctl(libc.PR_SET_PDEATHSIG, signal.SIGKILL)  # a change of user takes it away
            if os.getppid() != parent:
                os._exit(1)
        os.chdir(order.scratch)
        os.umask(0o077)
        self._limit(order)
        if self._has("not dumpable"):
            libc.prctl(libc.PR_SET_DUMPABLE, 0)
        if self._has("no new privileges"):
            libc.prctl(libc.PR_SET_NO_NEW_PRIVS, 1)
        self._restrict_paths(order.scratch)
        if self._has("open files limit"):  # only now: the steps before need some
            _bound(resource.RLIMIT_NOFILE, order.open_files)
        if self._has("priority"):
            os.nice(NICENESS)
        chosen = self._filters[order.threads > 0]
        if chosen is not None:
            chosen.install(os.getpid())

    def _become(self, uid: int) -> None:
        """Another user, with no privileges but, where the interpreter is closed to others, that of reading.

        Landlock still says what may be read.
        """
        if self._keeps_reading:
            libc.prctl(libc.PR_SET_KEEPCAPS, 1)
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        if self._keeps_reading:
            header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0)
            kept = 1 << CAP_DAC_READ_SEARCH
            sets = (ctypes.c_uint32 * 6)(kept, kept, 0, 0, 0, 0)
            libc.syscall(CAPSET[os.uname().machine], header, sets)

    def _limit(self, order: Order) -> None:
        limits = [(resource.RLIMIT_CORE, 0), (resource.RLIMIT_MEMLOCK, 0), (resource.RLIMIT_MSGQUEUE, 0)]
        if self._has("memory limit"):
            limits.append((resource.RLIMIT_AS, self._base_bytes + order.memory_bytes))
        if self._has("cpu limit"):
            limits.append((resource.RLIMIT_CPU, math.ceil(order.cpu_seconds)))
        if self._has("file size limit"):
            limits.append((resource.RLIMIT_FSIZE, order.file_bytes))
        if self._has("thread limit") and (order.threads == 0 or order.uid is not None):
            # counted by user: with threads it means something only for a user who is nobody else
            limits.append((resource.RLIMIT_NPROC, order.threads and order.threads + 1))
        for kind, most in limits:
            _bound(kind, most)

    def _restrict_paths(self, scratch: str) -> None:
        own = os.open(scratch, os.O_PATH | os.O_CLOEXEC)
        self._landlock.restrict({**self._paths, own: landlock.READ_WRITE})
        os.close(own)


def _be_taken_first() -> None:
    """When the machine's memory ends, by the kernel."""
    score = os.open("/proc/self/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
    os.write(score, b"1000")
    os.close(score)


def _bound(kind: int, most: int) -> None:
    """For good; where there is a lower bound already, to that."""
    _, hard = resource.getrlimit(kind)
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(kind, (most, most))


def _open_to_all(path: str) -> bool:
    """Whether any user may read there, from the root folder on."""
    real = Path(path).resolve()
    passable = all(parent.stat().st_mode & stat.S_IXOTH for parent in real.parents)
    return passable and bool(real.stat().st_mode & stat.S_IROTH)


def _address_space() -> int:
    """Bytes that this process has mapped."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()

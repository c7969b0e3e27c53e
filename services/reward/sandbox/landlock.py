"""Landlock without a library: which files a process may still reach, and that it opens no TCP connection.

Needs no privileges beside `no_new_privs`. What it does not govern: looking whether a path exists (stat), modes,
owners and times, UDP; `rules` of the filter see to those that matter.

Source: landlock(7), include/uapi/linux/landlock.h.
"""

import ctypes
import errno
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass

from services.reward.sandbox import libc

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
GET_VERSION = 1
RULE_PATH_BENEATH = 1

WRITE_FILE, READ_FILE, READ_DIR = 1 << 1, 1 << 2, 1 << 3
REMOVE_DIR, REMOVE_FILE, MAKE_DIR, MAKE_REG, MAKE_SYM = 1 << 4, 1 << 5, 1 << 7, 1 << 8, 1 << 12
REFER, TRUNCATE = 1 << 13, 1 << 14
READ = READ_FILE | READ_DIR
READ_WRITE = READ | WRITE_FILE | REMOVE_DIR | REMOVE_FILE | MAKE_DIR | MAKE_REG | MAKE_SYM | REFER | TRUNCATE
OF_FILES = WRITE_FILE | READ_FILE | TRUNCATE
"""Rights that can be given for what is no folder."""
FILESYSTEM_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
"""All that a version of the interface knows, from that version on. Execution is among them, and given nowhere."""
TCP = 0b11
"""bind and connect."""
SCOPES = 0b11
"""Abstract sockets and signals reach only processes that are confined alike."""


def version() -> int:
    """Of the interface; 0 where there is no Landlock."""
    try:
        return libc.syscall(CREATE_RULESET, None, 0, GET_VERSION)
    except OSError as missing:
        if missing.errno in (errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM):
            return 0
        raise


@dataclass(frozen=True, slots=True)
class Landlock:
    """A restriction to come. Example: Landlock.known(filesystem=True, network=True, scope=False)."""

    filesystem: int
    network: int
    scope: int

    @classmethod
    def known(cls, *, filesystem: bool, network: bool, scope: bool) -> "Landlock":
        """As much of what is wanted as this kernel knows."""
        have = version()
        rights = max((mask for since, mask in FILESYSTEM_RIGHTS.items() if since <= have), default=0)
        return cls(rights * filesystem, TCP * (network and have >= 4), SCOPES * (scope and have >= 6))

    def restrict(self, paths: Mapping[int, int]) -> None:
        """This thread and all that it starts, for good. `paths`: descriptor (O_PATH) → rights. Raises OSError."""
        if not (self.filesystem or self.network or self.scope):
            return
        wanted = _Ruleset(self.filesystem, self.network, self.scope)
        size = 24 if self.scope else 16 if self.network else 8  # older kernels refuse what they do not know
        ruleset = libc.syscall(CREATE_RULESET, ctypes.byref(wanted), size, 0)
        if self.filesystem:
            for path, rights in paths.items():
                self._allow(ruleset, path, rights)
        libc.syscall(RESTRICT_SELF, ruleset, 0)
        os.close(ruleset)

    def _allow(self, ruleset: int, path: int, rights: int) -> None:
        if not stat.S_ISDIR(os.fstat(path).st_mode):
            rights &= OF_FILES
        rule = _PathBeneath(rights & self.filesystem, path)
        libc.syscall(ADD_RULE, ruleset, RULE_PATH_BENEATH, ctypes.byref(rule), 0)


class _Ruleset(ctypes.Structure):
    _fields_ = (("filesystem", ctypes.c_uint64), ("network", ctypes.c_uint64), ("scope", ctypes.c_uint64))


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("rights", ctypes.c_uint64), ("path", ctypes.c_int32))

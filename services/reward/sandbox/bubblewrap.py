"""Bubblewrap: namespaces of its own for the warm interpreter, where the machine allows them.

The guests' view of the machine is then an empty one: other processes, network and files are not forbidden but absent.
An ordinary pod does not allow it. As root it keeps the few privileges that the change of user needs.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence

from services.reward.sandbox.confine import readable_paths

TRY_SECONDS = 30
KEPT_BY_ROOT = ("CAP_SETUID", "CAP_SETGID", "CAP_KILL", "CAP_SYS_NICE", "CAP_DAC_READ_SEARCH")


def command(scratch: str, readable: Sequence[str]) -> list[str]:
    """What runs a Python program of ours in namespaces; empty if that cannot be done here, found by trying."""
    program = shutil.which("bwrap")
    if program is None:
        return []
    wrapper = [program, *_namespaces(), *_mounts(scratch, readable), "--"]
    try:
        trial = subprocess.run(
            [*wrapper, sys.executable, "-S", "-c", "pass"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=TRY_SECONDS,
            env={},
        )
    except (subprocess.TimeoutExpired, OSError):
        return []
    return wrapper if trial.returncode == 0 else []


def _namespaces() -> list[str]:
    if os.geteuid() != 0:
        return ["--unshare-all", "--die-with-parent"]
    kept = [word for name in KEPT_BY_ROOT for word in ("--cap-add", name)]
    return ["--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", *kept, "--die-with-parent"]


def _mounts(scratch: str, readable: Sequence[str]) -> list[str]:
    code = [path for path in sys.path if os.path.isdir(path)]
    python = [sys.prefix, sys.base_prefix, os.path.dirname(os.path.realpath(sys.executable))]
    paths = {path for path in (*readable_paths(readable), *python, *code) if not path.startswith("/dev/")}
    seen = [word for path in sorted(paths) for word in ("--ro-bind", path, path)]
    return [*seen, "--dev", "/dev", "--proc", "/proc", "--bind", scratch, scratch]

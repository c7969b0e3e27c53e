"""A reader of files that its file has taken over does not find its parent's keys."""

import os
import subprocess
import sys

import pytest

from services.data import jail

PROGRAM = """
import ctypes, os, sys
from services.data.jail import shield
if os.getuid() == 0:
    os.setresuid(65534, 65534, 65534)
ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)
{shield}
if (child := os.fork()) == 0:
    try:
        open(f"/proc/{{os.getppid()}}/environ").read()
    except PermissionError:
        os._exit(3)
    os._exit(0)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="there is no /proc")
@pytest.mark.parametrize(("shield", "code"), [("", 0), ("shield()", 3)])
def test_no_other_process_of_the_user_reads_the_variables_of_one_that_is_shielded(
    shield: str, code: int
) -> None:
    paths = os.pathsep.join([str(jail.ROOT), str(jail.ROOT / "sdk")])
    program = [sys.executable, "-c", PROGRAM.format(shield=shield)]
    assert subprocess.run(program, env=os.environ | {"PYTHONPATH": paths}, timeout=60).returncode == code

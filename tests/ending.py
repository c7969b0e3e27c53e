"""Ends a process without the interpreter's own end.

The tinker SDK keeps an event loop in a daemon thread and never stops it. A thread that takes the interpreter's lock
while CPython ends is unwound, and where torch is loaded that aborts one process in twenty, after all its work is
done: the exit status then says nothing about the work.

As a program, `python -P tests/ending.py MODULE ARGUMENT...` runs a module this way.
"""

import os
import runpy
import sys
import traceback
from typing import NoReturn


def leave(status: int) -> NoReturn:
    """End now, with what was printed written out."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def run(module: str) -> int:
    """Run a module as the main program; its exit status."""
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if isinstance(end.code, str):
            sys.stderr.write(f"{end.code}\n")  # as the interpreter does
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001  # reported as the interpreter would
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    del sys.argv[0]
    leave(run(sys.argv[0]))

"""A process ends when its parent does, however that ends.

A parent that is killed cannot tell its children, and vLLM's engine process would wait for it for ever with the
whole model in memory. Knows nothing of vLLM. Where the system has no file descriptors of processes (they are
Linux's), nothing happens.
"""

import os
import select
import signal
import threading


def end_with_parent() -> None:
    """From now on, end this process when its parent has ended."""
    if hasattr(os, "pidfd_open"):
        parent = os.pidfd_open(os.getppid())
        threading.Thread(target=_end_after, args=(parent,), name="end-with-parent", daemon=True).start()


def _end_after(parent: int) -> None:
    select.select([parent], [], [])
    os.kill(os.getpid(), signal.SIGKILL)

"""What vLLM's worker process is given beyond its own: it ends when its parent does.

A parent that is killed cannot tell its children, and vLLM's engine process would wait for it for ever with the
whole model in memory. vLLM mixes this class into its worker, which on one device lives in the engine process.
"""

import multiprocessing
import os
import signal
import threading


class EndsWithParent:
    """Methods for `AsyncLLM.collective_rpc`."""

    def end_with_parent(self) -> None:
        """From now on, end this process when its parent has ended."""
        threading.Thread(target=_end_after_parent, name="end-with-parent", daemon=True).start()


def _end_after_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "vLLM starts its processes by multiprocessing"
    parent.join()
    os.kill(os.getpid(), signal.SIGKILL)

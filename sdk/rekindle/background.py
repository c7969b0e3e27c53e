"""One event loop in a thread of its own, shared by all clients of a process.

Work handed in from one thread starts in the order in which it was handed in. The thread is a daemon and ends
with the process; a forked child gets a thread of its own.
"""

import asyncio
import atexit
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


class Background:
    """A running loop and its thread."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="rekindle", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()
        for task in (tasks := asyncio.all_tasks(self.loop)):
            task.cancel()
        self.loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()

    @property
    def is_current_thread(self) -> bool:
        return threading.current_thread() is self._thread

    def stop(self) -> None:
        """Cancel what runs and wait for the thread to end."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(timeout=5.0)


_lock = threading.Lock()
_shared: Background | None = None


def shared() -> Background:
    """The loop of this process, started on first need."""
    global _shared
    with _lock:
        if _shared is None:
            _shared = Background()
        return _shared


def start(work: Coroutine[Any, Any, T]) -> Future[T]:
    """Start `work` on the shared loop; callable from any thread."""
    return asyncio.run_coroutine_threadsafe(work, shared().loop)


async def in_thread(call: Callable[[], T]) -> T:
    """The result of a call that may block for ever, as reading a pipe does: the process ends without it."""
    done: Future[T] = Future()
    done.set_running_or_notify_cancel()  # whoever waits can be cancelled, the call cannot

    def run() -> None:
        try:
            result = call()
        except BaseException as error:  # noqa: BLE001  # whoever waits gets it
            # A SystemExit would end the loop, on which others wait.
            ordinary = isinstance(error, Exception)
            done.set_exception(error if ordinary else RuntimeError(f"{type(error).__name__}: {error}"))
        else:
            done.set_result(result)

    threading.Thread(target=run, name="rekindle-work", daemon=True).start()
    return await asyncio.wrap_future(done)


def _forget() -> None:
    """In a forked child: the thread did not come along."""
    global _shared, _lock
    _lock, _shared = threading.Lock(), None


def _stop() -> None:
    if _shared is not None:
        _shared.stop()


if hasattr(os, "register_at_fork"):  # not where there is no fork
    os.register_at_fork(after_in_child=_forget)
atexit.register(_stop)

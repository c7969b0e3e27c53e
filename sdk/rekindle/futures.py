"""`Future`: what every call returns at once.

The command behind it is submitted whether or not anybody waits. A future can be waited for in two ways, in any
thread and any asyncio loop, as often as one likes: `future.result()` blocks, `await future` does not. To give
up waiting (a timeout, `cancel()`, a cancelled task) never takes back a command that was submitted.
"""

import asyncio
import concurrent.futures
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from rekindle import background

State = Literal["submitting", "active", "paused_capacity", "paused_rate_limit", "done"]
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


@dataclass(slots=True)
class Progress:
    """How far a command has come; written by the one who waits for it."""

    request_id: str | None = None
    state: State = "submitting"
    reason: str | None = None


class Future(Generic[T_co]):
    """The result of a call, now or later. Example: `training.optim_step(AdamParams()).result(60)`."""

    def __init__(self, waiting: "concurrent.futures.Future[T_co]", progress: Progress) -> None:
        self._waiting = waiting
        self._progress = progress

    def result(self, timeout: float | None = None) -> T_co:
        """Block until the result is there; at most `timeout` seconds, for ever if None.

        Raises:
            TimeoutError: not ready in time; ask again whenever you like.
            RekindleError: the call failed, see `rekindle.errors`.
        """
        self._check_thread()
        return self._waiting.result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Block until it is done; the error, or None for a success."""
        self._check_thread()
        return self._waiting.exception(timeout)

    def _check_thread(self) -> None:
        if background.shared().is_current_thread and not self.done():
            raise RuntimeError("to block here would block the loop that is to make the result; use await")

    def __await__(self) -> Generator[Any, None, T_co]:
        return shielded(self._waiting).__await__()

    def done(self) -> bool:
        """Whether there is a result, an error or a cancellation."""
        return self._waiting.done()

    def cancel(self) -> bool:
        """Stop waiting for the result. The command itself is not taken back. False: it is done already."""
        return self._waiting.cancel()

    def cancelled(self) -> bool:
        """Whether somebody cancelled it."""
        return self._waiting.cancelled()

    def add_done_callback(self, call: Callable[["Future[Any]"], object]) -> None:
        """Call `call(self)`, which must not block: in the background thread once it is done, or here if it is."""
        self._waiting.add_done_callback(lambda _: call(self))

    @property
    def request_id(self) -> str | None:
        """The server's name of this command; None until it was accepted, and where there is none."""
        return self._progress.request_id

    @property
    def state(self) -> State:
        """`submitting`, then `active` or `paused_…` as the server says, then `done`."""
        return "done" if self.done() else self._progress.state

    @property
    def state_reason(self) -> str | None:
        """Why it is paused, in the server's words."""
        return None if self.done() else self._progress.reason

    def __repr__(self) -> str:
        name = f" {self.request_id}" if self.request_id else ""
        if not self.done() or self.cancelled():
            return f"<Future{name} {'cancelled' if self.cancelled() else self.state}>"
        error = self._waiting.exception()
        said = "done" if error is None else f"failed: {error!r}"
        return f"<Future{name} {said}>"


def finished(value: T) -> Future[T]:
    """A future that has its result already."""
    waiting: concurrent.futures.Future[T] = concurrent.futures.Future()
    waiting.set_result(value)
    return Future(waiting, Progress())


def shielded(waiting: "concurrent.futures.Future[T]") -> "asyncio.Future[T]":
    """To be awaited: a caller that is cancelled stops waiting, while others may still wait."""
    inner = asyncio.wrap_future(waiting)
    # The shield forgets the inner future when it is cancelled; its error is nobody's then, and not a warning.
    inner.add_done_callback(lambda done: done.cancelled() or done.exception())
    return asyncio.shield(inner)

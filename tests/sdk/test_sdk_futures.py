"""Futures: blocking and awaited, in any loop, by many; giving up takes nothing back."""

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from rekindle import RekindleError, background
from rekindle.futures import Future, Progress, finished


def future(work: Callable[[Progress], Coroutine[Any, Any, Any]]) -> Future[Any]:
    progress = Progress()
    return Future(background.start(work(progress)), progress)


async def soon(_: Progress) -> int:
    await asyncio.sleep(0)
    return 3


async def fail(_: Progress) -> int:
    raise RekindleError("no")


class Gate:
    """Work that ends when it is let."""

    def __init__(self) -> None:
        self._open = threading.Event()

    def open(self) -> None:
        self._open.set()

    async def work(self, progress: Progress) -> str:
        progress.request_id, progress.state, progress.reason = "r1", "paused_capacity", "no GPU yet"
        await asyncio.to_thread(self._open.wait, 10)
        return "through"


@pytest.fixture
def gate() -> Any:
    made = Gate()
    yield made
    made.open()


def test_a_result_can_be_had_by_blocking_and_by_awaiting_as_often_as_one_likes() -> None:
    made = future(soon)

    async def both() -> list[int]:
        return await asyncio.gather(made, made)

    assert made.result(5) == made.result() == 3
    assert asyncio.run(both()) == [3, 3] == asyncio.run(both())
    assert made.done() and made.state == "done" and made.exception() is None


def test_an_error_comes_out_of_every_way_of_waiting() -> None:
    made = future(fail)
    with pytest.raises(RekindleError, match="no"):
        made.result(5)
    with pytest.raises(RekindleError, match="no"):
        asyncio.run(asyncio.wait_for(made, 5))
    assert isinstance(made.exception(), RekindleError) and "RekindleError" in repr(made)


def test_a_timeout_of_one_who_waits_leaves_the_future_to_others(gate: Gate) -> None:
    made = future(gate.work)
    with pytest.raises(TimeoutError):
        made.result(0.01)
    with pytest.raises(TimeoutError):
        asyncio.run(asyncio.wait_for(made, 0.01))
    assert not made.done()
    assert (made.request_id, made.state, made.state_reason) == ("r1", "paused_capacity", "no GPU yet")
    assert "r1" in repr(made) and "paused_capacity" in repr(made)
    gate.open()
    assert made.result(5) == "through" and made.state_reason is None


def test_a_cancelled_future_raises_and_is_done(gate: Gate) -> None:
    made = future(gate.work)
    assert made.cancel() and made.cancelled() and made.done()
    with pytest.raises(concurrent.futures.CancelledError):
        made.result(5)


def test_a_callback_is_called_with_the_future() -> None:
    seen: concurrent.futures.Future[Any] = concurrent.futures.Future()
    made = future(soon)
    made.add_done_callback(seen.set_result)
    assert seen.result(5) is made


def test_blocking_in_the_background_thread_is_refused(gate: Gate) -> None:
    waiting = future(gate.work)

    async def block(wait: Callable[[], object]) -> None:
        wait()

    for way in (waiting.result, waiting.exception):
        with pytest.raises(RuntimeError, match="use await"):
            future(lambda _, way=way: block(way)).result(5)


def test_work_starts_in_the_order_in_which_it_was_handed_in() -> None:
    order: list[int] = []

    async def note(number: int) -> None:
        order.append(number)

    last = [background.start(note(number)) for number in range(100)][-1]
    last.result(5)
    assert order == list(range(100))


def test_a_finished_future_is_done_from_the_start() -> None:
    assert finished("now").result(0) == "now"

"""A replica works while it is activated: what opens it, what closes it, and who is told."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from events import activity
from events.activity import Activity, Calm
from events.tasks import end


def never() -> "asyncio.Future[None]":
    return asyncio.get_running_loop().create_future()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110  # nobody tells
            await asyncio.sleep(0.005)


def activated(linger: float = 0.05) -> Activity:
    """A ready replica that needs activations."""
    found = Activity(always=False, linger=linger)
    found.ready.set()
    return found


async def soon(awaitable: Awaitable[object]) -> object:
    async with asyncio.timeout(20):
        return await awaitable


async def test_calm_lasts_from_the_end_of_the_last_thing() -> None:
    calm = Calm()
    calm.begin()
    waiting = asyncio.create_task(calm.lasts(0.1))
    calm.begin()
    calm.end()
    await asyncio.sleep(0)
    assert calm.count == 1 and not waiting.done()
    began = asyncio.get_running_loop().time()
    calm.end()
    await soon(waiting)
    assert asyncio.get_running_loop().time() - began >= 0.099


async def test_without_a_dispatcher_a_replica_is_always_open() -> None:
    one = Activity()
    await soon(one.until_open())
    assert one.open
    await one.drain(1.0)
    assert not one.open


async def test_a_replica_is_open_while_an_activation_is() -> None:
    one = activated()
    assert not one.open
    seen: list[bool] = []
    one.on_change(lambda: seen.append(one.open))
    assert await soon(one.hold(60.0, never())) == "idle"
    assert seen == [True, False] and not one.open


async def test_an_activation_lasts_as_long_as_there_is_work() -> None:
    one = activated()
    holding = [asyncio.create_task(one.hold(60.0, never())) for _ in range(3)]
    await until(lambda: one.activations == 3)
    one.begin()
    await asyncio.sleep(0.2)  # more than the linger
    assert one.open and not any(task.done() for task in holding)
    one.end()
    assert await soon(asyncio.gather(*holding)) == ["idle"] * 3


async def test_a_replica_that_is_not_ready_is_not_idle() -> None:
    one = Activity(always=False, linger=0.0)
    holding = asyncio.create_task(one.hold(60.0, never()))
    await asyncio.sleep(0.1)
    assert not holding.done()
    one.ready.set()
    assert await soon(holding) == "idle"


async def test_at_its_deadline_an_activation_ends_and_the_replica_goes_on_for_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(activity, "KEPT_SECONDS", 0.3)
    one = activated()
    one.begin()
    assert await soon(one.hold(0.05, never())) == "deadline"
    assert one.open and one.activations == 0, "the next activation finds it as it was"
    holding = asyncio.create_task(one.hold(0.5, never()))
    await until(lambda: one.activations == 1)
    await asyncio.sleep(0.35)
    assert one.open
    await soon(holding)
    await until(lambda: not one.open)
    one.end()


async def test_an_activation_that_breaks_off_in_mid_work_hands_over_after_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(activity, "KEPT_SECONDS", 0.2)
    one, gone, handed = activated(), asyncio.Event(), asyncio.Event()

    async def hand_over() -> None:
        assert not one.open and one.work.count == 0
        handed.set()

    one.hand_over = hand_over
    holding = asyncio.create_task(one.hold(60.0, gone.wait()))
    await until(lambda: one.activations == 1)
    one.begin()
    gone.set()
    assert await soon(holding) == "gone" and one.open
    await until(lambda: not one.open)
    assert not handed.is_set(), "the command in hand is finished first"
    one.end()
    await soon(handed.wait())


async def test_a_cancelled_request_counts_as_broken_off() -> None:
    one = activated()
    holding = asyncio.create_task(one.hold(60.0, never()))
    await until(lambda: one.activations == 1)
    one.begin()
    await end(holding)
    assert one.activations == 0 and one.open
    one.end()


async def test_an_idle_replica_gives_back_what_it_holds_before_it_answers() -> None:
    one, order = activated(), []

    async def hand_over() -> None:
        order.append("given back")

    one.hand_over = hand_over
    await soon(one.hold(60.0, never()))
    assert order == ["given back"]


async def test_draining_finishes_what_is_in_hand_then_answers() -> None:
    one = activated()
    holding = asyncio.create_task(one.hold(60.0, never()))
    await until(lambda: one.open)
    one.begin()
    draining = asyncio.create_task(one.drain(5.0))
    await until(lambda: one.draining)
    await asyncio.sleep(0.05)
    assert not one.open and not holding.done() and not draining.done()
    one.end()
    assert await soon(holding) == "draining"
    await soon(draining)


async def test_draining_waits_no_longer_than_it_was_told() -> None:
    one = activated()
    one.begin()
    await soon(one.drain(0.05))
    assert not one.open
    one.end()


async def test_presence_counts_work_and_activations() -> None:
    one = activated()
    quiet = asyncio.create_task(one.presence.lasts(0.1))
    one.begin()
    holding = asyncio.create_task(one.hold(60.0, never()))
    await asyncio.sleep(0.2)
    assert not quiet.done() and not holding.done()
    one.end()
    await soon(quiet)
    assert holding.done()

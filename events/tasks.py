"""Tasks: several as one, and ending them for good."""

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

T = TypeVar("T")


async def together(*work: Awaitable[T]) -> list[T]:
    """What each comes to, in their order. The first error ends the others, and is raised as it is: in a group of
    errors, nobody would know it for what it says."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        await end(*tasks)


async def end(*tasks: "asyncio.Future[Any]", patience: float = 1.0) -> None:
    """Cancel tasks and wait until they have ended, however they do.

    `asyncio.wait_for` of Python 3.11, which nats-py uses, swallows a cancellation that arrives together with
    its result; so one that has no effect for `patience` seconds, longer than any clean-up, is repeated.
    """
    while alive := [task for task in tasks if not task.done()]:
        for task in alive:
            task.cancel()
        await asyncio.wait(alive, timeout=patience)
    for task in tasks:
        if not task.cancelled():
            task.exception()  # seen: nobody need be told of an error on the way out

"""Ending tasks for good."""

import asyncio
from typing import Any


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

"""One sandbox for all tests of a module."""

from collections.abc import AsyncIterator

import pytest_asyncio

from services.reward.code.place import GUESTS
from services.reward.sandbox import Sandbox


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(GUESTS) as entered:
        yield entered

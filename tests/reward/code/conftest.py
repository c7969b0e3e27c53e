"""One sandbox for all tests of a module, and short pauses between attempts."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from services.reward import runner
from services.reward.code.place import GUESTS
from services.reward.sandbox import Sandbox


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(GUESTS) as entered:
        yield entered


@pytest.fixture(autouse=True)
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "BACKOFF", 0.01)

"""The GPUs of all nodes: a pod that asks for some holds them from its scheduling until its process is gone."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

GPU = "nvidia.com/gpu"
NONE_FREE = f"0/1 nodes are available: 1 Insufficient {GPU}."


class Gpus:
    """So many, and whoever waits for one."""

    def __init__(self, count: int) -> None:
        self.free = count
        self._changed = asyncio.Condition()

    @contextlib.asynccontextmanager
    async def held(self, count: int) -> AsyncIterator[None]:
        """Hold so many while the block lasts, once they are free."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.free >= count)
            self.free -= count
        try:
            yield
        finally:
            await self.add(count)

    async def add(self, count: int) -> None:
        """So many more are free."""
        self.free += count
        async with self._changed:
            self._changed.notify_all()


def asked_for(revision: dict[str, Any]) -> int:
    """By each pod of a revision."""
    limits = (one.get("resources", {}).get("limits", {}) for one in revision["spec"].get("containers", []))
    return sum(int(limit.get(GPU, 0)) for limit in limits)

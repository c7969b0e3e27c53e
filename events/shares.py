"""How a worker's budget is divided among tenants: whoever has the least in hand comes next.

What is divided is the budget itself, which is what commands hold while they run: a tenant of slow commands gets no more
of a worker than one of quick ones, and one that is alone gets all of it. Nothing is remembered but who came last.
"""

import asyncio
import contextlib
import heapq
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field


@dataclass(eq=False, slots=True)
class _Waiting:
    tenant: str
    cost: int
    admitted: "asyncio.Future[None]" = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


class Room:
    """A budget, what of it is used, and who waits for some. Example: `async with room.place("local", 3): ...`."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._held: Counter[str] = Counter()
        self._last: dict[str, int] = {}
        """When a tenant was last admitted, counted in admissions."""
        self._admissions = 0
        self._waiting: list[_Waiting] = []

    @property
    def left(self) -> int:
        """What of the budget nobody uses; negative while something dearer than all of it runs."""
        return self._budget - self._held.total()

    @contextlib.asynccontextmanager
    async def place(self, tenant: str, cost: int) -> AsyncIterator[None]:
        """Hold `cost` of the budget once it is there and no tenant with less in hand waits; what is dearer than
        all of it is held alone."""
        mine = _Waiting(tenant, cost)
        self._waiting.append(mine)
        self._admit()
        try:
            await mine.admitted
            yield
        finally:
            if mine in self._waiting:
                self._waiting.remove(mine)
            else:
                self._held[tenant] -= cost
            self._admit()

    def _admit(self) -> None:
        while self._waiting:
            first = min(self._waiting, key=lambda one: self._rank(one.tenant))
            if self._held.total() and first.cost > self.left:
                return
            self._waiting.remove(first)
            self._held[first.tenant] += first.cost
            self._admissions += 1
            self._last[first.tenant] = self._admissions
            if not first.admitted.done():
                first.admitted.set_result(None)

    def _rank(self, tenant: str, more: float = 0.0) -> tuple[float, int]:
        return self._held[tenant] + more, self._last.get(tenant, 0)

    def shares(self, pending: Mapping[str, int], cost: float) -> Counter[str]:
        """How many commands of each tenant to take next, of those that are known to wait.

        As many as are left of the budget at `cost` each, but at least one, so that all have about the same in hand.
        """
        wanted: Counter[str] = Counter()
        ranked = [(*self._rank(tenant), tenant) for tenant, count in pending.items() if count]
        heapq.heapify(ranked)
        for _ in range(max(1, int(self.left / cost))):
            if not ranked:
                break
            *_, tenant = heapq.heappop(ranked)
            wanted[tenant] += 1
            if wanted[tenant] < pending[tenant]:
                heapq.heappush(ranked, (*self._rank(tenant, wanted[tenant] * cost), tenant))
        return wanted

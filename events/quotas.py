"""What a tenant may have at once; beyond it an edge answers 429 until something is over or deleted.

A quota keeps one tenant from filling what all share. It is no promise to the last one: two edges that count at the
same moment may both find room. What is asked for again, under the name that it had, is never counted twice.
"""

from collections.abc import Awaitable, Callable, Mapping

from cachetools import TTLCache

from events.settings import Quota

RETRY_SECONDS = 10
COUNT_SECONDS = 1.0
"""For how long a count of a queue is good; what this edge has admitted since is added to it."""
ALL = "*"
Count = Callable[[], Awaitable[int]]


class QuotaExceeded(Exception):
    """The tenant has as much as it may have."""

    def __init__(self, what: str, limit: int, held: int, wanted: int) -> None:
        super().__init__(
            f"quota {what}: the limit is {limit}; {held} are there, {wanted} more were asked for"
        )


class Quotas:
    """Counts, where a tenant has a quota."""

    def __init__(self, given: Mapping[str, Quota]) -> None:
        """`given`: by tenant; those of `*` are for all that are not named."""
        self._given = given
        self._queued: TTLCache[str, list[int]] = TTLCache(maxsize=4096, ttl=COUNT_SECONDS)

    def limit(self, tenant: str, what: str) -> int | None:
        """None: any number."""
        quota = self._given.get(tenant) or self._given.get(ALL)
        found: int | None = None if quota is None else getattr(quota, what)
        return found

    async def admit(self, tenant: str, what: str, count: Count, wanted: int = 1) -> None:
        """Raises QuotaExceeded if there is no room for what is wanted; counts only where there is a limit."""
        if self.limit(tenant, what) is not None:
            self._check(tenant, what, await count(), wanted)

    async def admit_queued(self, tenant: str, queue: str, count: Count) -> None:
        """The same for one more command in a queue, which is counted anew once a second at most."""
        if self.limit(tenant, "queued") is None:
            return
        counted = self._queued.get(f"{tenant}/{queue}")
        if counted is None:
            counted = self._queued[f"{tenant}/{queue}"] = [await count()]
        self._check(tenant, "queued", counted[0], 1)
        counted[0] += 1

    def _check(self, tenant: str, what: str, held: int, wanted: int) -> None:
        limit = self.limit(tenant, what)
        if limit is not None and held + wanted > limit:
            raise QuotaExceeded(what, limit, held, wanted)

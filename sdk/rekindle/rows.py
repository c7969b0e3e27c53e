"""`Rows`: the rows of a dataset version, one after the other, in a plain or an asynchronous loop.

Pages are fetched as they are needed, the next one while the current one is being read. All of them are of one
version, which never changes.
"""

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from rekindle.futures import Future
from rekindle.types.datasets import RowsPage

Row = dict[str, Any]
FetchPage = Callable[[str | None], Future[RowsPage]]
"""A cursor, None at the beginning → the page there."""


class Rows:
    """`for row in rows:` or `async for row in rows:`, as often as one likes; each loop starts at the first row."""

    def __init__(self, fetch: FetchPage, limit: int | None) -> None:
        self._fetch = fetch
        self._limit = limit

    def __iter__(self) -> Iterator[Row]:
        page: Future[RowsPage] | None = self._fetch(None)
        count = 0
        while page is not None:
            here = page.result()
            page = self._following(here, count)
            yield from here.rows[: self._left(count)]
            count += len(here.rows)

    async def __aiter__(self) -> AsyncIterator[Row]:
        page: Future[RowsPage] | None = self._fetch(None)
        count = 0
        while page is not None:
            here = await page
            page = self._following(here, count)
            for row in here.rows[: self._left(count)]:
                yield row
            count += len(here.rows)

    def _left(self, count: int) -> int | None:
        return None if self._limit is None else self._limit - count

    def _following(self, page: RowsPage, before: int) -> Future[RowsPage] | None:
        """The next page, under way already; None after the last that is wanted."""
        enough = self._limit is not None and before + len(page.rows) >= self._limit
        return None if page.cursor is None or enough else self._fetch(page.cursor)

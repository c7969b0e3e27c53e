"""Waits for what is new of a run, on behalf of who watches it: a row of metrics, or another phase.

Reads the run when something was said of it, and only then; whatever is missed because the connection was away is found
when it is back. Wakes nobody.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from events import names
from events.edge import Edge
from rekindle.types.rl import MetricsQuery, MetricsRow
from services.data.rl.store import PHASE, Store


async def rows_or_phase(edge: Edge, store: Store, query: MetricsQuery) -> list[MetricsRow]:
    """Rows behind the one that is known, as soon as there are some; none when the phase is not the one that is known,
    or when the time is up.

    Raises NotFound.
    """
    until = asyncio.get_running_loop().time() + min(query.wait, edge.settings.poll_seconds)
    async with _listening(edge, store, query) as woken:
        while True:
            woken.clear()
            phase = (await store.read())[0].state.phase  # first: a run that is over has written all its rows
            rows = await store.rows(query.after, query.limit)
            if rows or phase != query.phase or edge.futures.released or not await _set_by(woken, until):
                return rows


@asynccontextmanager
async def _listening(edge: Edge, store: Store, query: MetricsQuery) -> AsyncIterator[asyncio.Event]:
    woken = asyncio.Event()

    def hear(subject: str, headers: Mapping[str, str]) -> None:
        if ".metric." in subject or headers.get(PHASE, query.phase) != query.phase:
            woken.set()

    quiet = await edge.bus.hear(names.stored_subject(store.subject(">")), hear)
    forget = edge.futures.wake(woken)
    try:
        yield woken
    finally:
        forget()
        await quiet()


async def _set_by(event: asyncio.Event, time: float) -> bool:
    try:
        async with asyncio.timeout_at(time):
            await event.wait()
    except TimeoutError:
        return False
    return True

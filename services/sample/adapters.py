"""Adapter versions in memory: loaded on demand, the least recently used evicted, bounded in number.

A version is immutable, so one that is loaded never goes stale; one that was evicted is read again. Versions in
use are never evicted: when all places are in use, a task with a further version waits for one.
"""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

from events import metrics
from services.model.lora import Adapter
from services.sample.engine import AdapterRef

T = TypeVar("T")


@dataclass(eq=False, slots=True)
class _Place(Generic[T]):
    loading: asyncio.Task[T]
    users: int = 0


async def _nothing(_: object) -> None:
    """What is dropped needs no more."""


class AdapterStore(Generic[T]):
    """Belongs to one event loop. T: what stands for a loaded adapter."""

    def __init__(
        self,
        load: Callable[[AdapterRef], Awaitable[T]],
        limit: int,
        unload: Callable[[T], Awaitable[None]] = _nothing,
    ) -> None:
        """limit: versions in memory. unload: called for a version that is evicted, before the next is loaded."""
        self._load = load
        self._unload = unload
        self._limit = limit
        self._places: OrderedDict[str, _Place[T]] = OrderedDict()
        """By version, the least recently used first."""
        self._freed = asyncio.Event()

    @property
    def versions(self) -> list[str]:
        """Those in memory, the least recently used first."""
        return list(self._places)

    @asynccontextmanager
    async def use(self, ref: AdapterRef | None) -> AsyncIterator[T | None]:
        """The adapter, held in memory within the block; None for the bare base. Raises what loading raises."""
        if ref is None:
            yield None
            return
        place = await self._place(ref)
        place.users += 1
        try:
            yield await asyncio.shield(place.loading)
        finally:
            place.users -= 1
            if place.users == 0:
                self._freed.set()

    async def _place(self, ref: AdapterRef) -> _Place[T]:
        while ref.version not in self._places:
            if len(self._places) < self._limit:
                self._places[ref.version] = _Place(asyncio.create_task(self._fill(ref, None)))
            elif (idle := self._take_idle()) is not None:
                self._places[ref.version] = _Place(asyncio.create_task(self._fill(ref, idle)))
            else:
                self._freed.clear()
                await self._freed.wait()
        self._places.move_to_end(ref.version)
        return self._places[ref.version]

    def _take_idle(self) -> _Place[T] | None:
        """Remove the version that nobody uses and that was used longest ago; None when all are in use."""
        for version, place in self._places.items():
            if not place.users and place.loading.done():
                return self._places.pop(version)
        return None

    async def _fill(self, ref: AdapterRef, evicted: _Place[T] | None) -> T:
        loaded = False
        try:
            if evicted is not None:
                await self._unload(evicted.loading.result())
                metrics.ADAPTERS_EVICTED.inc()
            adapter = await self._load(ref)
            loaded = True
            metrics.ADAPTERS_LOADED.inc()
            return adapter
        finally:
            if not loaded:
                del self._places[ref.version]
            self._freed.set()


def check_adapter(ref: AdapterRef, adapter: Adapter, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise ValueError when the adapter is broken or not one of the base model.

    shapes: (output, input) of the weights of each layer that can carry LoRA, by module name.
    """
    if not all(bool(tensor.isfinite().all()) for tensor in adapter.parameters()):
        raise ValueError(f"adapter {ref.version}: not all of its weights are finite")
    for name, a_R_I in adapter.a.items():
        if name not in shapes:
            raise ValueError(f"adapter {ref.version}: the base model has no linear layer {name}")
        found = (adapter.b[name].shape[0], a_R_I.shape[1])
        if found != shapes[name]:
            raise ValueError(f"adapter {ref.version}: {name} has shape {found}, must be {shapes[name]}")

"""Adapter versions in memory: loaded on demand, the least recently used evicted, bounded in number.

A version is immutable, so one that is loaded never goes stale; one that was evicted is read again. Versions in
use are never evicted: when all places are in use, a task with a further version waits for one.
"""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from services.model.base import BaseModel
from services.model.lora import Adapter
from services.model.peft_files import load_adapter
from services.sample.engine import AdapterRef


@dataclass(eq=False, slots=True)
class _Place:
    loading: asyncio.Task[Adapter]
    users: int = 0


class AdapterStore:
    """Belongs to one event loop; files are read on other threads."""

    def __init__(self, base: BaseModel, limit: int) -> None:
        self._base = base
        self._limit = limit
        self._places: OrderedDict[str, _Place] = OrderedDict()
        """By version, the least recently used first."""
        self._freed = asyncio.Event()

    @property
    def versions(self) -> list[str]:
        """Those in memory, the least recently used first."""
        return list(self._places)

    @asynccontextmanager
    async def use(self, ref: AdapterRef | None) -> AsyncIterator[Adapter | None]:
        """The adapter, held in memory within the block; None for the bare base.

        Raises OSError when its files cannot be read, ValueError when they do not fit the base model.
        """
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

    async def _place(self, ref: AdapterRef) -> _Place:
        while ref.version not in self._places:
            if self._make_room():
                self._places[ref.version] = _Place(asyncio.create_task(self._load(ref)))
            else:
                self._freed.clear()
                await self._freed.wait()
        self._places.move_to_end(ref.version)
        return self._places[ref.version]

    def _make_room(self) -> bool:
        """Whether there is a free place, if need be after evicting an idle version."""
        if len(self._places) < self._limit:
            return True
        idle = next(
            (v for v, place in self._places.items() if not place.users and place.loading.done()), None
        )
        return idle is not None and self._places.pop(idle) is not None

    async def _load(self, ref: AdapterRef) -> Adapter:
        loaded = False
        try:
            adapter = await asyncio.to_thread(load_adapter, ref.folder, self._base.device)
            self._check(ref, adapter)
            loaded = True
            return adapter
        finally:
            if not loaded:
                del self._places[ref.version]
            self._freed.set()

    def _check(self, ref: AdapterRef, adapter: Adapter) -> None:
        """Raise ValueError when the adapter is not one of this base model, or is broken."""
        if not all(bool(tensor.isfinite().all()) for tensor in adapter.parameters()):
            raise ValueError(f"adapter {ref.version}: not all of its weights are finite")
        for name, a_R_I in adapter.a.items():
            layer = self._base.layers.get(name)
            if layer is None:
                raise ValueError(f"adapter {ref.version}: the base model has no linear layer {name}")
            found = (adapter.b[name].shape[0], a_R_I.shape[1])
            if found != tuple(layer.weight.shape):
                raise ValueError(
                    f"adapter {ref.version}: {name} has shape {found}, must be {tuple(layer.weight.shape)}"
                )

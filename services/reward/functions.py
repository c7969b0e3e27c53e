"""Reward functions of tenants, as records: which there are, their versions, and their source.

The newest version is the one that was registered last. A version is the hash of its file, so that its source never
changes. Nobody sees another tenant's functions.
"""

from dataclasses import dataclass

from cachetools import LRUCache

from events.failure import NotFound
from events.record_store import Records
from events.records import FunctionRecord, FunctionSource
from rekindle.types.rewards import FunctionInfo

REMEMBERED = 64
"""Sources."""


@dataclass(frozen=True, slots=True)
class Code:
    """A function that can be called. Example: Code("def f(completions): …", "f")."""

    source: str
    function: str


class Functions:
    """Reads and writes them."""

    def __init__(self, records: Records) -> None:
        self._records = records
        self._sources: LRUCache[tuple[str, str, str], Code] = LRUCache(REMEMBERED)

    async def all(self, tenant: str) -> list[FunctionInfo]:
        """The newest version of each, by name."""
        found = await self._records.all(FunctionRecord, tenant)
        return sorted((one.versions[-1] for one in found), key=lambda info: info.name)

    async def versions(self, tenant: str, name: str) -> tuple[FunctionInfo, ...]:
        """Of one function, the newest first. Raises NotFound."""
        record = await self._records.get(FunctionRecord, tenant, name)
        return record.versions[::-1]

    async def version(self, tenant: str, name: str, version: str | None) -> FunctionInfo:
        """A version, None: the newest. Raises NotFound."""
        for info in await self.versions(tenant, name):
            if version in (None, info.version):
                return info
        raise NotFound(f"function {name!r} has no version {version!r}")

    async def code(self, tenant: str, name: str, version: str) -> Code:
        """What a version says. Raises NotFound, also for one that is remembered here and gone."""
        info = await self.version(tenant, name, version)
        key = (tenant, name, version)
        if key not in self._sources:
            stored = await self._records.get(FunctionSource, tenant, _key(name, version))
            self._sources[key] = Code(stored.source, info.function)
        return self._sources[key]

    async def keep(self, tenant: str, info: FunctionInfo, source: str) -> FunctionInfo:
        """Make it the newest version; returns what is known of it, which is older if it was there before."""
        stored = FunctionSource(name=info.name, version=info.version, source=source)
        await self._records.replace(tenant, _key(info.name, info.version), stored)

        def newest(old: FunctionRecord | None) -> FunctionRecord:
            known = () if old is None else old.versions
            created = next((one.created for one in known if one.version == info.version), info.created)
            others = tuple(one for one in known if one.version != info.version)
            kept = info.model_copy(update={"created": created})
            return FunctionRecord(name=info.name, versions=(*others, kept))

        record = await self._records.change(FunctionRecord, tenant, info.name, newest)
        return record.versions[-1]

    async def remove(self, tenant: str, name: str) -> None:
        """All versions. Raises NotFound."""
        found = await self.versions(tenant, name)
        await self._records.delete(FunctionRecord, tenant, name)
        for info in found:
            await self._records.delete(FunctionSource, tenant, _key(name, info.version))


def _key(name: str, version: str) -> str:
    return f"{name}@{version}"

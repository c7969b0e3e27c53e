"""Which datasets and versions there are.

A version gets its number when it is written into its dataset's record by compare-and-set. A command that comes
again finds what it made; content that is the newest version already, and a derivation that was made already,
give what stands.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from events.failure import NotFound, UserError
from events.record_store import Records
from events.records import DatasetRecord, StoredVersion
from rekindle.types import InvalidField
from rekindle.types.datasets import DatasetVersion, Format
from services.data.summary import Summary

LATEST = "latest"
MAX_RECORD_BYTES = 4 * 2**20
"""Of a dataset's record, all versions with their columns; the bus takes messages of 8 MB."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A version that has files but no number yet."""

    summary: Summary
    blob: str
    how: dict[str, Any]
    parent: int | None = None
    split: str | None = None
    format: Format | None = None
    description: str | None = None

    def numbered(self, name: str, number: int, made_by: str) -> StoredVersion:
        about = DatasetVersion(
            name=name,
            version=number,
            sha256=self.summary.sha256,
            format=self.format,
            rows=self.summary.rows,
            bytes=self.summary.bytes,
            columns=self.summary.columns,
            created=datetime.now(UTC),
            parent=self.parent,
            how=self.how,
            split=self.split,
            description=self.description,
        )
        return StoredVersion(about=about, blob=self.blob, made_by=made_by)


class Datasets:
    """The datasets of all tenants."""

    def __init__(self, records: Records) -> None:
        self._records = records

    async def find(self, tenant: str, name: str) -> DatasetRecord:
        """A dataset with at least one version. Raises NotFound."""
        record = await self._records.get(DatasetRecord, tenant, name)
        if record.name != name or not record.versions:
            raise NotFound(f"dataset {name!r} does not exist")
        return record

    async def version(self, tenant: str, name: str, version: str | int) -> StoredVersion:
        """One version, or the newest for `latest`. Raises NotFound, InvalidField for what is no version."""
        number = number_of(version)
        versions = (await self.find(tenant, name)).versions
        if number is None:
            return versions[-1]
        found = next((one for one in versions if one.about.version == number), None)
        if found is None:
            raise NotFound(f"dataset {name!r} has no version {number}")
        return found

    async def made_by(self, tenant: str, name: str, request_id: str) -> list[StoredVersion]:
        """What a request has made so far."""
        try:
            record = await self._records.get(DatasetRecord, tenant, name)
        except NotFound:
            return []
        return [one for one in record.versions if one.made_by == request_id]

    async def derived(self, tenant: str, name: str, parent: int, how: dict[str, Any]) -> list[StoredVersion]:
        """The versions that a derivation has given before."""
        return _derived(await self.find(tenant, name), parent, how)

    async def add(
        self, tenant: str, name: str, request_id: str, drafts: Sequence[Draft]
    ) -> list[StoredVersion]:
        """Number the drafts; or the versions that stand in their stead. Raises UserError when there are too many."""

        def with_drafts(old: DatasetRecord | None) -> DatasetRecord:
            record = old or DatasetRecord(name=name)
            return record if _standing(record, request_id, drafts) else _extended(record, request_id, drafts)

        record = await self._records.change(DatasetRecord, tenant, name, with_drafts)
        return _standing(record, request_id, drafts)

    async def remove(
        self, tenant: str, name: str, chosen: Callable[[StoredVersion], bool]
    ) -> tuple[DatasetRecord, list[StoredVersion]]:
        """Take versions out; their blobs are `gone` until collected. Raises NotFound when there is none."""
        removed: list[StoredVersion] = []

        def without(old: DatasetRecord | None) -> DatasetRecord:
            removed[:] = [one for one in old.versions if chosen(one)] if old else []
            if old is None or not removed:
                raise NotFound(f"dataset {name!r} or this version of it does not exist")
            kept = tuple(one for one in old.versions if one not in removed)
            gone = old.gone + tuple(one.blob for one in removed)
            return old.model_copy(update={"versions": kept, "gone": gone})

        return await self._records.change(DatasetRecord, tenant, name, without), removed

    async def collected(self, tenant: str, name: str, blob: str) -> None:
        """A blob of a deleted version is no longer there."""

        def without(old: DatasetRecord | None) -> DatasetRecord:
            assert old is not None, "the record of a dataset stays"
            return old.model_copy(update={"gone": tuple(one for one in old.gone if one != blob)})

        await self._records.change(DatasetRecord, tenant, name, without)


def number_of(version: str | int) -> int | None:
    """None for the newest. Raises InvalidField."""
    if version == LATEST:
        return None
    if not str(version).isascii() or not str(version).isdigit() or len(str(version)) > 12:
        raise InvalidField("version", f"{version!r}, expected a number or {LATEST!r}")
    return int(version)


def _derived(record: DatasetRecord, parent: int, how: dict[str, Any]) -> list[StoredVersion]:
    """The most that one request has made of it: of a split, a part may have been deleted since."""
    made: defaultdict[str, list[StoredVersion]] = defaultdict(list)
    for one in record.versions:
        if one.about.parent == parent and one.about.how == how:
            made[one.made_by].append(one)
    return max(made.values(), key=len, default=[])


def _standing(record: DatasetRecord, request_id: str, drafts: Sequence[Draft]) -> list[StoredVersion]:
    """The versions that these drafts are or would repeat; none where they are new."""
    if made := [one for one in record.versions if one.made_by == request_id]:
        return made
    first = drafts[0]
    if first.parent is not None:
        found = _derived(record, first.parent, first.how)
        return found if len(found) == len(drafts) else []
    newest = record.versions[-1:]
    return list(newest) if newest and newest[0].about.sha256 == first.summary.sha256 else []


def _extended(record: DatasetRecord, request_id: str, drafts: Sequence[Draft]) -> DatasetRecord:
    added = [
        draft.numbered(record.name, record.last + place, request_id)
        for place, draft in enumerate(drafts, start=1)
    ]
    new = record.model_copy(update={"versions": (*record.versions, *added), "last": record.last + len(added)})
    if len(new.model_dump_json()) > MAX_RECORD_BYTES:
        raise UserError(f"name: {record.name!r} has too many versions; delete some or take another name")
    return new

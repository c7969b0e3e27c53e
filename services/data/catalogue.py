"""The HTTP edge of what there is: datasets listed, described, paged through, handed out, deleted.

pyarrow is imported where rows are read and not before: the gateway mounts these routes and starts often.
"""

import json
from collections.abc import Callable
from typing import Annotated, BinaryIO

import anyio.to_thread
from fastapi import APIRouter, Query
from fastapi.responses import Response

from events import catalog, facts
from events.edge import Edge, EdgeDep, TenantDep
from events.records import DatasetRecord, StoredVersion
from events.stored_file import StoredFile
from rekindle.types.datasets import Dataset, DatasetsList, RowsQuery
from services.data import commands
from services.data.datasets import Datasets, number_of
from services.data.summary import FILE

router = APIRouter(tags=["datasets"])
Answer = dict[str, object]
PARQUET = "application/vnd.apache.parquet"


@router.get("/datasets")
async def datasets(edge: EdgeDep, tenant: TenantDep) -> Answer:
    """All datasets, the newest version of each, by name."""
    records = await edge.records.all(DatasetRecord, tenant)
    newest = sorted((one.versions[-1].about for one in records if one.versions), key=lambda one: one.name)
    return DatasetsList(datasets=tuple(newest)).model_dump(mode="json")


@router.get("/datasets/{name:path}/versions/{version}/rows")
async def rows(
    name: str, version: str, query: Annotated[RowsQuery, Query()], edge: EdgeDep, tenant: TenantDep
) -> Response:
    """A page of rows and the cursor of the next."""
    stored = await Datasets(edge.records).version(tenant, name, version)
    async with edge.blobs.file(stored.blob, FILE) as file:
        page = await anyio.to_thread.run_sync(_page, file, query)
    return Response(page, media_type="application/json")


def _page(file: BinaryIO, query: RowsQuery) -> bytes:
    from services.data.pages import read_page

    found, cursor = read_page(file, query.cursor, query.limit)
    return f'{{"rows":[{",".join(found)}],"cursor":{json.dumps(cursor)}}}'.encode()


@router.get("/datasets/{name:path}/versions/{version}/file")
async def file(name: str, version: str, edge: EdgeDep, tenant: TenantDep) -> Response:
    """The Parquet file of a version; answers requests for ranges of it too."""
    stored = await Datasets(edge.records).version(tenant, name, version)
    called = f"{name.replace('/', '-')}-{stored.about.version}.parquet"
    return StoredFile(edge.blobs, stored.blob, FILE, called=called, media_type=PARQUET)


@router.get("/datasets/{name:path}/versions/{version}")
async def version(name: str, version: str, edge: EdgeDep, tenant: TenantDep) -> Answer:
    """One version."""
    return (await Datasets(edge.records).version(tenant, name, version)).about.model_dump(mode="json")


@router.get("/datasets/{name:path}")
async def dataset(name: str, edge: EdgeDep, tenant: TenantDep) -> Answer:
    """All versions of a dataset, newest first."""
    record = await Datasets(edge.records).find(tenant, name)
    versions = tuple(one.about for one in reversed(record.versions))
    return Dataset(name=name, versions=versions).model_dump(mode="json")


@router.delete("/datasets/{name:path}/versions/{version}", status_code=204)
async def delete_version(name: str, version: str, edge: EdgeDep, tenant: TenantDep) -> Response:
    """Delete one version; it is gone at once, its files soon."""
    number = number_of(version)
    if number is None:
        number = (await Datasets(edge.records).version(tenant, name, version)).about.version
    return await _delete(edge, tenant, name, lambda one: one.about.version == number)


@router.delete("/datasets/{name:path}", status_code=204)
async def delete_dataset(name: str, edge: EdgeDep, tenant: TenantDep) -> Response:
    """Delete all versions of a dataset. A later one of the same name goes on counting."""
    return await _delete(edge, tenant, name, lambda _: True)


async def _delete(edge: Edge, tenant: str, name: str, chosen: Callable[[StoredVersion], bool]) -> Response:
    record, removed = await Datasets(edge.records).remove(tenant, name, chosen)
    for blob in record.gone:
        command = commands.CollectCommand(name=name, blob=blob)
        event = commands.make(catalog.COLLECT_DATASET, tenant, commands.blob_owner(blob), 1, name, command)
        await commands.submit(edge, tenant, event)
    for one in removed:
        said = {"name": name, "version": one.about.version}
        fact = facts.make_fact(
            catalog.DATASET_DELETED,
            tenant=tenant,
            service="data",
            subject=name,
            id=f"dataset.deleted/{name}@{one.about.version}",
            data=said,
        )
        await facts.publish(edge.bus, tenant, fact)
    return Response(status_code=204)

"""The HTTP edge of what makes versions: upload in parts, derive, export. Validates, appends, returns the future."""

import hashlib
from datetime import UTC, datetime, timedelta
from typing import Annotated

import anyio.to_thread
from cloudevents.core.v1.event import CloudEvent
from fastapi import APIRouter, Header, Request
from fastapi.responses import Response

from events import blob_keys, catalog, ids, names
from events.commands import admit_queued, living_run
from events.edge import Edge, EdgeDep, TenantDep, failed, read
from events.failure import BusUnavailable, NotFound
from events.records import DatasetRecord, UploadRecord
from events.streams import DATA, RESULTS
from rekindle.types import InvalidField
from rekindle.types.datasets import CreateDatasetRequest, DeriveRequest, ExportRolloutsRequest, Upload
from services.data import commands
from services.data.datasets import Datasets

router = APIRouter(tags=["datasets"])
Answer = dict[str, object]
IdempotencyKey = Annotated[str | None, Header(alias="X-Idempotency-Key", min_length=1, max_length=128)]
"""Names one request: sent again with the same key, it has the same future and makes nothing twice."""


# Uploads


@router.post("/datasets")
async def create(request: Request, edge: EdgeDep, tenant: TenantDep) -> Answer:
    """Announce a file; the same announcement again finds the parts that are there."""
    wanted = await read(request, CreateDatasetRequest)
    if wanted.size_bytes > (limit := edge.settings.upload_limit_bytes):
        raise InvalidField("size_bytes", f"{wanted.size_bytes}, the limit is {limit}")
    id = commands.upload_id(tenant, wanted)
    fresh = UploadRecord(
        upload_id=id,
        part_bytes=edge.settings.upload_part_bytes,
        created=datetime.now(UTC),
        **wanted.model_dump(),
    )
    await _admit_bytes(edge, tenant, wanted.size_bytes, id)
    await _expire_later(edge, tenant, fresh)
    record = await edge.records.change(UploadRecord, tenant, id, lambda old: old or fresh)
    await _check_not_ended(edge, tenant, record)
    return await _state(edge, tenant, record)


async def _admit_bytes(edge: Edge, tenant: str, size: int, upload_id: str | None = None) -> None:
    """Raises QuotaExceeded for what the tenant's datasets, and files on their way, leave no room for."""

    async def held() -> int:
        datasets = await edge.records.all(DatasetRecord, tenant)
        uploads = await edge.records.all(UploadRecord, tenant)
        coming = sum(one.size_bytes for one in uploads if one.upload_id != upload_id)
        return coming + sum(version.about.bytes for dataset in datasets for version in dataset.versions)

    await edge.quotas.admit(tenant, "dataset_bytes", held, size)


async def _submit(edge: Edge, tenant: str, event: CloudEvent, size: int) -> Answer:
    """Queue a request to make versions of about that size. Raises QuotaExceeded, but not for one that was admitted."""
    owner, number = ids.split_future_id(event.get_id())
    queued = await edge.bus.first(DATA, names.data_subject(tenant, owner, number))
    if queued is None and not await _last_attempt(edge, tenant, owner):
        await admit_queued(edge, tenant, DATA, names.DATA_FILTER)
        await _admit_bytes(edge, tenant, size)
    return await commands.submit(edge, tenant, event)


async def _check_not_ended(edge: Edge, tenant: str, record: UploadRecord) -> None:
    """Raises BusUnavailable for an upload that has its result and is about to go: nothing can be added to it."""
    result = names.result_subject("data", tenant, ids.data_id(record.upload_id), record.attempt)
    if record.attempt and await edge.bus.first(RESULTS, result) is not None:
        raise BusUnavailable("upload: what the one before has left is being removed; try again")


@router.get("/datasets/uploads/{upload_id}")
async def state(upload_id: str, edge: EdgeDep, tenant: TenantDep) -> Answer:
    """Which parts are there."""
    return await _state(edge, tenant, await edge.records.get(UploadRecord, tenant, upload_id))


@router.put("/datasets/uploads/{upload_id}/parts/{number}", response_model=None)
async def put_part(
    upload_id: str,
    number: int,
    request: Request,
    edge: EdgeDep,
    tenant: TenantDep,
    x_part_sha256: Annotated[str | None, Header()] = None,
) -> Answer | Response:
    """Store one part, once; of a part that is there already the first content stays."""
    record = await edge.records.get(UploadRecord, tenant, upload_id)
    length = _part_length(record, number)
    try:
        data = await _read_part(request, length)
    except InvalidField as error:
        return failed(400, str(error), Connection="close")  # the rest of the body is not read
    if x_part_sha256 is not None:
        found = await anyio.to_thread.run_sync(lambda: hashlib.sha256(data).hexdigest())
        if found != x_part_sha256.lower():
            raise InvalidField("X-Part-SHA256", f"announced {x_part_sha256}, the part's is {found}")
    if not record.attempt:
        await _expire_later(edge, tenant, record)
        await edge.blobs.put(f"{blob_keys.upload_key(tenant, record.upload_id)}/{number}", data)
        await _still_wanted(edge, tenant, record.upload_id)
    return {"part": number, "bytes": len(data)}


def _part_length(record: UploadRecord, number: int) -> int:
    """Bytes that a part must have. Raises InvalidField for a part that the file does not have."""
    count = _count(record)
    if not 0 <= number < count:
        raise InvalidField("part", f"{number}, the file has parts 0 to {count - 1}")
    return min(record.part_bytes, record.size_bytes - number * record.part_bytes)


def _count(record: UploadRecord) -> int:
    return -(-record.size_bytes // record.part_bytes)


async def _read_part(request: Request, length: int) -> bytes:
    """A body of exactly that length. Raises InvalidField as soon as it is known to be another."""
    announced = request.headers.get("content-length", str(length))
    if announced != str(length):
        raise InvalidField("body", f"{announced} bytes, this part has {length}")
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > length:
            break
    if len(data) != length:
        found = f"more than {length}" if len(data) > length else str(len(data))
        raise InvalidField("body", f"{found} bytes, this part has {length}")
    return bytes(data)


async def _still_wanted(edge: Edge, tenant: str, upload_id: str) -> None:
    """A part that came while its upload was dropped goes too. Raises NotFound then."""
    try:
        await edge.records.get(UploadRecord, tenant, upload_id)
    except NotFound:
        await edge.blobs.delete(blob_keys.upload_key(tenant, upload_id))
        raise


@router.post("/datasets/uploads/{upload_id}/complete")
async def complete(upload_id: str, edge: EdgeDep, tenant: TenantDep) -> Answer:
    """Make a version of an upload that has all its parts. Repeated, it gives the same future."""
    owner = ids.data_id(upload_id)
    try:
        record = await edge.records.get(UploadRecord, tenant, upload_id)
    except NotFound:
        if last := await _last_attempt(edge, tenant, owner):  # it was completed, and has ended
            return commands.future(ids.future_id(owner, last))
        raise
    if not record.attempt:
        await admit_queued(edge, tenant, DATA, names.DATA_FILTER)
        await _check_whole(edge, tenant, record)
        last = await _last_attempt(edge, tenant, owner)
        record = await edge.records.change(
            UploadRecord, tenant, upload_id, lambda old: _completing(old, upload_id, last + 1)
        )
    event = commands.make(catalog.TAKE_IN, tenant, owner, record.attempt, record.name, record)
    return await commands.submit(edge, tenant, event)


def _completing(old: UploadRecord | None, upload_id: str, attempt: int) -> UploadRecord:
    if old is None:
        raise NotFound(f"upload {upload_id!r} does not exist")
    return old if old.attempt else old.model_copy(update={"attempt": attempt})


async def _last_attempt(edge: Edge, tenant: str, owner: str) -> int:
    """The highest number that has a result; 0 when there is none."""
    done = await edge.bus.subjects(RESULTS, names.result_filter("data", tenant, owner))
    return max((int(subject.rpartition(".")[2]) for subject in done), default=0)


async def _check_whole(edge: Edge, tenant: str, record: UploadRecord) -> None:
    there = await _parts(edge, tenant, record.upload_id)
    if missing := sorted(set(range(_count(record))).difference(there)):
        shown = ", ".join(map(str, missing[:10])) + (", …" if len(missing) > 10 else "")
        raise InvalidField("parts", f"{len(missing)} of {_count(record)} are missing: {shown}")


@router.delete("/datasets/uploads/{upload_id}", status_code=204)
async def drop(upload_id: str, edge: EdgeDep, tenant: TenantDep) -> Response:
    """Forget an upload and its parts."""
    record = await edge.records.get(UploadRecord, tenant, upload_id)
    if record.attempt:
        raise InvalidField("upload_id", "a version is being made of it already")
    await edge.records.delete(UploadRecord, tenant, upload_id)
    await edge.blobs.delete(blob_keys.upload_key(tenant, record.upload_id))
    return Response(status_code=204)


async def _state(edge: Edge, tenant: str, record: UploadRecord) -> Answer:
    found = Upload(
        upload_id=record.upload_id,
        part_bytes=record.part_bytes,
        parts=tuple(await _parts(edge, tenant, record.upload_id)),
        state="completing" if record.attempt else "open",
    )
    return found.model_dump(mode="json")


async def _parts(edge: Edge, tenant: str, upload_id: str) -> list[int]:
    """Numbers of the parts that are there, ascending."""
    keys = await edge.blobs.under(blob_keys.upload_key(tenant, upload_id))
    return sorted(int(key.rpartition("/")[2]) for key in keys)


async def _expire_later(edge: Edge, tenant: str, record: UploadRecord) -> None:
    """Have the stream itself call for its end when nothing more comes; each part puts that off."""
    owner = ids.data_id(record.upload_id)
    event = commands.make(catalog.EXPIRE_UPLOAD, tenant, owner, commands.EXPIRY, record.name, record)
    at = datetime.now(UTC) + timedelta(seconds=edge.settings.upload_seconds)
    await edge.bus.append_later(names.data_subject(tenant, owner, commands.EXPIRY), event, at)


# Versions from versions, and from rollouts


@router.post("/datasets/{name:path}/versions/{version}/derive")
async def derive(
    name: str, version: str, request: Request, edge: EdgeDep, tenant: TenantDep, key: IdempotencyKey = None
) -> Answer:
    """Filter, dedupe or split a version into new ones."""
    derivation = (await read(request, DeriveRequest)).root
    source = (await Datasets(edge.records).version(tenant, name, version)).about
    command = commands.DeriveCommand(name=name, version=source.version, derivation=derivation)
    event = commands.make(catalog.DERIVE, tenant, commands.new_owner(tenant, key), 1, name, command)
    return await _submit(edge, tenant, event, source.bytes)


@router.post("/training_runs/{run_id}/rollouts")
async def export_rollouts(
    run_id: str, request: Request, edge: EdgeDep, tenant: TenantDep, key: IdempotencyKey = None
) -> Answer:
    """The rollouts and scores of a run so far, as the next version of a dataset."""
    wanted = await read(request, ExportRolloutsRequest)
    await living_run(edge, tenant, run_id)
    command = commands.GatherCommand(name=wanted.name, run_id=run_id)
    event = commands.make(
        catalog.GATHER_ROLLOUTS, tenant, commands.new_owner(tenant, key), 1, wanted.name, command
    )
    return await _submit(edge, tenant, event, 1)

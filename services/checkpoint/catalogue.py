"""The HTTP edge of the catalogue: training runs and checkpoints, listed, described, deleted, handed out."""

import hashlib
import hmac
import time
from datetime import UTC, datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response

from events import catalog, facts, names
from events.checkpoints import CheckpointEntry, entry_event
from events.commands import Answer, living_run, release
from events.edge import PREFIX, Edge, EdgeDep, TenantDep, failed, read
from events.records import RunRecord
from events.stored_file import StoredFile
from rekindle.types import InvalidField, TinkerPath, checkpoint_type
from rekindle.types.paths import Kind
from rekindle.types.requests import (
    Checkpoint,
    CheckpointsListResponse,
    CheckpointsQuery,
    CheckpointTtlRequest,
    Cursor,
    ExternalWeightsUrlsResponse,
    PageQuery,
    TrainingRun,
    TrainingRunsResponse,
    WeightsInfoRequest,
    WeightsInfoResponse,
)

router = APIRouter(tags=["catalogue"])
LINK_SECONDS = 3600


def _checkpoint(entry: CheckpointEntry) -> Checkpoint:
    return Checkpoint(
        checkpoint_id=f"{entry.kind}/{entry.name}",
        checkpoint_type=checkpoint_type(entry.kind),
        time=entry.created,
        tinker_path=entry.path,
        size_bytes=entry.size_bytes,
        public=entry.public,
        user_metadata=entry.user_metadata or None,
        expires_at=entry.expires,
    )


def _training_run(run: RunRecord, entries: list[CheckpointEntry], tenant: str) -> TrainingRun:
    """`entries` newest first."""
    last = {
        kind: next((e for e in entries if e.kind == kind), None) for kind in ("weights", "sampler_weights")
    }
    return TrainingRun(
        training_run_id=run.run_id,
        base_model=run.base,
        model_owner=tenant,
        is_lora=True,
        last_request_time=max([run.created, *(entry.created for entry in entries)]),
        lora_rank=run.lora.rank,
        last_checkpoint=_checkpoint(last["weights"]) if last["weights"] else None,
        last_sampler_checkpoint=_checkpoint(last["sampler_weights"]) if last["sampler_weights"] else None,
        user_metadata=run.user_metadata or None,
    )


@router.get("/training_runs")
async def training_runs(query: Annotated[PageQuery, Query()], edge: EdgeDep, tenant: TenantDep) -> Answer:
    """Training runs, newest first."""
    runs = [run for run in await edge.records.all(RunRecord, tenant) if run.rejected is None]
    runs.sort(key=lambda run: run.created, reverse=True)
    page = runs[query.offset : query.offset + query.limit]
    found = [_training_run(run, await edge.checkpoints.of_run(tenant, run), tenant) for run in page]
    cursor = Cursor(offset=query.offset, limit=query.limit, total_count=len(runs))
    return TrainingRunsResponse(training_runs=tuple(found), cursor=cursor).model_dump(mode="json")


@router.get("/training_runs/{run_id}")
async def training_run(run_id: str, edge: EdgeDep, tenant: TenantDep) -> Answer:
    """One training run."""
    run = await living_run(edge, tenant, run_id)
    return _training_run(run, await edge.checkpoints.of_run(tenant, run), tenant).model_dump(mode="json")


@router.delete("/training_runs/{run_id}", status_code=204)
async def delete_training_run(run_id: str, edge: EdgeDep, tenant: TenantDep) -> None:
    """Remove a run with all its checkpoints, within seconds."""
    run = await edge.records.get(RunRecord, tenant, run_id)
    await release(edge, tenant, run.session_id, run_id)


@router.get("/training_runs/{run_id}/checkpoints")
async def run_checkpoints(run_id: str, edge: EdgeDep, tenant: TenantDep) -> Answer:
    """Checkpoints of one run, newest first."""
    run = await living_run(edge, tenant, run_id)
    found = [_checkpoint(entry) for entry in await edge.checkpoints.of_run(tenant, run)]
    return CheckpointsListResponse(checkpoints=tuple(found)).model_dump(mode="json")


@router.get("/checkpoints")
async def checkpoints(
    query: Annotated[CheckpointsQuery, Query()], edge: EdgeDep, tenant: TenantDep
) -> Answer:
    """Checkpoints of all runs, newest first."""
    entries = await edge.checkpoints.of_tenant(tenant)
    page = [_checkpoint(entry) for entry in entries[query.offset : query.offset + query.limit]]
    cursor = Cursor(offset=query.offset, limit=query.limit, total_count=len(entries))
    return CheckpointsListResponse(checkpoints=tuple(page), cursor=cursor).model_dump(mode="json")


@router.post("/weights_info")
async def weights_info(request: Request, edge: EdgeDep, tenant: TenantDep) -> Answer:
    """What a client must know to go on from a checkpoint."""
    wanted = await read(request, WeightsInfoRequest)
    entry = await edge.checkpoints.readable(tenant, TinkerPath.parse(wanted.tinker_path, "tinker_path"))
    return WeightsInfoResponse(
        base_model=entry.base,
        is_lora=True,
        lora_rank=entry.lora.rank,
        train_unembed=entry.lora.train_unembed,
        train_mlp=entry.lora.train_mlp,
        train_attn=entry.lora.train_attn,
    ).model_dump(mode="json")


async def _entry_in_path(
    run_id: str, kind: Kind, name: str, edge: EdgeDep, tenant: TenantDep
) -> CheckpointEntry:
    return await edge.checkpoints.find(tenant, TinkerPath(run_id, kind, name))


EntryDep = Annotated[CheckpointEntry, Depends(_entry_in_path)]


@router.delete("/training_runs/{run_id}/checkpoints/{kind}/{name}", status_code=204)
async def delete_checkpoint(entry: EntryDep, edge: EdgeDep, tenant: TenantDep) -> None:
    """Delete a checkpoint: gone from lists at once, its files by a worker."""
    gone = await edge.checkpoints.change(tenant, entry, deleted=True)
    subject = names.collect_subject(tenant, f"{entry.path}@{entry.number}")
    await edge.bus.append(subject, entry_event(tenant, "checkpoint", gone, catalog.COLLECT))
    fact = facts.make_fact(
        catalog.CHECKPOINT_DELETED,
        tenant=tenant,
        service="checkpoint",
        subject=entry.run_id,
        id=f"{entry.path}@{entry.number}:deleted",
        data={"path": entry.path},
    )
    await facts.publish(edge.bus, tenant, fact)


@router.put("/training_runs/{run_id}/checkpoints/{kind}/{name}/ttl", status_code=204)
async def set_ttl(entry: EntryDep, request: Request, edge: EdgeDep, tenant: TenantDep) -> None:
    """Set or remove the time to live, counted from now."""
    wanted = await read(request, CheckpointTtlRequest)
    expires = (
        None if wanted.ttl_seconds is None else datetime.now(UTC) + timedelta(seconds=wanted.ttl_seconds)
    )
    changed = await edge.checkpoints.change(tenant, entry, expires=expires)
    await edge.checkpoints.plan_expiry(tenant, changed)


@router.post("/training_runs/{run_id}/checkpoints/{kind}/{name}/publish", status_code=204)
async def publish(entry: EntryDep, edge: EdgeDep, tenant: TenantDep) -> None:
    """Let others read a checkpoint."""
    await edge.checkpoints.publish(tenant, entry)


@router.delete("/training_runs/{run_id}/checkpoints/{kind}/{name}/publish", status_code=204)
async def unpublish(entry: EntryDep, edge: EdgeDep, tenant: TenantDep) -> None:
    """Stop letting others read a checkpoint."""
    await edge.checkpoints.withdraw(tenant, entry)


# Files: links that work without an API key until they expire.


@router.get("/training_runs/{run_id}/checkpoints/external_weights/{name}/external_weights_urls")
async def external_weights_urls(
    run_id: str, name: str, request: Request, edge: EdgeDep, tenant: TenantDep
) -> Answer:
    """Signed links to the files of an exported checkpoint."""
    entry = await edge.checkpoints.find(tenant, TinkerPath(run_id, "external_weights", name))
    expires = int(time.time()) + LINK_SECONDS
    root = f"{str(request.base_url).rstrip('/')}{PREFIX}/downloads"
    urls = {}
    for file in await edge.blobs.files(entry.blob):
        signature = _sign(edge, entry.blob, file, expires)
        urls[file] = f"{root}/{expires}/{signature}/{entry.blob}/{file}"
    when = datetime.fromtimestamp(expires, UTC)
    return ExternalWeightsUrlsResponse(urls=urls, expires=when).model_dump(mode="json")


@router.get("/downloads/{expires}/{signature}/{key:path}")
async def download(expires: int, signature: str, key: str, edge: EdgeDep) -> Response:
    """One file of an exported checkpoint; the signature is the permission."""
    blob, _, file = key.rpartition("/")
    if not hmac.compare_digest(signature.encode(), _sign(edge, blob, file, expires).encode()):
        return failed(403, "signature: not valid")
    if expires < time.time():
        return failed(403, "expires: the link has expired")
    return StoredFile(edge.blobs, blob, file)


def _sign(edge: Edge, blob: str, file: str, expires: int) -> str:
    secret = edge.settings.external_urls_secret
    if not secret:
        raise InvalidField("external_urls_secret", "not set: downloads are off")
    return hmac.new(secret.encode(), f"{blob}/{file}@{expires}".encode(), hashlib.sha256).hexdigest()

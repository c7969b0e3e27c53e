"""The HTTP edge of weights: save and load them. Validates, appends to the run's log, returns the future."""

from datetime import UTC, datetime, timedelta
from typing import Any

from fastapi import APIRouter, Request

from events import catalog, ids
from events.commands import (
    Answer,
    admit_run,
    future,
    known_model,
    living_run,
    numbered,
    open_session,
    read_numbered,
)
from events.edge import Edge, EdgeDep, TenantDep, number_field, parse, read_json, text_field
from events.failure import Failure, NotFound
from events.quotas import QuotaExceeded
from events.records import LoraShape, RunRecord, SamplerRecord
from events.weights import LoadCommand, SaveCommand
from rekindle.types import InvalidField, TinkerPath
from rekindle.types.requests import (
    LoadWeightsRequest,
    SaveWeightsExternalRequest,
    SaveWeightsForSamplerRequest,
    SaveWeightsRequest,
)

router = APIRouter(tags=["weights"])
INFLIGHT = "inflight"
"""Name of the one mutable target that all inflight samplers of a run share."""


@router.post("/save_weights")
async def save_weights(request: Request, edge: EdgeDep, tenant: TenantDep) -> Answer:
    """Save adapter, moments and step count under a name."""
    run, number, wanted = await read_numbered(request, edge, tenant, SaveWeightsRequest)
    if wanted is None or not await _admit_kept(edge, tenant, run, number):
        return future(run.run_id, number)
    command = SaveCommand(
        kind="weights",
        name=wanted.name,
        overwrite=wanted.overwrite,
        optimizer=True,
        user_metadata=wanted.user_metadata or {},
        **_times(wanted.ttl_seconds),
    )
    await _submit(edge, tenant, run, number, catalog.SAVE_WEIGHTS, command)
    return future(run.run_id, number)


@router.post("/save_weights_for_sampler")
async def save_weights_for_sampler(request: Request, edge: EdgeDep, tenant: TenantDep) -> Answer:
    """Save the adapter alone: under a name, or unnamed for one new sampler."""
    run, number, wanted = await read_numbered(request, edge, tenant, SaveWeightsForSamplerRequest)
    if wanted is None or (wanted.path is not None and not await _admit_kept(edge, tenant, run, number)):
        return future(run.run_id, number)
    sampler = None
    if wanted.sampling_session_seq_id is not None:
        sampler = await _open_sampler(edge, tenant, run, number, wanted)
    command = SaveCommand(
        kind="sampler_weights",
        name=wanted.path or _unnamed(wanted, number),
        overwrite=wanted.kind == "inflight" and wanted.path is None,
        user_metadata=wanted.user_metadata or {},
        sampler_id=sampler,
        **_times(wanted.ttl_seconds),
    )
    await _submit(edge, tenant, run, number, catalog.SAVE_WEIGHTS_FOR_SAMPLER, command)
    return future(run.run_id, number)


def _unnamed(wanted: SaveWeightsForSamplerRequest, number: int) -> str:
    return INFLIGHT if wanted.kind == "inflight" else f"unnamed-{number:06d}"


async def _open_sampler(
    edge: Edge, tenant: str, run: RunRecord, number: int, wanted: SaveWeightsForSamplerRequest
) -> str:
    """The sampler that this save opens; its weights exist once the future has resolved."""
    sampler_id = ids.sampler_id(run.session_id, wanted.sampling_session_seq_id or 0)
    record = SamplerRecord(
        sampler_id=sampler_id,
        session_id=run.session_id,
        base=run.base,
        path=str(TinkerPath(run.run_id, "sampler_weights", _unnamed(wanted, number))),
        ephemeral=True,
        created=datetime.now(UTC),
    )
    await edge.records.create(tenant, sampler_id, record)
    return sampler_id


@router.post("/save_weights_external")
async def save_weights_external(request: Request, edge: EdgeDep, tenant: TenantDep) -> Answer:
    """Save the adapter as files for other tools (PEFT format), to be downloaded."""
    run, number, wanted = await read_numbered(request, edge, tenant, SaveWeightsExternalRequest)
    if wanted is None or not await _admit_kept(edge, tenant, run, number):
        return future(run.run_id, number)
    command = SaveCommand(kind="external_weights", name=wanted.path, **_times(wanted.ttl_seconds))
    await _submit(edge, tenant, run, number, catalog.SAVE_WEIGHTS_EXTERNAL, command)
    return future(run.run_id, number)


def _times(ttl_seconds: int | None) -> dict[str, Any]:
    """Clock values are fixed here, so that a replay means the same."""
    now = datetime.now(UTC)
    return {"created": now, "expires": None if ttl_seconds is None else now + timedelta(seconds=ttl_seconds)}


async def _admit_kept(edge: Edge, tenant: str, run: RunRecord, number: int) -> bool:
    """Whether what is kept by name finds room; if not it is rejected under its number, so that nothing waits."""

    async def held() -> int:
        return sum(entry.size_bytes for entry in await edge.checkpoints.of_tenant(tenant))

    try:
        await edge.quotas.admit(tenant, "checkpoint_bytes", held)
    except QuotaExceeded as error:
        await edge.log.reject(tenant, run, number, f"{error}; delete checkpoints that are not needed")
        return False
    return True


async def _submit(
    edge: Edge, tenant: str, run: RunRecord, number: int, type_: str, command: SaveCommand | LoadCommand
) -> None:
    await edge.log.submit(tenant, run, number, type_, command.model_dump_json().encode())


@router.post("/load_weights")
async def load_weights(request: Request, edge: EdgeDep, tenant: TenantDep) -> Answer:
    """Load a checkpoint into an existing run (model_id, seq_id) or a new one (session_id, model_seq_id)."""
    body = await read_json(request)
    if body.get("session_id") is not None:
        return await _load_new(edge, tenant, body)
    run, number = await numbered(edge, tenant, body)
    try:
        command = await _load_command(edge, tenant, parse(LoadWeightsRequest, body), run)
    except (InvalidField, NotFound) as error:
        await edge.log.reject(tenant, run, number, str(error))
    else:
        await _submit(edge, tenant, run, number, catalog.LOAD_WEIGHTS, command)
    return future(run.run_id, number)


async def _load_command(
    edge: Edge, tenant: str, wanted: LoadWeightsRequest, run: RunRecord | None
) -> LoadCommand:
    """Raises InvalidField when the checkpoint does not fit the run, NotFound when there is none."""
    entry = await edge.checkpoints.readable(tenant, TinkerPath.parse(wanted.path))
    if run is not None and (entry.base, _shape(entry.lora)) != (run.base, _shape(run.lora)):
        raise InvalidField("path", f"{wanted.path}: base model, rank or trained layers differ from the run's")
    if wanted.optimizer and entry.kind != "weights":
        raise InvalidField("optimizer", f"{wanted.path} holds no optimizer state; only `weights` do")
    return LoadCommand(path=wanted.path, blob=entry.blob, optimizer=wanted.optimizer, creates_run=run is None)


def _shape(lora: LoraShape) -> LoraShape:
    """What must agree for weights to fit: everything but the seed."""
    return lora.model_copy(update={"seed": 0})


async def _load_new(edge: Edge, tenant: str, body: dict[str, Any]) -> Answer:
    """A new run whose base model and shape are the checkpoint's."""
    session, seq = text_field(body, "session_id"), number_field(body, "model_seq_id", least=0)
    await open_session(edge, tenant, session)
    run_id = ids.model_id(session, seq)
    await admit_run(edge, tenant, run_id)
    record = RunRecord(
        run_id=run_id, session_id=session, base="", lora=LoraShape(rank=1, seed=0), created=datetime.now(UTC)
    )
    command: LoadCommand | None = None
    try:
        wanted = parse(LoadWeightsRequest, body)
        command = await _load_command(edge, tenant, wanted, None)
        record = await _run_from(edge, tenant, record, wanted)
    except (InvalidField, NotFound) as error:
        failure = Failure(message=str(error), category="user")
        record = record.model_copy(update={"rejected": failure})
    run = await edge.records.create(tenant, run_id, record)
    if run.rejected is None and command is not None:
        await _submit(edge, tenant, run, 0, catalog.LOAD_WEIGHTS, command)
    return future(run_id, 0)


async def _run_from(edge: Edge, tenant: str, record: RunRecord, wanted: LoadWeightsRequest) -> RunRecord:
    path = TinkerPath.parse(wanted.path)
    entry = await edge.checkpoints.readable(tenant, path)
    if wanted.base_model is not None and wanted.base_model != entry.base:
        raise InvalidField("base_model", f"{wanted.base_model!r}, but the checkpoint is of {entry.base!r}")
    await known_model(edge, entry.base)
    own = await edge.checkpoints.owner(tenant, path) == tenant
    metadata = (await living_run(edge, tenant, path.run_id)).user_metadata if own else {}
    changes = {
        "base": entry.base,
        "lora": entry.lora,
        "user_metadata": wanted.user_metadata or metadata,
        "loaded_from": wanted.path,
    }
    return record.model_copy(update=changes)

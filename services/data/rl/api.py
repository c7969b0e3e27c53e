"""The HTTP edge of RL runs: start, look at, pause, resume, cancel, delete. Validates, writes down, queues."""

import hashlib
import uuid
from typing import Annotated, Any, Literal

import anyio.to_thread
from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from events import ids
from events.edge import Edge, EdgeDep, TenantDep, read_json
from events.failure import NotFound
from events.records import RlRunRecord
from rekindle.types import InvalidField
from rekindle.types.rl import MetricsQuery, MetricsResponse, RlRunInfo, RlRunSpec, RlRunsResponse
from services.data.api import IdempotencyKey
from services.data.rl.create import check_rows_stand, create
from services.data.rl.info import info_of
from services.data.rl.machine import OVER
from services.data.rl.news import rows_or_phase
from services.data.rl.queue import queue_drive
from services.data.rl.store import Store, What

router = APIRouter(tags=["rl_runs"])
Answer = dict[str, Any]
WORDS: dict[str, What] = {"pause": "pause", "resume": "run", "cancel": "cancel"}
ID_DIGITS = 16


@router.post("/rl_runs")
async def start(request: Request, edge: EdgeDep, tenant: TenantDep, key: IdempotencyKey = None) -> Answer:
    """Start a run. With a key that was used before it is the run that was started then."""
    value = await read_json(request)
    spec = await anyio.to_thread.run_sync(RlRunSpec.of, value)  # it may hold patterns that take a while
    # the tenant's own: whoever knows the key of another must not come by a run, and paths, of the same name
    named = uuid.uuid4().hex if key is None else f"{tenant}\0{key}"
    digits = hashlib.sha256(f"rl\0{named}".encode()).hexdigest()
    run = await create(edge, tenant, ids.rl_id(digits[:ID_DIGITS]), spec)
    return (await info_of(edge, tenant, run)).model_dump(mode="json")


@router.get("/rl_runs")
async def list_runs(edge: EdgeDep, tenant: TenantDep) -> Answer:
    """All runs, newest first."""
    records = await edge.records.all(RlRunRecord, tenant)
    found = [info for record in records if (info := await _info_if_there(edge, tenant, record)) is not None]
    found.sort(key=lambda info: info.created, reverse=True)
    return RlRunsResponse(runs=tuple(found)).model_dump(mode="json")


async def _info_if_there(edge: Edge, tenant: str, record: RlRunRecord) -> RlRunInfo | None:
    try:
        return await info_of(edge, tenant, record)
    except NotFound:
        return None


@router.get("/rl_runs/{run_id}")
async def show(run_id: str, edge: EdgeDep, tenant: TenantDep) -> Answer:
    """Where a run stands."""
    return (await info_of(edge, tenant, await _run(edge, tenant, run_id))).model_dump(mode="json")


async def _run(edge: Edge, tenant: str, run_id: str) -> RlRunRecord:
    try:
        return await edge.records.get(RlRunRecord, tenant, run_id)
    except NotFound as error:
        raise NotFound(f"rl_run {run_id!r} does not exist") from error


@router.get("/rl_runs/{run_id}/metrics")
async def metrics(
    run_id: str, query: Annotated[MetricsQuery, Query()], edge: EdgeDep, tenant: TenantDep
) -> Answer:
    """Rows of metrics behind the one that is known; waits for some, if asked to."""
    run = await _run(edge, tenant, run_id)
    phase = (await info_of(edge, tenant, run)).phase
    store = Store(edge.bus, tenant, run.session_id)
    if query.wait:
        rows = await rows_or_phase(edge, store, query.model_copy(update={"phase": query.phase or phase}))
    else:
        rows = await store.rows(query.after, query.limit)
    last = rows[-1].row if rows else query.after
    return MetricsResponse(rows=tuple(rows), next=last).model_dump(mode="json")


@router.post("/rl_runs/{run_id}/{word}")
async def control(
    run_id: str, word: Literal["pause", "resume", "cancel"], edge: EdgeDep, tenant: TenantDep
) -> Answer:
    """Have a run pause, go on or end. It does so soon; said again, nothing more happens."""
    run = await _run(edge, tenant, run_id)
    phase = (await info_of(edge, tenant, run)).phase
    what = WORDS[word]
    if what == "run":
        if phase in OVER:
            raise InvalidField("rl_run", f"{run_id} is {phase}; what is over does not go on")
        await check_rows_stand(edge, tenant, run)
    if phase not in OVER:
        await _say(edge, tenant, run, what, anew=what == "run" and phase == "paused")
    return (await info_of(edge, tenant, run)).model_dump(mode="json")


async def _say(
    edge: Edge, tenant: str, run: RlRunRecord, what: What, *, anew: bool = False, remove: bool = False
) -> None:
    store = Store(edge.bus, tenant, run.session_id)
    said = await store.say(what, anew=anew, remove=remove)
    await queue_drive(edge, tenant, run, said.order)


@router.delete("/rl_runs/{run_id}", status_code=204)
async def delete(run_id: str, edge: EdgeDep, tenant: TenantDep) -> Response:
    """Cancel a run and leave nothing of it, its training run and checkpoints included."""
    await _say(edge, tenant, await _run(edge, tenant, run_id), "cancel", remove=True)
    return Response(status_code=204)


@router.get("/schemas/rl_run")
async def schema() -> Answer:
    """JSON schema of a spec."""
    return RlRunSpec.model_json_schema()

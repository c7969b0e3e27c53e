"""The HTTP edge of triggers: make, look at, remove; and what fired them."""

from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from events import catalog, names, triggers
from events.edge import Edge, EdgeDep, TenantDep, read
from events.failure import NotFound
from events.records import TriggerRecord
from events.streams import FACTS
from events.triggers import Trigger
from rekindle.types import InvalidField
from rekindle.types.rl import FiringsResponse, TriggerInfo, TriggerSpec, TriggersResponse
from services.data.rl.fires import Firings

router = APIRouter(tags=["triggers"])
Answer = dict[str, Any]
MAX_TRIGGERS = 100
"""Of a tenant: each is a consumer of the stream of facts."""


@router.post("/triggers")
async def create(request: Request, edge: EdgeDep, tenant: TenantDep) -> Answer:
    """Make a trigger; the same again changes nothing. It fires for facts from now on."""
    spec = await read(request, TriggerSpec)
    _check_fact(spec.on)
    standing = {one.spec.name for one in await edge.records.all(TriggerRecord, tenant)}
    if spec.name not in standing and len(standing) >= MAX_TRIGGERS:
        raise InvalidField("name", f"there are {len(standing)} triggers, the limit is {MAX_TRIGGERS}")
    fresh = TriggerRecord(spec=spec, first=await edge.bus.end(FACTS) + 1, created=datetime.now(UTC))
    record = await edge.records.change(TriggerRecord, tenant, spec.name, lambda old: old or fresh)
    if record.spec != spec:
        raise InvalidField("name", f"{spec.name!r} is another trigger; delete it first")
    trigger = Trigger(tenant, record)
    await triggers.watch(edge.bus, trigger)
    await edge.bus.tell(names.TRIGGERS_CHANGED)
    return await _info(edge, trigger)


def _check_fact(on: str) -> None:
    facts = {kind.type.removeprefix(catalog.PREFIX) for kind in catalog.TABLE if kind.role == "fact"}
    if on not in facts:
        raise InvalidField("on", f"{on!r} is no fact; there are {', '.join(sorted(facts))}")


@router.get("/triggers")
async def list_triggers(edge: EdgeDep, tenant: TenantDep) -> Answer:
    """All triggers, by name."""
    records = await edge.records.all(TriggerRecord, tenant)
    found = [
        await _info(edge, Trigger(tenant, one)) for one in sorted(records, key=lambda one: one.spec.name)
    ]
    return TriggersResponse.model_validate({"triggers": found}).model_dump(mode="json")


@router.get("/triggers/{name}")
async def show(name: str, edge: EdgeDep, tenant: TenantDep) -> Answer:
    """One trigger."""
    return await _info(edge, await _find(edge, tenant, name))


@router.get("/triggers/{name}/firings")
async def firings(name: str, edge: EdgeDep, tenant: TenantDep) -> Answer:
    """What fired it within the last 30 days, newest first."""
    found = await Firings(edge.bus, tenant).newest(await _find(edge, tenant, name))
    return FiringsResponse(firings=tuple(found)).model_dump(mode="json")


@router.delete("/triggers/{name}", status_code=204)
async def delete(name: str, edge: EdgeDep, tenant: TenantDep) -> Response:
    """Remove a trigger and what is known of its firings; runs that it has started go on."""
    trigger = await _find(edge, tenant, name)
    await edge.records.delete(TriggerRecord, tenant, name)
    await triggers.unwatch(edge.bus, trigger.consumer)
    await Firings(edge.bus, tenant).forget(trigger)
    await edge.bus.tell(names.TRIGGERS_CHANGED)
    return Response(status_code=204)


async def _find(edge: Edge, tenant: str, name: str) -> Trigger:
    """Raises NotFound."""
    try:
        return Trigger(tenant, await edge.records.get(TriggerRecord, tenant, name))
    except NotFound as error:
        raise NotFound(f"trigger {name!r} does not exist") from error


async def _info(edge: Edge, trigger: Trigger) -> Answer:
    fired = await Firings(edge.bus, trigger.tenant).count(trigger)
    found = TriggerInfo(trigger=trigger.record.spec, created=trigger.record.created, fired=fired)
    return found.model_dump(mode="json")

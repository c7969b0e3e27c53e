"""The HTTP edge of rewards: graders, functions of users, items to be scored. Validates, appends, returns futures."""

import uuid
from typing import Any

import anyio.to_thread
from fastapi import APIRouter, Request

from events import ids, names
from events.commands import Answer, admit_queued
from events.edge import EdgeDep, TenantDep, parse, read_json
from events.failure import NotFound
from events.grading import check_grader
from events.records import SandboxRecord
from events.scoring import REGISTERING, cut, sharding_of
from events.shards import WHOLE, AnotherRequest, digest_of
from events.streams import REWARD
from rekindle.types import InvalidField
from rekindle.types.keys import EVERYONE
from rekindle.types.requests import UntypedFuture
from rekindle.types.rewards import (
    FunctionsResponse,
    GraderInfo,
    GradersResponse,
    RegisterRequest,
    ScoreRequest,
)
from services.reward import pins, versions
from services.reward.code import source
from services.reward.functions import Functions

router = APIRouter(tags=["rewards"])
SANDBOX = "reward"
"""Key of what is known of the sandbox."""
ONLY = 1
"""Number of the one command that registers a function."""


@router.post("/rewards/score")
async def score(request: Request, edge: EdgeDep, tenant: TenantDep) -> Answer:
    """Queue items to be scored; a key that was used before stands for the same request."""
    await admit_queued(edge, tenant, REWARD, names.REWARD_FILTER)
    wanted, digest = await anyio.to_thread.run_sync(_prepare, await read_json(request))
    request_id = ids.score_id(wanted.idempotency_key)
    wanted = await pins.pin(edge, Functions(edge.records), tenant, request_id, wanted, digest)
    shards = await anyio.to_thread.run_sync(_shards, wanted)
    try:
        sharding = sharding_of(wanted.grader)
        await sharding.submit(edge.bus, edge.blobs, tenant, request_id, shards, digest=digest)
    except AnotherRequest as error:
        raise InvalidField("idempotency_key", "was used before, for a request with other content") from error
    future = UntypedFuture(request_id=ids.future_id(request_id, WHOLE))
    return future.model_dump(exclude_none=True)


@router.get("/rewards/graders")
async def list_graders() -> Answer:
    """The types of graders, with their parameters."""
    found = [
        GraderInfo(
            type=type_,
            version=versions.release(type_),
            params=versions.params_of(type_).model_json_schema(mode="validation"),
        )
        for type_ in versions.SPECS
    ]
    return GradersResponse(graders=tuple(found)).model_dump(mode="json")


@router.post("/rewards/functions")
async def register(request: Request, edge: EdgeDep, tenant: TenantDep) -> Answer:
    """Queue a function to be tried out; one that is accepted is there when the future resolves."""
    await admit_queued(edge, tenant, REWARD, names.REWARD_FILTER)
    wanted = await anyio.to_thread.run_sync(_described, await read_json(request))
    # To register twice is no more than once, so that a repeated POST needs no identity of its own.
    request_id = ids.score_id(uuid.uuid4().hex)
    command = wanted.model_dump_json().encode()
    await REGISTERING.submit(edge.bus, edge.blobs, tenant, request_id, [command], digest=digest_of(command))
    future = UntypedFuture(request_id=ids.future_id(request_id, ONLY))
    return future.model_dump(exclude_none=True)


@router.get("/rewards/functions")
async def list_functions(edge: EdgeDep, tenant: TenantDep) -> Answer:
    """The newest version of each function."""
    found = await Functions(edge.records).all(tenant)
    return FunctionsResponse(functions=tuple(found)).model_dump(mode="json")


@router.get("/rewards/functions/{name}")
async def show_function(name: str, edge: EdgeDep, tenant: TenantDep) -> Answer:
    """All versions of a function, the newest first."""
    found = await Functions(edge.records).versions(tenant, name)
    return FunctionsResponse(functions=found).model_dump(mode="json")


@router.delete("/rewards/functions/{name}")
async def unregister(name: str, edge: EdgeDep, tenant: TenantDep) -> Answer:
    """Forget a function with all its versions; what is queued for it fails."""
    await Functions(edge.records).remove(tenant, name)
    return {}


@router.get("/rewards/sandbox")
async def show_sandbox(edge: EdgeDep) -> Answer:
    """What holds untrusted code, as the reward replica that started last has found it."""
    try:
        record = await edge.records.get(SandboxRecord, EVERYONE, SANDBOX)
    except NotFound as error:
        raise NotFound("nothing is known of the sandbox before something was scored") from error
    return record.found.model_dump(mode="json")


def _prepare(value: dict[str, Any]) -> tuple[ScoreRequest, str]:
    """(request, its identity). Raises InvalidField."""
    wanted = parse(ScoreRequest, value)
    check_grader(wanted.grader)
    return wanted, digest_of(wanted.model_dump_json().encode())


def _shards(wanted: ScoreRequest) -> list[bytes]:
    return [shard.model_dump_json().encode() for shard in cut(wanted)]


def _described(value: dict[str, Any]) -> RegisterRequest:
    """Raises InvalidField for what can be seen without running it."""
    wanted = parse(RegisterRequest, value)
    described = source.describe(wanted.source)
    pins.check_columns(described.columns, described.function, wanted.examples, (), "examples")
    return wanted

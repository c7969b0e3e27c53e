"""The HTTP edge of rewards: which graders there are, and items to be scored. Validates, appends, returns the future."""

from typing import Any

import anyio.to_thread
from fastapi import APIRouter, Request

from events import names
from events.commands import Answer
from events.edge import EdgeDep, TenantDep, parse, read_json
from events.shards import WHOLE, AnotherRequest, digest_of
from rekindle.types import InvalidField
from rekindle.types.requests import UntypedFuture
from rekindle.types.rewards import GraderInfo, GradersResponse, ScoreRequest
from services.reward import graders, versions
from services.reward.commands import SHARDING, cut

router = APIRouter(tags=["rewards"])


@router.post("/rewards/score")
async def score(request: Request, edge: EdgeDep, tenant: TenantDep) -> Answer:
    """Queue items to be scored; a key that was used before stands for the same request."""
    value = await read_json(request)
    key, shards, digest = await anyio.to_thread.run_sync(_prepare, value)
    request_id = names.score_id(key)
    try:
        await SHARDING.submit(edge.bus, edge.blobs, tenant, request_id, shards, digest=digest)
    except AnotherRequest as error:
        raise InvalidField("idempotency_key", "was used before, for a request with other content") from error
    future = UntypedFuture(request_id=names.future_id(request_id, WHOLE))
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


def _prepare(value: dict[str, Any]) -> tuple[str, list[bytes], str]:
    """(idempotency key, commands, identity of the request). Raises InvalidField."""
    wanted = parse(ScoreRequest, value)
    graders.check(wanted.grader)
    shards = [shard.model_dump_json().encode() for shard in cut(wanted)]
    return wanted.idempotency_key, shards, digest_of(wanted.model_dump_json().encode())

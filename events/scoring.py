"""Commands to graders: what they carry, how a request to score is cut into them, and how they are queued.

Knows nothing of what graders do.
"""

from pydantic import BaseModel, ConfigDict, JsonValue
from pydantic_core import to_json

from events import catalog, ids, names
from events.blobs import Blobs
from events.bus import Bus
from events.shards import Sharding, digest_of
from rekindle.types import rewards
from rekindle.types.rewards import ScoreItem, ScoreRequest

OUTSIDE = ("remote", "llm_judge")
"""Graders that compute nothing here: they wait for somebody outside."""
SHARDING = Sharding("reward", names.reward_subject, catalog.SCORE)
WAITING = Sharding("reward", names.waiting_subject, catalog.SCORE)
"""Of requests that only such graders score: the subject alone says that a command takes next to nothing."""
REGISTERING = Sharding("reward", names.reward_subject, catalog.REGISTER)
"""Of one command, whose result is that of the request."""
SHARD_ITEMS = 32
"""Items of one command. Not a setting: a request that comes again must be cut as it was before."""
MAX_COPIED_BYTES = 32 * 2**20
"""Every shard carries the shared columns; so much may all these copies take, else there are fewer shards."""


class ScoreShard(BaseModel):
    """One command. Example: ScoreShard(grader=Math(), items=(...), columns={}, sizes=(32, 32, 5))."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    grader: rewards.Grader
    items: tuple[ScoreItem, ...]
    columns: dict[str, JsonValue]
    """Shared by all items."""
    sizes: tuple[int, ...]
    """Items of each shard of the request, in their order."""


def cut(request: ScoreRequest) -> list[ScoreShard]:
    """The request as commands, in the order of its items."""
    most = max(1, MAX_COPIED_BYTES // len(to_json(request.columns)))
    items_each = max(SHARD_ITEMS, -(-len(request.items) // most))
    parts = [request.items[i : i + items_each] for i in range(0, len(request.items), items_each)]
    sizes = tuple(map(len, parts))
    return [
        ScoreShard(grader=request.grader, items=items, columns=request.columns, sizes=sizes)
        for items in parts
    ]


def commands_of(request: ScoreRequest) -> tuple[list[bytes], str]:
    """(the request's commands, identity of its content)."""
    shards = [shard.model_dump_json().encode() for shard in cut(request)]
    return shards, digest_of(request.model_dump_json().encode())


def sharding_of(grader: rewards.Grader) -> Sharding:
    """How requests to a grader are queued; one that computes but a part of its score computes."""
    parts = grader.params.graders if isinstance(grader, rewards.Weighted) else ()
    types: list[str] = [part.grader.type for part in parts] or [grader.type]
    return WAITING if set(types) <= set(OUTSIDE) else SHARDING


async def submit(
    bus: Bus, blobs: Blobs, tenant: str, key: str, grader: rewards.Grader, commands: list[bytes], digest: str
) -> str:
    """Queue the commands of a request under its idempotency key; returns the request's id.

    Repeated, it changes nothing. Raises AnotherRequest when the key stands for other content, StreamFull or
    BusUnavailable.
    """
    request_id = ids.score_id(key)
    await sharding_of(grader).submit(bus, blobs, tenant, request_id, commands, digest=digest)
    return request_id

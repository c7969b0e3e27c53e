"""The runner of `remote`: a service of the user's scores the items.

The items of a call are one question. Whatever is not a number in the answer, or a null, is an error of its item, and so
is for each of them whatever goes wrong with the call; these are asked again, the others are settled. A question that
is asked again carries the same `Idempotency-Key`, which is also its event's id, so that the service may answer what
it answered before.
"""

import asyncio
import hashlib
import json
import time
from collections.abc import Sequence
from typing import Any

from cloudevents.core.exceptions import BaseCloudEventException
from pydantic_core import to_json

from events import catalog, envelope
from rekindle.types import rewards
from rekindle.types.rewards import Score, ScoreItem
from services.reward import versions
from services.reward.outside.client import Client, Failed, Reply
from services.reward.runner import ATTEMPTS, MOST, Verdict, as_score, pause

ID = "Idempotency-Key"
REQUESTED = f"{catalog.PREFIX}reward.requested"
"""Type of the event that asks; it goes to the service alone."""


class RemoteRunner:
    """Scores by asking a service."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def score(
        self, tenant: str, spec: rewards.Single, items: Sequence[ScoreItem], columns: dict[str, Any]
    ) -> list[Score]:
        assert isinstance(spec, rewards.Remote), f"{spec.type} is not asked of a service"
        version, scores, left = versions.version(spec), dict[int, Score](), list(range(len(items)))
        for number in range(1, ATTEMPTS + 1):
            begun = time.perf_counter()
            verdicts = await self._ask(tenant, spec.params, [items[index] for index in left], columns)
            seconds = time.perf_counter() - begun
            found = dict(zip(left, verdicts, strict=True))
            scores |= {index: as_score(one, version, seconds, number) for index, one in found.items()}
            left = [index for index, one in found.items() if not one.final]
            if not left or number == ATTEMPTS:
                break
            await asyncio.sleep(pause(number))
        return [scores[index] for index in range(len(items))]

    async def _ask(
        self, tenant: str, params: rewards.RemoteParams, items: Sequence[ScoreItem], columns: dict[str, Any]
    ) -> list[Verdict]:
        body, headers = question(tenant, params, items, columns)
        try:
            reply = await self._client.post(
                tenant, params.url, body, headers, key=params.key, seconds=params.seconds
            )
            return verdicts(answered(reply, params), len(items))
        except Failed as error:
            return [error.verdict] * len(items)


def question(
    tenant: str, params: rewards.RemoteParams, items: Sequence[ScoreItem], columns: dict[str, Any]
) -> tuple[bytes, dict[str, str]]:
    """Body and headers."""
    rows = [{**columns, **item.columns} for item in items]
    names = dict.fromkeys(name for row in rows for name in row)
    data = to_json(
        {
            "prompts": [item.prompt for item in items],
            "completions": [item.completion for item in items],
            "columns": {name: [row.get(name) for row in rows] for name in names},
        }
    )
    id = hashlib.sha256(to_json([tenant, params.url]) + data).hexdigest()[:32]
    if params.mode == "http":
        return data, {"Content-Type": envelope.JSON, ID: id}
    event = envelope.make_event(
        REQUESTED, id=id, tenant=tenant, service="reward", subject=params.url, data=data
    )
    return envelope.to_json(event), {"Content-Type": envelope.STRUCTURED, ID: id}


def answered(reply: Reply, params: rewards.RemoteParams) -> Any:
    """The JSON of an answer. Raises Failed."""
    try:
        if params.mode == "http":
            return json.loads(reply.body)
        return envelope.json_of(envelope.from_message(reply.headers, reply.body))
    except (ValueError, RecursionError, BaseCloudEventException) as error:
        what = "JSON" if params.mode == "http" else "a CloudEvent with JSON"
        raise Failed(f"the answer is not {what} ({type(error).__name__})") from error


def verdicts(answer: Any, count: int) -> list[Verdict]:
    """One for each item. Raises Failed."""
    values = answer.get("rewards") if isinstance(answer, dict) else None
    if not isinstance(values, list):
        raise Failed("the answer has no list of rewards")
    if len(values) != count:
        raise Failed(f"{len(values)} rewards for {count} items")
    return [_verdict(value) for value in values]


def _verdict(value: Any) -> Verdict:
    if value is None:
        return Verdict("invalid", None, "does not apply")
    if isinstance(value, bool) or not isinstance(value, int | float):
        return Verdict("error", None, f"a {type(value).__name__} is not a reward")
    if not abs(value) < MOST:  # no NaN is, and any whole number can be asked
        return Verdict("error", None, f"a reward that is not finite, or not below {MOST:g}")
    return Verdict("scored", float(value))

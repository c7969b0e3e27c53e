"""From a description of how to score to scores: whoever runs such a grader is asked, and nobody twice for the same.

A combination asks for each of its components. Items that are equal in all that a pure grader sees are scored
once, in one call and over a memory of recent ones; only opinions are remembered, never failures.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from cachetools import LRUCache
from pydantic_core import to_json

from events import tasks
from rekindle.types import rewards
from rekindle.types.rewards import Score, ScoreItem
from services.reward import versions
from services.reward.combine import combine
from services.reward.runner import Runner

REMEMBERED = 65536
"""Scores, of some hundred bytes each."""


class Scorer:
    """`await scorer.score(tenant, grader, items, columns)`, from any number of tasks."""

    def __init__(self, runners: Mapping[str, Runner], *, remembered: int = REMEMBERED) -> None:
        """`runners` by type of grader."""
        self._runners = runners
        self._memory: LRUCache[bytes, Score] = LRUCache(remembered)

    async def score(
        self,
        tenant: str,
        spec: rewards.Grader,
        items: Sequence[ScoreItem],
        columns: dict[str, Any] | None = None,
    ) -> list[Score]:
        """One final score for each item, in their order; `columns` are shared by all, an item's own win."""
        shared = columns or {}
        if not isinstance(spec, rewards.Weighted):
            return await self._single(tenant, spec, items, shared)
        parts = spec.params.graders
        found = await tasks.together(*(self._single(tenant, part.grader, items, shared) for part in parts))
        version = versions.version(spec)
        return [combine(parts, of_item, version) for of_item in zip(*found, strict=True)]

    async def _single(
        self, tenant: str, spec: rewards.Single, items: Sequence[ScoreItem], columns: dict[str, Any]
    ) -> list[Score]:
        runner = self._runners[spec.type]
        if not versions.is_pure(spec):
            return await runner.score(tenant, spec, items, columns)
        context = _digest([tenant, versions.version(spec), columns])
        keys = [_digest([context.hex(), item.prompt, item.completion, item.columns]) for item in items]
        wanted = {key: item for key, item in zip(keys, items, strict=True) if key not in self._memory}
        found = {key: self._memory[key] for key in keys if key in self._memory}
        fresh = await runner.score(tenant, spec, list(wanted.values()), columns) if wanted else []
        found |= zip(wanted, fresh, strict=True)
        self._memory.update((key, one) for key, one in found.items() if one.outcome == "scored")
        return [found[key] for key in keys]


def _digest(seen: list[Any]) -> bytes:
    return hashlib.sha256(to_json(seen)).digest()

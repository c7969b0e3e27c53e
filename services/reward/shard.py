"""The items of one call on their way to a final score: pure bookkeeping, no process and no clock.

An item is settled by `scored` or `invalid`, or by its third error or timeout. In a combination, a component whose
run of the rollout's code cost a process is noted and the item goes on without running that component again.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from rekindle.types import rewards
from rekindle.types.rewards import Score, ScoreItem
from services.reward import graders
from services.reward.graders.base import Phase

ATTEMPTS = 3
"""How often an error or timeout is tried in all."""


class Shard:
    """Items of one grader, and what is known of each."""

    def __init__(self, spec: rewards.Grader, items: Sequence[ScoreItem], columns: dict[str, Any]) -> None:
        self.spec = spec
        self._items = items
        self._columns = columns
        self._version = graders.version(spec)
        self._scores: dict[int, Score] = {}
        self._attempts: Counter[int] = Counter()
        self._failures: Counter[int] = Counter()
        self._lost: defaultdict[int, dict[int, str]] = defaultdict(dict)
        self._phase: Phase = "own"
        self._component = -1

    def unsettled(self) -> list[int]:
        return [index for index in range(len(self._items)) if index not in self._scores]

    def in_order(self) -> list[Score]:
        return [self._scores[index] for index in range(len(self._items))]

    def request(self, indices: Sequence[int]) -> bytes:
        """The line that asks a process for these items."""
        items = [(self._items[index], list(self._lost[index].items())) for index in indices]
        shard = {
            "spec": self.spec.model_dump_json(),
            "columns": self._columns,
            "items": [[item.prompt, item.completion, item.columns, lost] for item, lost in items],
        }
        return json.dumps(shard).encode() + b"\n"

    def begin(self, index: int) -> None:
        """A process begins an item, with the grader's own code."""
        self._attempts[index] += 1
        self._phase, self._component = "own", -1

    def mark(self, phase: Phase) -> None:
        """Whose code runs from now on. A combination says "own" at the start of each component."""
        self._phase = phase
        if phase == "own":
            self._component += 1

    @property
    def seconds(self) -> float:
        """How long what runs now may take, by what the task says."""
        if isinstance(self.spec, rewards.Weighted) and self._component >= 0:
            return self.spec.params.graders[self._component].grader.params.seconds
        return self.spec.params.seconds

    def settle(
        self, index: int, outcome: rewards.Outcome, value: float | None, reason: str | None, seconds: float
    ) -> None:
        """Note what became of an attempt; what may be tried again stays unsettled."""
        if outcome in ("error", "timeout"):
            self._failures[index] += 1
            if self._failures[index] < ATTEMPTS:
                return
        self._scores[index] = Score(
            outcome=outcome,
            value=value,
            reason=reason or (None if outcome == "scored" else "no reason was given"),
            grader_version=self._version,
            seconds=seconds,
            attempts=max(1, self._attempts[index]),
        )

    def broken(self, index: int, reason: str, *, overran: bool, seconds: float) -> None:
        """The process was lost over an item: whose code ran decides whose fault it is."""
        if self._phase == "own":
            self.settle(index, "timeout" if overran else "error", None, f"the grader {reason}", seconds)
        elif isinstance(self.spec, rewards.Weighted):
            self._lost[index][self._component] = f"the rollout's code {reason}"
        else:
            reason = f"the rollout's code {reason}"
            self.settle(index, "invalid", self.spec.invalid_value, reason, seconds)

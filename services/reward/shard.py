"""Some items of one grader on their way to a final score: pure bookkeeping, no process and no clock.

An item is settled by `scored` or `invalid`, or by its third error or timeout.
"""

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

from rekindle.types import rewards
from rekindle.types.rewards import Score, ScoreItem
from services.reward import versions
from services.reward.graders.base import Phase
from services.reward.runner import ATTEMPTS, Verdict, as_score


class Shard:
    """Items, and what is known of each."""

    def __init__(self, spec: rewards.Single, items: Sequence[ScoreItem], columns: dict[str, Any]) -> None:
        self.spec = spec
        self._items = items
        self._columns = columns
        self._version = versions.version(spec)
        self._scores: dict[int, Score] = {}
        self._attempts: Counter[int] = Counter()
        self._failures: Counter[int] = Counter()
        self._phase: Phase = "own"

    def unsettled(self) -> list[int]:
        """Those that have failed the fewest times; the others wait until these are settled or have failed too."""
        left = [index for index in range(len(self._items)) if index not in self._scores]
        fewest = min((self._failures[index] for index in left), default=0)
        return [index for index in left if self._failures[index] == fewest]

    def failures(self, index: int) -> int:
        """How often an item has failed."""
        return self._failures[index]

    def in_order(self) -> list[Score]:
        return [self._scores[index] for index in range(len(self._items))]

    def request(self, indices: Sequence[int]) -> bytes:
        """The line that asks a process for these items."""
        items = [self._items[index] for index in indices]
        shard = {
            "spec": self.spec.model_dump_json(),
            "columns": self._columns,
            "items": [[item.prompt, item.completion, item.columns] for item in items],
        }
        return json.dumps(shard).encode() + b"\n"

    def begin(self, index: int) -> None:
        """A process begins an item, with the grader's own code."""
        self._attempts[index] += 1
        self._phase = "own"

    def mark(self, phase: Phase) -> None:
        """Whose code runs from now on."""
        self._phase = phase

    @property
    def seconds(self) -> float:
        """How long an item may take, by what the task says."""
        return self.spec.params.seconds

    def settle(self, index: int, verdict: Verdict, seconds: float) -> None:
        """Note what became of an attempt; what may be tried again stays unsettled."""
        if not verdict.final:
            self._failures[index] += 1
            if self._failures[index] < ATTEMPTS:
                return
        attempts = max(1, self._attempts[index])
        self._scores[index] = as_score(verdict, self._version, seconds, attempts)

    def broken(self, index: int, reason: str, *, overran: bool, seconds: float) -> None:
        """The process was lost over an item: whose code ran decides whose fault it is."""
        if self._phase == "own":
            self.settle(
                index, Verdict("timeout" if overran else "error", None, f"the grader {reason}"), seconds
            )
        else:
            value = getattr(self.spec, "invalid_value", None)
            self.settle(index, Verdict("invalid", value, f"the rollout's code {reason}"), seconds)

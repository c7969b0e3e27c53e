"""Combinations: the weighted sum of several graders' values.

An error or timeout of a component is that of the whole: a sum that lacks a term is not the task's reward. An `invalid`
component gives what it gives alone, its `invalid_value`; the whole is `invalid` if all components are. Where
that value is None there is no sum, and the whole is `invalid` without a value.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from services.reward.graders.base import Graded, Item, Judge, Mark


@dataclass(frozen=True, slots=True)
class Part:
    """One component, ready to judge."""

    judge: Judge
    weight: float
    invalid_value: float | None


class WeightedGrader:
    """The components in their order; each begins with the grader's own work."""

    release = 1

    def __init__(self, parts: Sequence[Part], mark: Mark) -> None:
        self._parts = parts
        self._mark = mark

    def grade(self, item: Item) -> Graded:
        found = [self._grade(index, part, item) for index, part in enumerate(self._parts)]
        reasons = [f"{index}: {graded.reason}" for index, graded in enumerate(found) if graded.reason]
        terms = [
            graded.value * part.weight
            for graded, part in zip(found, self._parts, strict=True)
            if graded.value is not None
        ]
        complete = len(terms) == len(found)
        return Graded(
            math.fsum(terms) if complete else None,
            "; ".join(reasons) or None,
            valid=complete and any(graded.valid for graded in found),
        )

    def _grade(self, index: int, part: Part, item: Item) -> Graded:
        self._mark("own")  # one for each component: so the one that cost a process is known
        if index in item.lost:
            return Graded(part.invalid_value, item.lost[index], valid=False)
        return part.judge(item)

"""Combinations: the weighted sum of several graders' values.

An error or timeout of a component is that of the whole: a sum that lacks a term is not the task's reward. An `invalid`
component gives what it gives alone, its `invalid_value`; the whole is `invalid` if all components are. Where
that value is None there is no sum, and the whole is `invalid` without a value. A function or service that does
not apply to an item is no term.
"""

import math
from collections.abc import Sequence

from rekindle.types import rewards
from rekindle.types.rewards import Component, Score
from services.reward.runner import Verdict, as_score

OPTIONAL = (rewards.Function, rewards.Remote)
"""Graders that may say of an item that they do not apply: `invalid` without a value."""


def combine(components: Sequence[Component], scores: Sequence[Score], version: str) -> Score:
    """One item's scores, one of each component, as the score of the whole."""
    attempts, seconds = max(one.attempts for one in scores), math.fsum(one.seconds for one in scores)
    return as_score(_verdict(components, scores), version, seconds, attempts)


def _verdict(components: Sequence[Component], scores: Sequence[Score]) -> Verdict:
    failed = [(index, one) for index, one in enumerate(scores) if one.excluded]
    if failed:
        return Verdict(failed[0][1].outcome, None, _reasons(failed))
    terms = [
        (index, part, one)
        for index, (part, one) in enumerate(zip(components, scores, strict=True))
        if not _does_not_apply(part, one)
    ]
    reason = _reasons([(index, one) for index, one in enumerate(scores)])
    if not terms:
        return Verdict("invalid", None, reason)
    values = [one.value * part.weight for _, part, one in terms if one.value is not None]
    if len(values) < len(terms):
        return Verdict("invalid", None, reason)
    valid = any(one.outcome == "scored" for _, _, one in terms)
    return Verdict("scored" if valid else "invalid", math.fsum(values), reason)


def _does_not_apply(part: Component, score: Score) -> bool:
    return isinstance(part.grader, OPTIONAL) and score.outcome == "invalid"


def _reasons(scores: Sequence[tuple[int, Score]]) -> str | None:
    return "; ".join(f"{index}: {one.reason}" for index, one in scores if one.reason) or None

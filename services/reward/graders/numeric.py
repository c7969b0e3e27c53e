"""Numbers: the first or last number of the completion is near enough the answer."""

import math
import re

from rekindle.types import rewards
from services.reward.graders.base import Graded, Grader, Invalid, Item

NUMBER = re.compile(r"(?<![\w.])[-+−]?(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?")
"""`3`, `-1,234.5`, `.5`, `2e-3`; not the digits of a word."""


class NumericGrader(Grader[rewards.NumericParams]):
    release = 1

    def grade(self, item: Item) -> Graded:
        answer = _answer(item.columns[self.params.column], self.params)
        said = _number(item.completion, self.params)
        if said is None:
            raise Invalid("no number in the completion")
        near = math.isclose(said, answer, rel_tol=self.params.rel, abs_tol=self.params.abs)
        return Graded(float(near), f"read as {said:g}")


def _number(text: str, params: rewards.NumericParams) -> float | None:
    """The number that counts; one too large for a double is infinite."""
    found = None
    for match in NUMBER.finditer(text):
        found = match.group()
        if params.pick == "first":
            break
    return None if found is None else float(found.replace(",", "").replace("−", "-"))


def _answer(value: object, params: rewards.NumericParams) -> float:
    """Raises TypeError or ValueError: the row's fault, not the rollout's."""
    if isinstance(value, str):
        value = _number(value, params)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"column {params.column!r}: not a number, and no text with one")
    if not math.isfinite(value):
        raise ValueError(f"column {params.column!r}: {value} is not finite")
    return float(value)

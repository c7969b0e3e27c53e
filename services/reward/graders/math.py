"""Mathematics: the completion's expression equals the answer, by math-verify (github.com/huggingface/Math-Verify).

Its own time limits need the main thread's alarm and hide failures as "not equal"; both are off here, so that an
expression that sympy cannot finish is a timeout and one that breaks it an error, and neither is a zero.
"""

from functools import lru_cache

from rekindle.types import rewards
from services.reward.graders.base import Graded, Grader, Invalid, Item, Mark

ANSWERS = 1024
"""How many are kept as expressions."""


class MathGrader(Grader[rewards.MathParams]):
    release = 1
    libraries = ("math-verify", "latex2sympy2_extended", "sympy")

    def __init__(self, params: rewards.MathParams, mark: Mark = lambda _phase: None) -> None:
        super().__init__(params, mark)
        import math_verify

        self._parse, self._verify = math_verify.parse, math_verify.verify
        self._gold = lru_cache(ANSWERS)(self._read_answer)  # the rollouts of a group have one

    def grade(self, item: Item) -> Graded:
        answer = item.columns[self.params.column]
        if isinstance(answer, bool) or not isinstance(answer, str | int | float):
            raise TypeError(f"column {self.params.column!r}: expected a text or a number")
        gold = self._gold(str(answer))
        said = self._read(item.completion)
        if not said:
            raise Invalid("no mathematical expression in the completion")
        equal = self._verify(
            gold,
            said,
            float_rounding=self.params.float_rounding,
            strict=self.params.strict,
            timeout_seconds=None,
            raise_on_error=True,
        )
        return Graded(float(equal))

    def _read_answer(self, answer: str) -> list[object]:
        gold = self._read(answer) or self._read(f"${answer}$")
        if not gold:
            raise ValueError(f"column {self.params.column!r}: no expression in {answer[:80]!r}")
        return gold

    def _read(self, text: str) -> list[object]:
        found: list[object] = self._parse(text, parsing_timeout=None, raise_on_error=True)
        return found

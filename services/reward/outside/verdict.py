"""The number in a judge's answer: a grader of our own, since a pattern may take for ever and a process can be killed.

No request can name it. `Invalid` says that an answer holds no number, or one outside the range: the judge's failure.
"""

import re
import warnings
from collections import deque
from typing import Annotated, Literal

from pydantic import Field

from rekindle.types.rewards.basics import Exact, Params, Pattern
from services.reward import graders
from services.reward.graders.base import Graded, Grader, Invalid, Item, Mark

SECONDS = 1.0
"""For finding a number."""


class JudgeVerdictParams(Params):
    """E.g. `{"pattern": "(\\\\d+)", "low": 0, "high": 10}`."""

    pattern: Pattern
    low: float
    high: float
    seconds: Annotated[float, Field(gt=0)] = SECONDS


class JudgeVerdict(Exact):
    type: Literal["judge_verdict"] = "judge_verdict"
    params: JudgeVerdictParams


class JudgeVerdictGrader(Grader[JudgeVerdictParams]):
    release = 1

    def __init__(self, params: JudgeVerdictParams, mark: Mark = lambda _phase: None) -> None:
        super().__init__(params, mark)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            self._pattern = re.compile(params.pattern)

    def grade(self, item: Item) -> Graded:
        """The last match, its first group where there is one, as a share of the range."""
        self.mark("rollout")  # the pattern's code: one that hangs is not tried again
        found = deque(self._pattern.finditer(item.completion), maxlen=1)
        self.mark("own")
        text = found[0][1 if self._pattern.groups else 0] if found else None
        try:
            number = float(text or "")
        except ValueError:
            raise Invalid("no score in the judge's answer") from None
        low, high = self.params.low, self.params.high
        if not low <= number <= high:
            raise Invalid(f"the judge's score {number:g} is not between {low:g} and {high:g}")
        return Graded((number - low) / (high - low))


graders.register(JudgeVerdict, JudgeVerdictGrader)

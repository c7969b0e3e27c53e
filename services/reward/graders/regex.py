"""Regular expressions: the completion matches, and says the right thing in the group that is asked for.

A pattern that takes for ever on some completion hangs: whoever runs the grader ends it, and that is a timeout.
"""

import re
import warnings

from rekindle.types import rewards
from services.reward.graders.base import Graded, Grader, Invalid, Item, Mark, text_column


class RegexGrader(Grader[rewards.RegexParams]):
    release = 1

    def __init__(self, params: rewards.RegexParams, mark: Mark = lambda _phase: None) -> None:
        super().__init__(params, mark)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            pattern = re.compile(params.pattern, params.flags)
        self._match = pattern.fullmatch if params.full else pattern.search

    def grade(self, item: Item) -> Graded:
        match = self._match(item.completion)
        if self.params.column is None:
            return Graded(float(match is not None))
        found = None if match is None else match.group(self.params.group)
        if found is None:
            raise Invalid("the pattern does not match: there is nothing to compare")
        return Graded(float(found.strip() == text_column(item, self.params.column).strip()))

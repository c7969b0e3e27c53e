"""Exact match: the completion is the answer, or one of the answers."""

from rekindle.types import rewards
from services.reward.graders.base import Graded, Grader, Item


class ExactMatchGrader(Grader[rewards.ExactMatchParams]):
    release = 1

    def grade(self, item: Item) -> Graded:
        answers = item.columns[self.params.column]
        answers = answers if isinstance(answers, list) else [answers]
        said = self._normal(item.completion)
        return Graded(float(any(said == self._normal(_text(answer)) for answer in answers)))

    def _normal(self, text: str) -> str:
        text = text.strip() if self.params.strip else text
        return text.casefold() if self.params.casefold else text


def _text(answer: object) -> str:
    """Raises TypeError for what has more than one spelling."""
    if isinstance(answer, bool) or not isinstance(answer, str | int):
        raise TypeError(f"an answer is a {type(answer).__name__}, expected a text or a whole number")
    return str(answer)

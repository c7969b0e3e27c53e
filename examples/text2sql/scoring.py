"""The seam between the loop and who judges its answers: in the loop, or the reward service.

Asking does not wait: the loop asks for the scores of a group as soon as it has its answers, and collects them when all
groups are there. A score is the judge's opinion; where the judge itself failed there is none, and the answer belongs
in no batch.
"""

from collections.abc import Sequence
from typing import Literal, Protocol

from examples.text2sql.questions import Task

JudgeName = Literal["reward", "loop"]
Answer = tuple[Task, str]
"""A question and the SQL that answers it."""


class JudgeError(RuntimeError):
    """The judge failed on too many of the answers that it was asked about."""


class Scores(Protocol):
    """Scores to come."""

    def result(self) -> list[float | None]:
        """Wait for them: one an answer, in their order; None where the judge failed."""


class Judge(Protocol):
    """Gives 1 for the right rows, 0.1 for a query that runs, 0 otherwise."""

    def score(self, answers: Sequence[Answer]) -> Scores:
        """Begin to score; returns at once."""

"""The judge in the loop: every answer is run here, in the loop's own process, on the database's file."""

from collections.abc import Sequence
from dataclasses import dataclass

from examples.text2sql.judge import judge
from examples.text2sql.scoring import Answer


@dataclass(frozen=True)
class Judged:
    """Scores that are there already."""

    scores: list[float | None]

    def result(self) -> list[float | None]:
        return self.scores


class LoopJudge:
    """Scores as it is asked. A judge that fails ends the run: nobody is there to try again."""

    def score(self, answers: Sequence[Answer]) -> Judged:
        """Raises sqlite3.Error if the judge itself is at fault, as with a database that is gone."""
        return Judged([judge(sql, task.database, task.reference).value for task, sql in answers])

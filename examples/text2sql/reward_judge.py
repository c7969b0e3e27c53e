"""The reward service as judge: SQL travels with its database and the right rows, a score comes back.

The grader `sql` gives the verdicts of `judge.py` within the same limits, as numbers. Answers on one database are one
request. Where the grader failed (`error`, `timeout`) there is no score. It knows nothing of sampling or training.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from examples.text2sql.databases import dump, rows_as_json
from examples.text2sql.judge import MAX_CELL_BYTES, MAX_ROWS, MAX_SQL_BYTES, SECONDS, Verdict
from examples.text2sql.questions import Task
from examples.text2sql.scoring import Answer
from rekindle import Future
from rekindle.rewards import Rewards
from rekindle.types.rewards import ScoreResponse

GRADER = {
    "type": "sql",
    "params": {
        "schema_column": "ddl",
        "data_column": "data",
        "rows_column": "rows",
        "ordered_column": "ordered",
        "pattern": "(.*)",  # the loop has taken the SQL out of the completion already
        "partial": Verdict.RUNS.value,
        "seconds": SECONDS,
        "max_rows": MAX_ROWS,
        "max_sql_bytes": MAX_SQL_BYTES,
        "max_cell_bytes": MAX_CELL_BYTES,
    },
    "invalid_value": Verdict.FAILS.value,
}


@dataclass(frozen=True)
class Requested:
    """Scores under way: of each request, the places of its items among `count` answers."""

    parts: list[tuple[list[int], Future[ScoreResponse]]]
    count: int

    def result(self) -> list[float | None]:
        """Raises rekindle.RekindleError when a request failed as a whole."""
        scores: list[float | None] = [None] * self.count
        for indices, future in self.parts:
            for index, score in zip(indices, future.result().scores, strict=True):
                scores[index] = score.value
        return scores


class RewardJudge:
    """Asks the reward service of one server."""

    def __init__(self, rewards: Rewards) -> None:
        self._rewards = rewards

    def score(self, answers: Sequence[Answer]) -> Requested:
        """Raises OwnDataError for a database or rows that cannot travel."""
        by_database: dict[Path, list[int]] = {}
        for index, (task, _sql) in enumerate(answers):
            by_database.setdefault(task.database, []).append(index)
        parts = [
            (indices, self._request(database, [answers[index] for index in indices]))
            for database, indices in by_database.items()
        ]
        return Requested(parts, len(answers))

    def _request(self, database: Path, answers: Sequence[Answer]) -> Future[ScoreResponse]:
        script = dump(database)
        items = [
            {"prompt": task.question, "completion": sql, "columns": _columns(task)} for task, sql in answers
        ]
        return self._rewards.score(GRADER, items, columns={"ddl": script.ddl, "data": script.data})


def _columns(task: Task) -> dict[str, Any]:
    return {"rows": json.loads(rows_as_json(task.reference)), "ordered": task.reference.ordered}

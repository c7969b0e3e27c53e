"""The reward service as judge: SQL travels with its database and the right rows, a score comes back.

The grader `sql` gives the verdicts of `judge.py` within the same limits, as numbers. Where the grader failed
(`error`, `timeout`) there is no score. It knows nothing of sampling or training.
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

TOGETHER = 32
"""Answers after which a request is sent: as many as one worker takes at a time."""
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


class Request:
    """Answers on one database, which are sent together."""

    def __init__(self, database: Path) -> None:
        self._database = database
        self._items: list[dict[str, Any]] = []
        self._future: Future[ScoreResponse] | None = None

    def __len__(self) -> int:
        return len(self._items)

    def add(self, task: Task, sql: str) -> int:
        """The place of this answer in the request."""
        rows = json.loads(rows_as_json(task.reference))
        columns = {"rows": rows, "ordered": task.reference.ordered}
        self._items.append({"prompt": task.question, "completion": sql, "columns": columns})
        return len(self._items) - 1

    def send(self, rewards: Rewards) -> None:
        script = dump(self._database)
        columns = {"ddl": script.ddl, "data": script.data}
        # How many failures are too many is for a step to say, not for one of its requests.
        self._future = rewards.score(GRADER, self._items, columns=columns, max_excluded=None)

    def score(self, place: int) -> float | None:
        assert self._future is not None, "it was sent"
        return self._future.result().scores[place].value


@dataclass(frozen=True)
class Asked:
    """Scores to come, each from a place in a request."""

    judge: "RewardJudge"
    places: list[tuple[Request, int]]

    def result(self) -> list[float | None]:
        """Raises rekindle.RekindleError when a request failed as a whole."""
        self.judge.send_all()
        return [request.score(place) for request, place in self.places]


class RewardJudge:
    """Asks the reward service of one server.

    A request costs more than a score: small groups on one database wait for each other, until there are `TOGETHER`
    answers or somebody wants a result.
    """

    def __init__(self, rewards: Rewards) -> None:
        self._rewards = rewards
        self._open: dict[Path, Request] = {}

    def score(self, answers: Sequence[Answer]) -> Asked:
        """Raises OwnDataError for a database or rows that cannot travel."""
        asked = Asked(self, [self._place(task, sql) for task, sql in answers])
        for database in [database for database, request in self._open.items() if len(request) >= TOGETHER]:
            self._open.pop(database).send(self._rewards)
        return asked

    def send_all(self) -> None:
        """Send what still waits for company."""
        while self._open:
            self._open.popitem()[1].send(self._rewards)

    def _place(self, task: Task, sql: str) -> tuple[Request, int]:
        request = self._open.setdefault(task.database, Request(task.database))
        return request, request.add(task, sql)

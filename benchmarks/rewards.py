"""How fast each grader scores, on one core.

    task bench -- rewards

One grading process, as the reward service runs one for each core; its parent, which follows every item, has
another. Items come in shards as on the queue, one after another; time through HTTP and NATS is not counted. Half of
the completions are right.
"""

import asyncio
import random
import statistics
import time
from typing import Any

from benchmarks.record import Cell, record
from rekindle.types.rewards import ScoreItem
from services.reward.commands import SHARD_ITEMS
from services.reward.graders import parse
from services.reward.pool import Pool

SHARDS, ROUNDS = 32, 5
PEOPLE = 40

Task = tuple[dict[str, Any], list[ScoreItem], dict[str, Any]]
"""(grader, items, shared columns)"""


def tasks() -> dict[str, Task]:
    """A task of `SHARD_ITEMS` items for each grader."""
    rng = random.Random(0)
    numbers = [rng.randrange(10, 100) for _ in range(SHARD_ITEMS)]
    said = [number + index % 2 for index, number in enumerate(numbers)]
    exact = [item(str(right), answer=left) for left, right in zip(numbers, said, strict=True)]
    prose = [
        item(f"First 12, then {right - 12} more: that is {right}.", answer=left)
        for left, right in zip(numbers, said, strict=True)
    ]
    latex = [
        item(rf"So $x = \boxed{{\frac{{{right}}}{{7}}}}$.", answer=rf"$\frac{{{2 * left}}}{{14}}$")
        for left, right in zip(numbers, said, strict=True)
    ]
    pattern = {"pattern": r"that is (\d+)", "group": 1, "column": "answer"}
    texts = [item(one.completion, answer=str(one.columns["answer"])) for one in prose]
    objects = [item(f'{{"name": "Ann", "age": {right if right % 2 else -right}}}') for right in said]
    person = {"properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0}}}
    return {
        "exact_match": ({"type": "exact_match"}, exact, {}),
        "regex": ({"type": "regex", "params": pattern}, texts, {}),
        "numeric": ({"type": "numeric"}, prose, {}),
        "math": ({"type": "math"}, latex, {}),
        "json_schema": (
            {"type": "json_schema", "params": {"schema": {"type": "object", "required": ["age"], **person}}},
            objects,
            {},
        ),
        "sql": sql_task(numbers, said),
        "weighted (numeric + regex)": (
            {
                "type": "weighted",
                "params": {
                    "graders": [
                        {"grader": {"type": "numeric"}, "weight": 0.9},
                        {"grader": {"type": "regex", "params": {"pattern": r"\.$"}}, "weight": 0.1},
                    ]
                },
            },
            prose,
            {},
        ),
    }


def sql_task(numbers: list[int], said: list[int]) -> Task:
    """Queries on one small database, with a reference query each."""
    rows = ", ".join(f"('name {number}', {number % 60 + 20}, {number * 37 % 90})" for number in range(PEOPLE))
    schema = f"CREATE TABLE people (name TEXT, age INTEGER, pay INTEGER); INSERT INTO people VALUES {rows};"
    query = "SELECT name, pay FROM people WHERE age > {} ORDER BY pay DESC LIMIT 5"
    items = [
        item(query.format(right), gold=query.format(left)) for left, right in zip(numbers, said, strict=True)
    ]
    params = {"query_column": "gold", "ordered": True, "partial": 0.1}
    return {"type": "sql", "params": params}, items, {"schema": schema}


def item(completion: str, **columns: Any) -> ScoreItem:
    return ScoreItem(prompt="", completion=completion, columns=columns)


async def measure(pool: Pool, task: Task) -> float:
    """Scores per second, the median of the rounds; a first one warms up."""
    spec, items, columns = parse(task[0]), task[1], task[2]
    speeds = []
    for _ in range(ROUNDS + 1):
        begin = time.perf_counter()
        for _ in range(SHARDS):
            scores = await pool.score("local", spec, items, columns)
            assert not any(score.excluded for score in scores), scores
        speeds.append(SHARDS * len(items) / (time.perf_counter() - begin))
    return statistics.median(speeds[1:])


async def measure_all() -> list[list[Cell]]:
    async with Pool(1) as pool:
        return [[name, round(await measure(pool, task))] for name, task in tasks().items()]


def main() -> None:
    """Measure and record the table."""
    rows = asyncio.run(measure_all())
    note = (
        f"One grading process and its parent; shards of {SHARD_ITEMS} items, {SHARDS} a round, medians of {ROUNDS} "
        f"rounds. SQL: {PEOPLE} rows, ordered results of 5 rows, a reference query for each item. The items of a "
        "round repeat, and what answers and reference queries come to is kept."
    )
    record("rewards", ["grader", "scores/s per core"], rows, command="task bench -- rewards", note=note)


if __name__ == "__main__":
    main()

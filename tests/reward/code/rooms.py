"""What the tests of code graders share: a sandbox a module, and rows as data sets hold them."""

import asyncio
from collections.abc import Sequence
from typing import Any

from rekindle.types import rewards
from rekindle.types.rewards import Score, ScoreItem
from services.reward.code.place import Place
from services.reward.code.python import PythonRunner

ADD = "def add(a, b):\n    return a + b\n"


async def judged(
    place: Place, program: str, tests: object, columns: dict[str, Any] | None = None, **params: Any
) -> Score:
    """The score of one completion that is all program."""
    (score,) = await scored(place, [program], {"tests": tests, **(columns or {})}, **params)
    return score


async def scored(
    place: Place, completions: Sequence[str], columns: dict[str, Any], **params: Any
) -> list[Score]:
    spec = rewards.Python(params=rewards.PythonParams(**params), invalid_value=-1.0)
    items = [ScoreItem(prompt="", completion=completion) for completion in completions]
    return await PythonRunner(place, asyncio.Semaphore(2)).score("t", spec, items, columns)

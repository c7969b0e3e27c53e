"""Who is asked to score what, and what is not asked twice."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from pydantic import TypeAdapter

from events.failure import BusUnavailable
from rekindle.types import rewards
from rekindle.types.rewards import Score, ScoreItem
from services.reward.runner import Verdict, as_score
from services.reward.scorer import Scorer

MATH = {"type": "math"}
EXACT = {"type": "exact_match"}


class Recorder:
    """Scores an item by the length of its completion, and fails where it is empty."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.meeting: asyncio.Barrier | None = None

    async def score(
        self, tenant: str, spec: rewards.Single, items: Sequence[ScoreItem], columns: dict[str, Any]
    ) -> list[Score]:
        self.asked += [f"{tenant}:{item.completion}" for item in items]
        if self.meeting is not None:
            await self.meeting.wait()
        verdicts = [
            Verdict("scored", float(len(item.completion))) if item.completion else Verdict("error")
            for item in items
        ]
        return [as_score(verdict, "x", 0.0, 1) for verdict in verdicts]


def grader(spec: dict) -> rewards.Grader:
    return TypeAdapter(rewards.Grader).validate_python(spec)


def items(*completions: str, **columns: Any) -> list[ScoreItem]:
    return [ScoreItem(prompt="p", completion=text, columns=columns) for text in completions]


def values(scores: list[Score]) -> list[float | None]:
    return [score.value for score in scores]


async def test_equal_items_of_a_pure_grader_are_scored_once_and_remembered():
    runner = Recorder()
    scorer = Scorer({"math": runner})
    for _ in range(2):
        scores = await scorer.score("t", grader(MATH), items("a", "bb", "a"))
        assert values(scores) == [1.0, 2.0, 1.0]
    assert runner.asked == ["t:a", "t:bb"]


async def test_what_differs_in_anything_that_counts_is_scored_again():
    runner = Recorder()
    scorer = Scorer({"math": runner})
    await scorer.score("t", grader(MATH), items("a", answer=1))
    await scorer.score("t", grader(MATH), items("a", answer=2))
    await scorer.score("t", grader(MATH), items("a"), {"answer": 1})
    await scorer.score("u", grader(MATH), items("a", answer=1))
    await scorer.score("t", grader({**MATH, "params": {"strict": False}}), items("a", answer=1))
    assert len(runner.asked) == 5


async def test_failures_are_not_remembered():
    runner = Recorder()
    scorer = Scorer({"math": runner})
    for _ in range(2):
        (one,) = await scorer.score("t", grader(MATH), items(""))
        assert one.outcome == "error"
    assert len(runner.asked) == 2


async def test_a_grader_that_is_quicker_than_a_look_is_asked_each_time():
    runner = Recorder()
    await Scorer({"exact_match": runner}).score("t", grader(EXACT), items("a", "a"))
    assert len(runner.asked) == 2


async def test_the_components_of_a_combination_are_asked_at_once():
    math, exact = Recorder(), Recorder()
    math.meeting = exact.meeting = asyncio.Barrier(2)
    parts = [{"grader": MATH, "weight": 1.0}, {"grader": EXACT, "weight": 10.0}]
    spec = grader({"type": "weighted", "params": {"graders": parts}})
    async with asyncio.timeout(10):
        scores = await Scorer({"math": math, "exact_match": exact}).score("t", spec, items("a", "bb"))
    assert values(scores) == [11.0, 22.0]


class Away:
    """A runner that the bus keeps from its work."""

    async def score(self, *_: object) -> list[Score]:
        raise BusUnavailable("no answer")


async def test_an_error_of_a_component_is_raised_as_it_is_and_ends_the_others():
    endless = Recorder()
    endless.meeting = asyncio.Barrier(2)
    parts = [{"grader": MATH, "weight": 1.0}, {"grader": EXACT, "weight": 1.0}]
    spec = grader({"type": "weighted", "params": {"graders": parts}})
    with pytest.raises(BusUnavailable):  # by which a worker knows that it says nothing of the items
        await Scorer({"math": endless, "exact_match": Away()}).score("t", spec, items("a"))
    assert endless.meeting.n_waiting == 0

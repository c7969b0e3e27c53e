"""Combinations of graders, and what becomes of a whole whose parts fail; values worked out by hand."""

import pytest

from rekindle.types.rewards import Component, Score
from services.reward.combine import combine

NUMBER = {"type": "numeric", "invalid_value": -1.0}
SHORT = {"type": "regex", "params": {"pattern": ".{0,5}", "full": True}}
MINE = {"type": "function", "params": {"name": "mine"}}


def score(outcome: str, value: float | None = None, reason: str | None = None, attempts: int = 1) -> Score:
    reason = reason or (None if outcome == "scored" else "why")
    return Score(
        outcome=outcome, value=value, reason=reason, grader_version="x-1", seconds=0.5, attempts=attempts
    )


def whole(*parts: tuple[dict, float, Score]) -> Score:
    components = [
        Component.model_validate({"grader": grader, "weight": weight}) for grader, weight, _ in parts
    ]
    return combine(components, [found for *_, found in parts], "weighted-1+0")


def test_a_combination_is_the_weighted_sum():
    found = whole((NUMBER, 2.0, score("scored", 1.0)), (SHORT, 0.5, score("scored", 1.0, attempts=3)))
    assert (found.outcome, found.value, found.attempts, found.seconds) == ("scored", 2.5, 3, 1.0)
    assert found.grader_version == "weighted-1+0"


def test_an_invalid_component_gives_what_it_gives_alone():
    found = whole((NUMBER, 2.0, score("invalid", -1.0, "no number")), (SHORT, 0.5, score("scored", 1.0)))
    assert (found.outcome, found.value, found.reason) == ("scored", -1.5, "0: no number")


def test_a_combination_whose_components_are_all_invalid_is_invalid_with_their_sum():
    found = whole((NUMBER, 2.0, score("invalid", -1.0)), (NUMBER, 1.0, score("invalid", -1.0)))
    assert (found.outcome, found.value) == ("invalid", -3.0)


def test_a_combination_with_an_invalid_component_without_a_number_has_none():
    found = whole((NUMBER, 2.0, score("invalid")), (SHORT, 0.5, score("scored", 1.0)))
    assert (found.outcome, found.value) == ("invalid", None)


@pytest.mark.parametrize("outcome", ["error", "timeout"])
def test_a_failure_of_a_component_is_that_of_the_whole(outcome: str):
    found = whole((SHORT, 0.5, score("scored", 1.0)), (NUMBER, 2.0, score(outcome, reason="broken")))
    assert (found.outcome, found.value, found.reason) == (outcome, None, "1: broken")


def test_a_function_that_does_not_apply_is_no_term():
    found = whole((MINE, 2.0, score("invalid", reason="does not apply")), (SHORT, 0.5, score("scored", 1.0)))
    assert (found.outcome, found.value) == ("scored", 0.5)


def test_where_nothing_applies_there_is_no_value():
    found = whole((MINE, 2.0, score("invalid")), (MINE, 1.0, score("invalid")))
    assert (found.outcome, found.value) == ("invalid", None)

"""The messages of rewards: what is refused, with which field, and which outcomes may carry a number."""

import re
from unittest.mock import Mock

import pytest
from pydantic import ValidationError

from rekindle.types import InvalidField
from rekindle.types.fields import parse_json
from rekindle.types.rewards import CHECKED, Regex, Score, ScoreItem, ScoreRequest, ScoreResponse

ITEM = '{"prompt": "p", "completion": "c", "columns": {"answer": "1"}}'


def request(grader: str = '{"type": "math"}', items: str = f"[{ITEM}]", rest: str = '"idempotency_key": "k"'):
    return parse_json(ScoreRequest, f'{{"grader": {grader}, "items": {items}, {rest}}}')


@pytest.mark.parametrize(
    "grader",
    [
        '{"type": "exact_match", "params": {"column": "answer", "casefold": true}}',
        '{"type": "regex", "params": {"pattern": "a(b)", "group": 1, "column": "answer"}}',
        '{"type": "numeric", "invalid_value": null}',
        '{"type": "json_schema", "params": {"schema": {"type": "object"}}}',
        '{"type": "sql", "params": {"schema_column": "answer", "rows_column": "answer", "seconds": 0.5}}',
        '{"type": "weighted", "params": {"graders": [{"grader": {"type": "math"}, "weight": -1}]}}',
    ],
)
def test_a_grader_comes_back_as_it_was_sent(grader: str):
    sent = request(grader)
    assert parse_json(ScoreRequest, sent.model_dump_json()) == sent


def test_no_pattern_is_compiled_of_what_was_checked_before(monkeypatch: pytest.MonkeyPatch):
    grader = '{"type": "regex", "params": {"pattern": "(%s)", "group": %d, "column": "answer"}}'
    compile = Mock(wraps=re.compile)
    monkeypatch.setattr(re, "compile", compile)
    Regex.model_validate_json(grader % ("a", 1), context=CHECKED)
    assert not compile.called
    Regex.model_validate_json(grader % ("a", 1))
    assert compile.called


def test_null_is_a_value_of_its_own():
    assert request('{"type": "math", "invalid_value": null}').grader.invalid_value is None
    assert request().grader.invalid_value == 0.0


NESTED = '{"type": "weighted", "params": {"graders": [{"grader": %s, "weight": 1}]}}'


@pytest.mark.parametrize(
    ("grader", "field", "reason"),
    [
        ('{"type": "llm"}', "grader", "does not match any"),
        ('{"type": "math", "params": {"columm": "x"}}', "grader.math.params.columm", "not permitted"),
        ('{"type": "math", "extra": 1}', "grader.math.extra", "not permitted"),
        ('{"type": "math", "invalid_value": 1e999}', "grader.math.invalid_value", "finite"),
        ('{"type": "math", "invalid_value": 1e7}', "grader.math.invalid_value", "less than"),
        ('{"type": "math", "params": {"seconds": 0}}', "grader.math.params.seconds", "greater than 0"),
        ('{"type": "math", "params": {"seconds": 61}}', "grader.math.params.seconds", "less than"),
        ('{"type": "regex", "params": {"pattern": "("}}', "grader.regex.params.pattern", "not a regular"),
        ('{"type": "regex", "params": {}}', "grader.regex.params.pattern", "missing"),
        (
            '{"type": "regex", "params": {"pattern": "(a)", "group": 2, "column": "answer"}}',
            "grader.regex.params.group",
            "no group",
        ),
        (
            '{"type": "regex", "params": {"pattern": "(a)", "group": 1}}',
            "grader.regex.params.group",
            "column",
        ),
        ('{"type": "numeric", "params": {"abs": -1}}', "grader.numeric.params.abs", "greater than"),
        ('{"type": "json_schema", "params": {"schema": 3}}', "grader.json_schema.params.schema", ""),
        (
            '{"type": "json_schema", "params": {"schema": {"title": "' + "x" * 33_000 + '"}}}',
            "grader.json_schema.params.schema",
            "33",
        ),
        ('{"type": "sql", "params": {}}', "grader.sql.params.rows_column", "exactly one"),
        (
            '{"type": "sql", "params": {"rows_column": "a", "query_column": "b"}}',
            "grader.sql.params.rows_column",
            "exactly one",
        ),
        (
            NESTED % (NESTED % '{"type": "math"}'),
            "grader.weighted.params.graders[0].grader",
            "does not match",
        ),
        ('{"type": "weighted", "params": {"graders": []}}', "grader.weighted.params.graders", "at least 1"),
        ('{"type": "weighted", "params": {"graders": []}, "invalid_value": 0}', "grader.weighted", ""),
    ],
)
def test_a_wrong_grader_is_refused_with_its_field(grader: str, field: str, reason: str):
    with pytest.raises(InvalidField) as caught:
        request(grader)
    assert caught.value.field.startswith(field) and reason in caught.value.reason


@pytest.mark.parametrize(
    ("items", "rest", "field"),
    [
        ("[]", '"idempotency_key": "k"', "items"),
        (f"[{', '.join([ITEM] * 4097)}]", '"idempotency_key": "k"', "items"),
        ('[{"prompt": "p"}]', '"idempotency_key": "k"', "items[0].completion"),
        (f"[{ITEM}]", '"idempotency_key": ""', "idempotency_key"),
        (f"[{ITEM}]", f'"idempotency_key": "{"k" * 129}"', "idempotency_key"),
        (f"[{ITEM}]", '"columns": {}', "idempotency_key"),
        (f'[{ITEM}, {{"prompt": "", "completion": ""}}]', '"idempotency_key": "k"', "items[1].columns"),
    ],
)
def test_a_wrong_request_is_refused_with_its_field(items: str, rest: str, field: str):
    with pytest.raises(InvalidField) as caught:
        request(items=items, rest=rest)
    assert caught.value.field == field


def test_shared_columns_are_every_items():
    bare = '[{"prompt": "", "completion": ""}]'
    assert request(items=bare, rest='"columns": {"answer": 1}, "idempotency_key": "k"').columns == {
        "answer": 1
    }


def score(outcome: str, value: float | None, reason: str | None = "why") -> Score:
    return Score(
        outcome=outcome, value=value, reason=reason, grader_version="math-1+00000000", seconds=0.1, attempts=1
    )


@pytest.mark.parametrize(
    ("outcome", "value", "reason"),
    [
        ("error", 0.0, "why"),
        ("timeout", 0.0, "why"),
        ("scored", None, None),
        ("scored", float("nan"), None),
        ("scored", float("inf"), None),
        ("invalid", 0.0, None),
        ("error", None, None),
        ("timeout", None, ""),
    ],
)
def test_a_score_that_lies_cannot_be_made(outcome: str, value: float | None, reason: str | None):
    with pytest.raises((ValidationError, InvalidField)):
        score(outcome, value, reason)


def test_errors_and_timeouts_are_excluded_and_counted():
    scores = (score("scored", 1.0, None), score("invalid", 0.0), score("error", None), score("timeout", None))
    response = ScoreResponse.of(scores)
    assert response.excluded == 2 and [one.excluded for one in scores] == [False, False, True, True]
    with pytest.raises((ValidationError, InvalidField)):
        ScoreResponse(scores=scores, excluded=0)


def test_an_item_is_frozen_and_takes_nothing_else():
    item = ScoreItem(prompt="p", completion="c")
    with pytest.raises(ValidationError):
        item.prompt = "q"
    with pytest.raises(ValidationError):
        ScoreItem(prompt="p", completion="c", rewards=1)

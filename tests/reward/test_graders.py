"""What each grader makes of a completion, with values worked out by hand."""

import pytest

from events.grading import check_grader
from rekindle.types import rewards as wire
from rekindle.types.errors import InvalidField
from services.reward import graders
from services.reward.graders.base import Graded, Item, unfenced


def grade(type_: str, completion: str, columns: dict | None = None, **params) -> Graded:
    spec = graders.parse({"type": type_, "params": params, "invalid_value": -1.0})
    return graders.load(spec)(Item("", completion, columns or {}))


@pytest.mark.parametrize(
    ("completion", "answer", "params", "value"),
    [
        ("Paris", "Paris", {}, 1.0),
        (" Paris\n", "Paris", {}, 1.0),
        (" Paris", "Paris", {"strip": False}, 0.0),
        ("paris", "Paris", {}, 0.0),
        ("STRASSE", "straße", {"casefold": True}, 1.0),
        ("42", 42, {}, 1.0),
        ("b", ["a", "b"], {}, 1.0),
        ("c", ["a", "b"], {}, 0.0),
    ],
)
def test_exact_match(completion: str, answer: object, params: dict, value: float):
    assert grade("exact_match", completion, {"answer": answer}, **params).value == value


@pytest.mark.parametrize("answer", [True, 1.5, None, {"a": 1}])
def test_an_answer_with_more_than_one_spelling_is_the_datas_fault(answer: object):
    with pytest.raises(TypeError, match="expected a text or a whole number"):
        grade("exact_match", "1", {"answer": answer})


def test_a_missing_column_is_the_graders_error():
    with pytest.raises(KeyError):
        grade("exact_match", "1", {})


@pytest.mark.parametrize(
    ("completion", "params", "graded"),
    [
        ("so 42.", {"pattern": r"\d+"}, Graded(1.0)),
        ("so", {"pattern": r"\d+"}, Graded(0.0)),
        ("so 42.", {"pattern": r"\d+", "full": True}, Graded(0.0)),
        ("YES", {"pattern": "yes", "ignore_case": True}, Graded(1.0)),
        ("a\nb", {"pattern": "a.b", "dotall": True}, Graded(1.0)),
        ("a\nb", {"pattern": "^b$", "multiline": True}, Graded(1.0)),
        ("<a> 42 </a>", {"pattern": "<a>(.*)</a>", "group": 1, "column": "answer"}, Graded(1.0)),
        ("<a>43</a>", {"pattern": "<a>(?P<x>.*)</a>", "group": "x", "column": "answer"}, Graded(0.0)),
    ],
)
def test_regex(completion: str, params: dict, graded: Graded):
    assert grade("regex", completion, {"answer": "42"}, **params) == graded


def test_a_completion_with_nothing_to_compare_is_invalid():
    graded = grade("regex", "hm", {"answer": "42"}, pattern="<a>(.*)</a>", group=1, column="answer")
    assert (graded.valid, graded.value) == (False, -1.0) and "does not match" in str(graded.reason)


@pytest.mark.parametrize(
    ("completion", "answer", "params", "value"),
    [
        ("It is 42.", 42, {}, 1.0),
        ("7 apples, so 42", 42, {}, 1.0),
        ("42, not 7", 42, {}, 0.0),
        ("42, not 7", 42, {"pick": "first"}, 1.0),
        ("$1,234.50", 1234.5, {}, 1.0),
        ("−3", -3, {}, 1.0),
        ("2e-3", 0.002, {}, 1.0),
        (".5", 0.5, {}, 1.0),
        ("3 - 4", "#### 4", {}, 1.0),
        ("10-3", 3, {}, 1.0),
        ("x2 = 5", 5, {}, 1.0),
        ("100.4", 100, {"abs": 0.5}, 1.0),
        ("100.4", 100, {"abs": 0.3}, 0.0),
        ("101", 100, {"rel": 0.01}, 1.0),
        ("9" * 400, 1, {}, 0.0),
    ],
)
def test_numeric(completion: str, answer: object, params: dict, value: float):
    assert grade("numeric", completion, {"answer": answer}, **params).value == value


def test_a_completion_without_a_number_is_invalid():
    assert grade("numeric", "no idea, v1b", {"answer": 1}) == Graded(
        -1.0, "no number in the completion", False
    )


@pytest.mark.parametrize("answer", ["none", True, None, [1], float("inf")])
def test_an_answer_that_is_no_number_is_the_datas_fault(answer: object):
    with pytest.raises((TypeError, ValueError)):
        grade("numeric", "1", {"answer": answer})


@pytest.mark.parametrize(
    ("completion", "answer", "value"),
    [
        (r"Thus \boxed{0.5}.", r"\frac{1}{2}", 1.0),
        (r"$x + x$", "$2x$", 1.0),
        (r"\boxed{(x+1)^2}", "$x^2 + 2x + 1$", 1.0),
        (r"\boxed{3}", "4", 0.0),
        ("The answer is 1/2", 0.5, 1.0),
        (r"\boxed{\{2, 1\}}", r"$\{1, 2\}$", 1.0),
    ],
)
def test_math(completion: str, answer: object, value: float):
    assert grade("math", completion, {"answer": answer}).value == value


def test_a_completion_without_mathematics_is_invalid():
    assert not grade("math", "I would rather not say.", {"answer": "4"}).valid


def test_an_answer_without_mathematics_is_the_datas_fault():
    with pytest.raises(ValueError, match="no expression"):
        grade("math", r"\boxed{3}", {"answer": ""})


PERSON = {"type": "object", "properties": {"age": {"type": "integer", "minimum": 0}}, "required": ["age"]}


@pytest.mark.parametrize(
    ("completion", "params", "value", "valid"),
    [
        ('{"age": 3}', {}, 1.0, True),
        ('{"age": -3}', {}, 0.0, True),
        ("{}", {}, 0.0, True),
        ("3", {}, 0.0, True),
        ("{age: 3}", {}, -1.0, False),
        ('{"age": NaN}', {}, -1.0, False),
        ('{"age": 1e999}', {}, -1.0, False),
        ('{"age": ' + "9" * 400 + "}", {}, -1.0, False),
        ("[" * 100 + "]" * 100, {}, -1.0, False),
        ("[" * 100_000, {}, -1.0, False),
        ("", {}, -1.0, False),
        ('Here:\n```json\n{"age": 3}\n```\nDone.', {}, -1.0, False),
        ('Here:\n```json\n{"age": 3}\n```\nDone.', {"fenced": True}, 1.0, True),
    ],
)
def test_json_schema(completion: str, params: dict, value: float, valid: bool):
    graded = grade("json_schema", completion, schema=PERSON, **params)
    assert (graded.value, graded.valid) == (value, valid), graded
    assert value == 1.0 or graded.reason


def test_a_recursive_schema_takes_the_deepest_completion():
    tree = {"type": "array", "items": {"$ref": "#"}}
    assert grade("json_schema", "[" * 64 + "]" * 64, schema=tree).value == 1.0
    assert not grade("json_schema", "[" * 65 + "]" * 65, schema=tree).valid


def test_no_schema_is_fetched():
    with pytest.raises(Exception, match="Unresolvable"):
        grade("json_schema", "1", schema={"$ref": "http://127.0.0.1:9/schema.json"})


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "thing"},
        {"minimum": "3"},
        {"pattern": "("},
        {"$schema": []},
        {"$schema": 5},
        {"$schema": "http://["},
    ],
)
def test_what_is_no_schema_is_refused(schema: dict):
    spec = graders.parse({"type": "json_schema", "params": {"schema": schema}})
    with pytest.raises(InvalidField, match="no JSON schema"):
        check_grader(spec)
    part = {"grader": {"type": "json_schema", "params": {"schema": schema}}, "weight": 1.0}
    with pytest.raises(InvalidField, match=r"grader.params.graders\[0\].grader.params.schema"):
        check_grader(wire.Weighted.model_validate({"params": {"graders": [part]}}))


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        ("SELECT 1", "SELECT 1"),
        ("```sql\nSELECT 1\n```", "SELECT 1\n"),
        ("```\nSELECT 1\n```", "SELECT 1\n"),
        ("one ```a``` two ```sql\nb\n``` end", "b\n"),
        ("```SELECT 1```", "SELECT 1"),
        ("```sql\nSELECT 1", "```sql\nSELECT 1"),
        ("```sql\nSELECT 1\n``` and ```SELECT 2", "SELECT 1\n"),
    ],
)
def test_the_last_closed_block_of_code_counts(text: str, inside: str):
    assert unfenced(text) == inside

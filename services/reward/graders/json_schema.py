"""JSON Schema: the completion is JSON, and the schema admits it, by jsonschema.

References are looked up in the schema and among the published drafts; nothing is ever fetched.
"""

import json
import math
from typing import Any, NoReturn

from rekindle.types import rewards
from services.reward.graders.base import Graded, Grader, Invalid, Item, Mark, unfenced

MAX_DEPTH = 64
"""Deepest nesting of a completion: a recursive schema must not exhaust the stack on it."""


class JsonSchemaGrader(Grader[rewards.JsonSchemaParams]):
    release = 1
    libraries = ("jsonschema",)

    def __init__(self, params: rewards.JsonSchemaParams, mark: Mark = lambda _phase: None) -> None:
        super().__init__(params, mark)
        from jsonschema.validators import Draft202012Validator, validator_for
        from jsonschema_specifications import REGISTRY

        kind = validator_for(params.json_schema, Draft202012Validator)
        self._validator = kind(params.json_schema, registry=REGISTRY)  # the default registry fetches by HTTP

    def grade(self, item: Item) -> Graded:
        value = _read(unfenced(item.completion) if self.params.fenced else item.completion)
        mistake = next(self._validator.iter_errors(value), None)
        if mistake is None:
            return Graded(1.0)
        return Graded(0.0, f"{mistake.json_path}: {mistake.message}")


def _read(text: str) -> Any:
    try:
        value = json.loads(text, parse_constant=_refuse, parse_float=_finite, parse_int=_whole)
    except (ValueError, RecursionError) as error:
        raise Invalid(f"not JSON: {error}") from error
    if _depth(value) > MAX_DEPTH:
        raise Invalid(f"nested more than {MAX_DEPTH} deep")
    return value


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number of JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"a number of {len(digits)} characters is beyond a double")
    return number


def _whole(digits: str) -> int:
    _finite(digits)
    return int(digits)


def _depth(value: Any) -> int:
    """How deep lists and objects are nested, without recursion."""
    level, depth = [value], 0
    while level := [each for each in level if isinstance(each, dict | list)]:
        level = [child for each in level for child in (each.values() if isinstance(each, dict) else each)]
        depth += 1
    return depth

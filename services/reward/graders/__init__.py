"""The graders, by type.

`load` makes one from its description; `version` names everything that decides its values. A type that the wire does
not know can be added by `register`, in code alone: a request cannot name it.
"""

import hashlib
import json
from importlib import metadata
from typing import Any, get_args

from rekindle.types import rewards
from services.reward.graders.base import Graded, Grader, Invalid, Item, Judge, Mark
from services.reward.graders.exact_match import ExactMatchGrader
from services.reward.graders.json_schema import JsonSchemaGrader, check_schema
from services.reward.graders.math import MathGrader
from services.reward.graders.numeric import NumericGrader
from services.reward.graders.regex import RegexGrader
from services.reward.graders.sql import SqlGrader
from services.reward.graders.weighted import Part, WeightedGrader

GRADERS: dict[str, type[Grader[Any]] | type[WeightedGrader]] = {
    "exact_match": ExactMatchGrader,
    "regex": RegexGrader,
    "numeric": NumericGrader,
    "math": MathGrader,
    "json_schema": JsonSchemaGrader,
    "sql": SqlGrader,
    "weighted": WeightedGrader,
}
SPECS: dict[str, type[rewards.Exact]] = {
    kind.model_fields["type"].default: kind for kind in get_args(get_args(rewards.Grader)[0])
}
"""How each type is described."""


def register(spec: type[rewards.Exact], grader: type[Grader[Any]]) -> None:
    """Add a type of grader in this process."""
    type_ = spec.model_fields["type"].default
    SPECS[type_], GRADERS[type_] = spec, grader


def params_of(type_: str) -> type[rewards.Exact]:
    """The class of a type's parameters."""
    params: type[rewards.Exact] = SPECS[type_].model_fields["params"].annotation  # type: ignore[assignment]
    return params


def parse(value: dict[str, Any]) -> rewards.Grader:
    """A description that has been checked before, in whatever process."""
    spec: rewards.Grader = SPECS[value["type"]].model_validate(value, context=rewards.CHECKED)  # type: ignore[assignment]
    return spec


def load(spec: rewards.Grader, mark: Mark = lambda _phase: None) -> Judge:
    """A function (item) → opinion. What it raises is the grader's own failure; so is what loading raises."""
    if isinstance(spec, rewards.Weighted):
        parts = [
            Part(load(part.grader, mark), part.weight, part.grader.invalid_value)
            for part in spec.params.graders
        ]
        return WeightedGrader(parts, mark).grade
    kind = GRADERS[spec.type]
    assert issubclass(kind, Grader), f"{spec.type} is a combination"
    grader, invalid_value = kind(spec.params, mark), spec.invalid_value

    def judge(item: Item) -> Graded:
        try:
            return grader.grade(item)
        except Invalid as error:
            return Graded(invalid_value, str(error), valid=False)

    return judge


def release(type_: str) -> str:
    """`sql-1`: changes with the code."""
    return f"{type_}-{GRADERS[type_].release}"


def version(spec: rewards.Grader) -> str:
    """`sql-1+0f3a9c12`: changes with the code, the libraries and all that the task says."""
    if isinstance(spec, rewards.Weighted):
        decides: list[object] = [[version(part.grader), part.weight] for part in spec.params.graders]
    else:
        kind = GRADERS[spec.type]
        assert issubclass(kind, Grader), f"{spec.type} is a combination"
        decides = [spec.model_dump(mode="json"), [[name, metadata.version(name)] for name in kind.libraries]]
        decides += [kind.environment()]
    digest = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:8]
    return f"{release(spec.type)}+{digest}"


def check(spec: rewards.Grader, field: str = "grader.params") -> None:
    """What the description alone cannot tell. Raises InvalidField."""
    if isinstance(spec, rewards.Weighted):
        for index, part in enumerate(spec.params.graders):
            check(part.grader, f"{field}.graders[{index}].grader.params")
    if isinstance(spec, rewards.JsonSchema):
        check_schema(spec.params.json_schema, f"{field}.schema")

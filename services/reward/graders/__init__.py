"""The graders that run in processes of ours, by type.

`load` makes one from its description. A type that the wire does not know can be added by `register`, in code alone:
a request cannot name it.
"""

from typing import Any

from rekindle.types import rewards
from services.reward.graders.base import Graded, Grader, Invalid, Item, Judge, Mark
from services.reward.graders.exact_match import ExactMatchGrader
from services.reward.graders.json_schema import JsonSchemaGrader
from services.reward.graders.math import MathGrader
from services.reward.graders.numeric import NumericGrader
from services.reward.graders.regex import RegexGrader
from services.reward.graders.sql import SqlGrader

GRADERS: dict[str, type[Grader[Any]]] = {
    "exact_match": ExactMatchGrader,
    "regex": RegexGrader,
    "numeric": NumericGrader,
    "math": MathGrader,
    "json_schema": JsonSchemaGrader,
    "sql": SqlGrader,
}
SPECS: dict[str, type[rewards.Exact]] = {
    kind.model_fields["type"].default: kind
    for kind in (
        rewards.ExactMatch,
        rewards.Regex,
        rewards.Numeric,
        rewards.Math,
        rewards.JsonSchema,
        rewards.Sql,
    )
}
"""How each type is described."""


def register(spec: type[rewards.Exact], grader: type[Grader[Any]]) -> None:
    """Add a type of grader in this process."""
    type_ = spec.model_fields["type"].default
    SPECS[type_], GRADERS[type_] = spec, grader


def parse(value: dict[str, Any]) -> rewards.Single:
    """A description that has been checked before, in whatever process."""
    spec: rewards.Single = SPECS[value["type"]].model_validate(value, context=rewards.CHECKED)  # type: ignore[assignment]
    return spec


def load(spec: rewards.Single, mark: Mark = lambda _phase: None) -> Judge:
    """A function (item) → opinion. What it raises is the grader's own failure; so is what loading raises."""
    grader, invalid_value = GRADERS[spec.type](spec.params, mark), getattr(spec, "invalid_value", None)

    def judge(item: Item) -> Graded:
        try:
            return grader.grade(item)
        except Invalid as error:
            return Graded(invalid_value, str(error), valid=False)

    return judge

"""How to score: `{"type", "params", "invalid_value"}`, alone or in combination."""

from typing import Annotated, Literal

from pydantic import Field

from rekindle.types.rewards.basics import Exact
from rekindle.types.rewards.code import Function, Python
from rekindle.types.rewards.outside import LlmJudge, Remote
from rekindle.types.rewards.texts import ExactMatch, JsonSchema, Math, Numeric, Regex, Sql

MAX_COMPONENTS = 16

Single = Annotated[
    ExactMatch | Regex | Numeric | Math | JsonSchema | Sql | Python | Function | Remote | LlmJudge,
    Field(discriminator="type"),
]
"""A grader that is no combination."""


class Component(Exact):
    """One part of a combination. E.g. `{"grader": {"type": "math"}, "weight": 0.8}`."""

    grader: Single
    weight: Annotated[float, Field(ge=-1e6, le=1e6)]


class WeightedParams(Exact):
    graders: Annotated[tuple[Component, ...], Field(min_length=1, max_length=MAX_COMPONENTS)]

    @property
    def seconds(self) -> float:
        """Wall-clock limit of one item: each component has its own."""
        return sum(component.grader.params.seconds for component in self.graders)

    def needs(self) -> tuple[str, ...]:
        names = [name for component in self.graders for name in component.grader.params.needs()]
        return tuple(dict.fromkeys(names))


class Weighted(Exact):
    """The weighted sum of what the components give; an `invalid` one gives its `invalid_value`.

    The whole is `invalid` if all components are, with the sum as its value, or if one is whose `invalid_value` is None,
    without a value. An error or timeout of one is that of the whole. A function or service that does
    not apply is no term.
    """

    type: Literal["weighted"] = "weighted"
    params: WeightedParams


Grader = Annotated[
    ExactMatch | Regex | Numeric | Math | JsonSchema | Sql | Python | Function | Remote | LlmJudge | Weighted,
    Field(discriminator="type"),
]
"""How to score, e.g. `{"type": "numeric", "params": {"column": "answer"}, "invalid_value": -1.0}`."""

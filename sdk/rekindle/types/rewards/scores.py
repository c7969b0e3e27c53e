"""What is scored, and what became of each item.

Four outcomes, and only the first two may carry a number:

scored   the grader has an opinion
invalid  the rollout's own text or query was wrong or passed a limit; worth `invalid_value`
error    the grader's own code raised or its process died; never a number
timeout  the grader's own code overran its time; never a number
"""

from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue, StringConstraints, model_validator

from rekindle.types.errors import InvalidField
from rekindle.types.fields import Id
from rekindle.types.rewards.basics import Exact
from rekindle.types.rewards.grader import Grader

MAX_ITEMS = 4096
"""Items of one request."""

Outcome = Literal["scored", "invalid", "error", "timeout"]


class ScoreItem(Exact):
    """One rollout. E.g. `{"prompt": "6 * 7?", "completion": "42", "columns": {"answer": 42}}`."""

    prompt: str
    completion: str
    columns: dict[str, JsonValue] = Field(default_factory=dict)
    """Of the data set's row; they win over the request's."""
    sequence_id: Id | None = None
    """The sampled sequence that it scores, for the record; None: not known."""


class ScoreRequest(Exact):
    """Body of `rewards/score`. E.g. `{"grader": {"type": "math"}, "items": [...], "idempotency_key": "step-1"}`."""

    grader: Grader
    items: Annotated[tuple[ScoreItem, ...], Field(min_length=1, max_length=MAX_ITEMS)]
    columns: dict[str, JsonValue] = Field(default_factory=dict)
    """Shared by all items."""
    idempotency_key: Annotated[str, StringConstraints(min_length=1, max_length=128)]
    """A request that is sent again with the same key has the same future and is scored once."""

    @model_validator(mode="after")
    def _columns_are_there(self) -> "ScoreRequest":
        needed = [name for name in self.grader.params.needs() if name not in self.columns]
        for index, item in enumerate(self.items):
            for name in needed:
                if name not in item.columns:
                    raise InvalidField(f"items[{index}].columns", f"column {name!r} is missing")
        return self


class Score(Exact):
    """What became of one item."""

    outcome: Outcome
    value: float | None
    """The reward; None: there is none, and the item belongs in no batch."""
    reason: str | None = None
    """Why it is invalid, an error or a timeout; a remark on a scored one, or None."""
    grader_version: str
    """Type, release and a hash of all that decides the value: `sql-1+0f3a9c12`."""
    seconds: Annotated[float, Field(ge=0)]
    """Wall clock of the last attempt."""
    attempts: Annotated[int, Field(ge=1)]
    """How often it was tried, this one included."""

    @model_validator(mode="after")
    def _only_an_opinion_has_a_number(self) -> "Score":
        if self.outcome in ("error", "timeout") and self.value is not None:
            raise InvalidField("value", f"{self.value}, but the outcome is {self.outcome}")
        if self.outcome == "scored" and self.value is None:
            raise InvalidField("value", "missing, but the outcome is scored")
        if self.outcome != "scored" and not self.reason:
            raise InvalidField("reason", f"missing, but the outcome is {self.outcome}")
        return self

    @property
    def excluded(self) -> bool:
        """Whether the grader failed, so that the item says nothing about the policy."""
        return self.outcome in ("error", "timeout")


class ScoreResponse(Exact):
    """Result of the future of `rewards/score`."""

    scores: tuple[Score, ...]
    """In the order of the items."""
    excluded: int
    """How many are errors and timeouts."""

    @model_validator(mode="after")
    def _counted(self) -> "ScoreResponse":
        counted = sum(score.excluded for score in self.scores)
        if self.excluded != counted:
            raise InvalidField("excluded", f"{self.excluded}, but {counted} are errors and timeouts")
        return self

    @classmethod
    def of(cls, scores: "tuple[Score, ...]") -> "ScoreResponse":
        return cls(scores=scores, excluded=sum(score.excluded for score in scores))


class GraderInfo(Exact):
    """A type of grader, as `rewards/graders` lists it."""

    type: str
    version: str
    """Type and release: `sql-1`. Scores say more: what decides the value is hashed in."""
    params: dict[str, Any]
    """JSON schema of its params."""


class GradersResponse(Exact):
    graders: tuple[GraderInfo, ...]

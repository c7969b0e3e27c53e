"""Triggers: which fact starts a run or calls a webhook."""

from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue, StringConstraints, ValidationError, model_validator

from rekindle.types.errors import InvalidField
from rekindle.types.fields import Id, Time, as_invalid_field, first_mistake
from rekindle.types.rewards import Exact
from rekindle.types.rewards.outside import Url
from rekindle.types.rl.spec import RlRunSpec
from rekindle.types.rl.templates import field_of, fill_event, has_holes

TriggerName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
FactType = Annotated[str, StringConstraints(pattern=r"^[a-z_]+\.[a-z_]+$", max_length=128)]
"""A type of fact without `dev.rekindle.`: `dataset.uploaded`."""
FieldName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$", max_length=256)]
"""A field of an event's data; dots lead into objects."""


class TriggerSpec(Exact):
    """E.g. `{"name": "sql", "on": "dataset.uploaded", "match": {"name": "sql/*"}, "start": {...}}`."""

    name: TriggerName
    on: FactType
    match: Annotated[dict[FieldName, str | bool | int | float], Field(max_length=32)] = Field(
        default_factory=dict
    )
    """What fields of the event's data must be; a text may hold `*`, `?` and `[…]`. All must fit."""
    start: dict[str, JsonValue] | None = None
    """The spec of the run to start, in which `${event.name}` stands for a field of the event's data."""
    webhook: Url | None = None
    """Where the event is posted to, as a structured CloudEvent; exactly one of the two is given."""

    @model_validator(mode="after")
    def _does_one_thing(self) -> "TriggerSpec":
        if (self.start is None) == (self.webhook is None):
            raise InvalidField("start", "expected either start or webhook")
        if self.start is not None:
            _check_start(self.start)
        return self

    def fits(self, data: dict[str, Any]) -> bool:
        """Whether an event of the type, with this data, fires it."""
        return all(_fits(wanted, data, name) for name, wanted in self.match.items())

    def spec_for(self, data: dict[str, Any]) -> RlRunSpec:
        """The run that an event with this data starts. Raises InvalidField that names the field under `start`."""
        assert self.start is not None, "a webhook starts no run"
        try:
            return RlRunSpec.model_validate(fill_event(self.start, data))
        except ValidationError as error:
            mistake = first_mistake(error)
            raise InvalidField(f"start.{mistake.field}", mistake.reason) from error


def _fits(wanted: str | bool | int | float, data: dict[str, Any], name: str) -> bool:
    try:
        value = field_of(data, name, "match")
    except InvalidField:
        return False
    if isinstance(wanted, str):
        return isinstance(value, str) and fnmatchcase(value, wanted)
    return isinstance(wanted, bool) == isinstance(value, bool) and bool(value == wanted)


def _check_start(start: dict[str, JsonValue]) -> None:
    """Raise InvalidField for a mistake that no event could mend."""
    try:
        RlRunSpec.model_validate(start)
    except ValidationError as error:
        for mistake in error.errors(include_url=False):
            if not has_holes(mistake["input"]):
                first = as_invalid_field(mistake)
                raise InvalidField(f"start.{first.field}", first.reason) from error


class TriggerInfo(Exact):
    """A trigger with what became of it."""

    trigger: TriggerSpec
    created: Time
    fired: Annotated[int, Field(ge=0)] = 0
    """How many events fired it."""


class TriggersResponse(Exact):
    """Answer of `GET triggers`: by name."""

    triggers: tuple[TriggerInfo, ...]


class Firing(Exact):
    """One event that fired a trigger: there is one of these for the event, however often the event came."""

    trigger: TriggerName
    event: Id
    """The CloudEvent's id."""
    source: str
    """The CloudEvent's source: with the id it names the event."""
    type: FactType
    subject: str
    """What the event is about."""
    time: Time
    """When it fired."""
    outcome: Literal["started", "called", "failed"]
    run: Id | None = None
    """The run that it started; None: none."""
    reason: str | None = None
    """Why it failed; None: it did not."""


class FiringsResponse(Exact):
    """Answer of `GET triggers/{name}/firings`: newest first."""

    firings: tuple[Firing, ...]

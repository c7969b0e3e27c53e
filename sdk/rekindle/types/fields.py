"""What the JSON messages are made of: two base classes, the constraints on names and numbers, one parser.

Messages are frozen. A null is the same as an absent field. Fields that we do not know are ignored, since
newer clients add some; but where an ignored field would change what is computed (`ExactMessage`), one that is
set to anything but null, false, zero or empty is refused.
"""

import math
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from rekindle.types.errors import InvalidField
from rekindle.types.paths import NAME_PATTERN, TinkerPath

MAX_INT64 = 2**63 - 1
MAX_METADATA_CHARACTERS = 16_384
MIN_TTL_SECONDS = 3600
MAX_TTL_SECONDS = math.ceil(10 * 365.25 * 86_400)
"""Ten years."""


class Message(BaseModel):
    """A JSON request, response or part of one."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        return {key: value for key, value in data.items() if value is not None}


class ExactMessage(Message):
    """A message of which no part may be overlooked, because it says what to compute."""

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown(cls, data: Any) -> Any:
        for key, value in data.items() if isinstance(data, dict) else ():
            if key not in cls.model_fields and value:
                raise InvalidField(str(key), "unknown, and ignoring it would change the result")
        return data


def _check_path(text: str) -> str:
    try:
        return str(TinkerPath.parse(text))
    except InvalidField as error:
        raise ValueError(error.reason) from error


def _check_metadata(metadata: dict[str, str]) -> dict[str, str]:
    characters = sum(len(key) + len(value) for key, value in metadata.items())
    if characters > MAX_METADATA_CHARACTERS:
        raise ValueError(f"{characters} characters, the limit is {MAX_METADATA_CHARACTERS}")
    return metadata


Id = Annotated[str, StringConstraints(min_length=1, max_length=256)]
"""An identifier that a server gave out."""
ModelName = Annotated[str, StringConstraints(min_length=1, max_length=512)]
"""A base model: a hub id or a folder, perhaps with a suffix after a colon."""
CheckpointName = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
"""1 to 128 letters, digits, `.`, `_` and `-`, not starting with a dot."""
Path = Annotated[str, AfterValidator(_check_path)]
"""`tinker://<run>/<kind>/<name>`; `TinkerPath.parse` reads its parts."""
Metadata = Annotated[dict[str, str], AfterValidator(_check_metadata)]
"""Free text by key, given back as it came."""
SeqId = Annotated[int, Field(ge=1, le=2**31 - 1)]
"""The number of a command among those of its model: 1 is the first after creation."""
Count = Annotated[int, Field(ge=0, le=MAX_INT64)]
"""A counter from 0, or a quantity."""
TtlSeconds = Annotated[int, Field(ge=MIN_TTL_SECONDS, le=MAX_TTL_SECONDS)]
"""Seconds from the save until the checkpoint may be deleted: one hour to ten years."""
Time = AwareDatetime
"""A moment with its time zone; ISO 8601 on the wire."""

M = TypeVar("M", bound=BaseModel)


def parse_json(kind: type[M], body: bytes | str) -> M:
    """The message in a JSON body. Raises `InvalidField` for its first mistake."""
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        raise first_mistake(error) from error


def first_mistake(error: ValidationError) -> InvalidField:
    """The first mistake that pydantic found, with the path of the field: `prompt.chunks[0].tokens[2]`."""
    return as_invalid_field(error.errors(include_url=False)[0])


def as_invalid_field(mistake: Mapping[str, Any]) -> InvalidField:
    """One entry of a ValidationError's `errors()`."""
    field = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in mistake["loc"])
    cause = mistake.get("ctx", {}).get("error")
    if isinstance(cause, InvalidField):  # of the whole message: names the part that is wrong
        return InvalidField(f"{field}.{cause.field}".removeprefix("."), cause.reason)
    field = field.removeprefix(".") or "body"
    if cause is not None:
        return InvalidField(field, str(cause))
    if mistake["type"] == "missing":
        return InvalidField(field, "missing")
    return InvalidField(field, f"{mistake['msg']}, got {_short(mistake['input'])}")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."

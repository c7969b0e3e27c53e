"""What all messages of rewards share: exactness, patterns, and the parameters that every grader takes."""

import re
import warnings
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationInfo

MAX_PATTERN = 1024
MAX_SECONDS = 60.0
MAX_REASON = 500
"""Characters of a reason; a longer one is cut."""


class Exact(BaseModel):
    """A message of which no part is overlooked; null is a value of its own."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, populate_by_name=True, serialize_by_alias=True
    )


CHECKED = {"checked": True}
"""Context of a validation whose text has been validated before."""


def _compiles(pattern: str, info: ValidationInfo) -> str:
    """Compiling takes seconds at worst: not again for what was checked before, which its reader says."""
    if info.context is CHECKED:
        return pattern
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"not a regular expression: {error}") from error
    return pattern


Pattern = Annotated[str, StringConstraints(min_length=1, max_length=MAX_PATTERN), AfterValidator(_compiles)]
"""A regular expression of Python's `re`."""
ColumnName = Annotated[str, StringConstraints(min_length=1, max_length=256)]
"""A column of the item, or of the request's shared ones."""
Seconds = Annotated[float, Field(gt=0, le=MAX_SECONDS)]


class Params(Exact):
    """What every grader takes."""

    seconds: Seconds = 10.0
    """Wall-clock limit of one item. Who passes it: see the grader."""

    def needs(self) -> tuple[str, ...]:
        """The columns that every item must have."""
        return ()


class Judging(Exact):
    """What a grader says of rollouts that are at fault themselves."""

    invalid_value: Annotated[float, Field(ge=-1e6, le=1e6)] | None = 0.0
    """Value of an `invalid` rollout; None: no number."""

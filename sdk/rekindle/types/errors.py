"""The root of all errors of this package, and the one way it says that outside data is wrong.

    Exception
    └── RekindleError       has a category: whose fault it is
        └── InvalidField    a ValueError: a field of a request, a result or a call breaks a rule

`InvalidField` is raised by every parser and check here, turned into an HTTP answer or a failed future at the
edges. What the SDK adds to the tree stands in `rekindle.errors`.
"""

from typing import Literal

Category = Literal["unknown", "server", "user"]

MAX_FIELD, MAX_REASON = 256, 2048
"""Characters of a mistake that are kept: what is wrong may be a name of many megabytes."""


class RekindleError(Exception):
    """Anything that Rekindle raises."""

    category: Category = "unknown"
    """`user`: the caller's fault, trying again will not help; `server`: the other side's."""


class InvalidField(RekindleError, ValueError):
    """A field holds what it may not: `data[3].loss_fn_inputs.advantages: 7 rows, expected 12`.

    `field` is the path of the field as the sender spells it, `reason` what was found and what is allowed.
    """

    category = "user"

    def __init__(self, field: str, reason: str) -> None:
        field, reason = _shortened(field, MAX_FIELD), _shortened(reason, MAX_REASON)
        super().__init__(field, reason)  # both, so that a copy made by pickle has them too
        self.field = field
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.field}: {self.reason}"


def _shortened(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."

"""The one way this package says that outside data is wrong.

    ValueError
    └── InvalidField    a field of a request or result breaks a rule

Raised by every parser and check here, turned into an HTTP answer or a failed future at the edges.
"""


class InvalidField(ValueError):
    """A field holds what it may not: `data[3].loss_fn_inputs.advantages: 7 rows, expected 12`.

    `field` is the path of the field as the sender spells it, `reason` what was found and what is allowed.
    """

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(field, reason)  # both, so that a copy made by pickle has them too
        self.field = field
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.field}: {self.reason}"

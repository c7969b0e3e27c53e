"""Names of checkpoints: `tinker://<run>/<kind>/<name>` and its parts.

A path is a name, not a place: it says which checkpoint, never where its files lie. Its parts hold no slash
and never start with a dot, so that no part can climb out of a folder that somebody makes from it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, get_args

from rekindle.types.errors import InvalidField

Kind = Literal["weights", "sampler_weights", "external_weights"]
CheckpointType = Literal["training", "sampler", "external"]

SCHEME = "tinker://"
KINDS: tuple[Kind, ...] = get_args(Kind)
NAME_PATTERN = r"^[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}$"
"""A checkpoint's name: 1 to 128 letters, digits, `.`, `_` and `-`, not starting with a dot."""
RUN_ID_PATTERN = r"^[A-Za-z0-9_-][A-Za-z0-9._:-]{0,255}$"
"""A run's id: as a name, but up to 256 characters, and colons (`<session>:train:<number>`)."""

_TYPES: Mapping[Kind, CheckpointType] = MappingProxyType(
    {"weights": "training", "sampler_weights": "sampler", "external_weights": "external"}
)


def checkpoint_type(kind: Kind) -> CheckpointType:
    """What a listing calls checkpoints of this kind."""
    return _TYPES[kind]


@dataclass(frozen=True, slots=True)
class TinkerPath:
    """One checkpoint. Example: `TinkerPath("s1:train:0", "weights", "000020")`."""

    run_id: str
    """The training run, equal to its model id."""
    kind: Kind
    """`weights` resume training, `sampler_weights` are the adapter alone, `external_weights` are exported."""
    name: str
    """Chosen by the user; unique within (run, kind), so one name may stand under two kinds."""

    @classmethod
    def parse(cls, text: str, field: str = "path") -> "TinkerPath":
        """Reads `tinker://run/kind/name`. Raises `InvalidField` that names `field`."""
        parts = text.removeprefix(SCHEME).split("/")
        if not text.startswith(SCHEME) or len(parts) != 3:
            raise InvalidField(field, f"{text!r}, expected {SCHEME}<run>/<kind>/<name>")
        run_id, kind, name = parts
        if kind not in KINDS:
            raise InvalidField(field, f"{text!r}: kind {kind!r}, expected one of {', '.join(KINDS)}")
        if not re.fullmatch(RUN_ID_PATTERN, run_id) or not re.fullmatch(NAME_PATTERN, name):
            raise InvalidField(
                field, f"{text!r}: run and name take letters, digits and . _ - and start with no dot"
            )
        return cls(run_id, kind, name)

    @property
    def checkpoint_id(self) -> str:
        """`<kind>/<name>`: the checkpoint within its run. Contains a slash."""
        return f"{self.kind}/{self.name}"

    def __str__(self) -> str:
        return f"{SCHEME}{self.run_id}/{self.checkpoint_id}"

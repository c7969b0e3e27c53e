"""What may go wrong with a cluster.

ClusterError            the cluster cannot be reached, or refuses, or the manifests are wrong
├── NotThere            there is no such object or namespace
├── UnknownKind         the cluster has no objects of this kind
├── FieldsHeld          others have set fields that shall be set (held)
└── Refused             the API refused an object: it is invalid
    └── Immutable       it may not change this way
"""

from typing import NamedTuple

from rekindle.errors import Category, RekindleError


class Held(NamedTuple):
    """A field and who has set it. Example: Held(".spec.template…/max-scale", "kn")."""

    field: str
    """Path in the object, as the API writes it."""
    manager: str


class ClusterError(RekindleError):
    """The cluster cannot be reached, or refuses, or the manifests are wrong."""

    category: Category = "user"


class NotThere(ClusterError):
    """There is no such object or namespace."""


class UnknownKind(ClusterError):
    """The cluster has no objects of this kind."""


class FieldsHeld(ClusterError):
    """Others have set fields that shall be set."""

    def __init__(self, name: str, held: tuple[Held, ...]) -> None:
        super().__init__(name, held)
        self.name = name
        self.held = held

    def __str__(self) -> str:
        fields = ", ".join(f"{field.lstrip('.')} (by {manager})" for field, manager in self.held)
        return (
            f"{self.name}: set otherwise by others, and left as it is: {fields}; set it there as here first"
        )


class Refused(ClusterError):
    """The API refused an object: it is invalid."""


class Immutable(Refused):
    """It may not change this way."""

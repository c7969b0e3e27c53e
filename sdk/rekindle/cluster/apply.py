"""Server-side apply that leaves alone what others have set.

The API remembers who has set which field. Bounds and windows of scale (`autoscaling.knative.dev/` on a template)
that somebody has set with `kn` are kept, always; another field that somebody else has set is taken back if forced,
and an error otherwise, unless it says what is to be said: a list that is one field counts as set otherwise as soon as
Knative has filled in a default.
"""

import copy
import difflib
from dataclasses import dataclass
from typing import Any, Literal

from rekindle.cluster.api import Api, Ref
from rekindle.cluster.errors import FieldsHeld, Held, Immutable, NotThere
from rekindle.cluster.render import Manifest, describe, gave_up, to_yaml

Action = Literal["created", "changed", "unchanged", "replaced", "removed", "unchecked"]
"""Unchecked is what a trial would make in a namespace that is not there yet: the server cannot try it."""
ANNOTATIONS = ".spec.template.metadata.annotations."
SCALE = f"{ANNOTATIONS}autoscaling.knative.dev/"
OF_THE_SERVER = ("managedFields", "resourceVersion", "uid", "generation", "creationTimestamp", "selfLink")
FIRST = (
    "Namespace",
    "ServiceAccount",
    "Role",
    "ClusterRole",
    "RoleBinding",
    "ClusterRoleBinding",
    "ConfigMap",
)
"""Kinds that others need; then come secrets, which are made elsewhere, and the rest."""


@dataclass(frozen=True, slots=True)
class Applied:
    """What became of an object. Example: Applied(ref, "changed", before, after, kept=(), taken=())."""

    ref: Ref
    action: Action
    before: Manifest | None
    """None = it was not there."""
    after: Manifest | None
    """None = it is gone."""
    kept: tuple[Held, ...] = ()
    """Fields that stay as somebody else has set them."""
    taken: tuple[Held, ...] = ()
    """Fields that somebody else had set and that are ours again."""


def in_order(objects: list[Manifest]) -> list[Manifest]:
    """What others need first."""
    rank = {kind: place for place, kind in enumerate(FIRST)}
    return sorted(objects, key=lambda one: rank.get(one["kind"], len(FIRST)))


def apply(api: Api, one: Manifest, *, force: bool, dry_run: bool = False) -> Applied:
    """Bring an object to what the manifest says. Raises FieldsHeld, or another ClusterError."""
    before = api.get(Ref.of(one))
    if before is not None and gave_up(before):
        return _anew(api, one, before, dry_run)
    try:
        after, kept, taken = _apply(api, one, force=force, dry_run=dry_run)
    except NotThere:
        if not dry_run:
            raise
        return Applied(Ref.of(one), "unchecked", None, one)
    except Immutable:
        if one["kind"] != "Job" or before is None:
            raise
        return _anew(api, one, before, dry_run)
    return Applied(Ref.of(one), _action(before, after), before, after, kept, taken)


def _apply(
    api: Api, one: Manifest, *, force: bool, dry_run: bool
) -> tuple[Manifest, tuple[Held, ...], tuple[Held, ...]]:
    try:
        return api.apply(one, dry_run=dry_run), (), ()
    except FieldsHeld as error:
        kept = tuple(held for held in error.held if held.field.startswith(SCALE))
        others = tuple(held for held in error.held if held not in kept)
        if others and not force:
            kept += _said_already(api, one, others)
            others = tuple(held for held in others if held not in kept)
        if others and not force:
            raise FieldsHeld(error.name, others) from error
        return api.apply(_without(one, kept), force=bool(others), dry_run=dry_run), kept, others


def _said_already(api: Api, one: Manifest, held: tuple[Held, ...]) -> tuple[Held, ...]:
    """Those fields that would not change if they were taken, which a trial shows."""
    live, taken = api.get(Ref.of(one)), api.apply(one, force=True, dry_run=True)
    return tuple(each for each in held if _at(live, each.field) == _at(taken, each.field) is not None)


def _at(one: Any, field: str) -> Any:
    """What stands at a path; None for those through lists, and keys with dots."""
    for name in field.lstrip(".").split("."):
        one = one.get(name) if isinstance(one, dict) else None
    return one


def _without(one: Manifest, kept: tuple[Held, ...]) -> Manifest:
    """The manifest without these fields."""
    found = copy.deepcopy(one)
    for field in {held.field for held in kept}:  # several may have set the same
        if field.startswith(SCALE):
            del found["spec"]["template"]["metadata"]["annotations"][field.removeprefix(ANNOTATIONS)]
        else:
            place, _, name = field.rpartition(".")
            del _at(found, place)[name]
    return found


def _anew(api: Api, job: Manifest, before: Manifest, dry_run: bool) -> Applied:
    """A Job never changes what it runs, and one that has failed is not tried again."""
    if dry_run:
        return Applied(Ref.of(job), "replaced", before, job)
    api.delete(Ref.of(job))
    return Applied(Ref.of(job), "replaced", before, api.apply(job))


def _action(before: Manifest | None, after: Manifest) -> Action:
    if before is None:
        return "created"
    return "unchanged" if _ours(before) == _ours(after) else "changed"


def difference(applied: Applied) -> str:
    """A unified diff of the object in the cluster and what it is to become; empty if they agree."""
    name = describe(applied.after or applied.before or {})
    before, after = (to_yaml([_ours(one)]) if one else "" for one in (applied.before, applied.after))
    lines = difflib.unified_diff(
        before.splitlines(),
        after.splitlines(),
        f"live {name}",
        f"new {name}",
        lineterm="",
    )
    return "\n".join(lines)


def _ours(one: Manifest) -> dict[str, Any]:
    """An object without what the server says of it, its keys in order."""
    about = {key: value for key, value in one["metadata"].items() if key not in OF_THE_SERVER}
    rest = {key: value for key, value in one.items() if key not in ("status", "metadata")}
    ordered: dict[str, Any] = _sorted({**rest, "metadata": about})
    return ordered


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value)}
    return [_sorted(one) for one in value] if isinstance(value, list) else value

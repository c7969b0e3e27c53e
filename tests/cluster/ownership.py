"""Who has set which field of an object: server-side apply by the rules and the published schemas of Kubernetes.

A port of the parts of structured-merge-diff (`merge/update.go`, `typed/`) that decide conflicts, ownership and what an
apply takes away; its own words for them are kept. A field is a path of elements (`f:spec`, `k:{"name":"x"}` for an
item of a list with identity, `v:"x"` for one of a set), as in the `fieldsV1` of managedFields. Which lists have an
identity, and which maps and lists are one field, the schemas of `tests/schemas` say: those of a custom resource are
one field unless it says otherwise. What has no schema there is taken as maps of single fields, its lists as one.
"""

import copy
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path as File
from typing import Any, NamedTuple

import yaml

from tests.knative.knative_schema import KNATIVE_SERVICE, published, schema

Path = tuple[str, ...]
Object = dict[str, Any]
Node = dict[str, Any]
"""A JSON schema; empty = nothing is known."""

CRD = File(__file__).parent.parent / "schemas" / "knative-serving-1.23.0-service.yaml"
ABOUT = {"$ref": "#/$defs/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"}
DEFAULTS = {"protocol": "TCP"}
"""Of keys of lists."""
METADATA = (
    "name",
    "namespace",
    "creationTimestamp",
    "selfLink",
    "uid",
    "generation",
    "managedFields",
    "resourceVersion",
)
UNMANAGED = {
    ("f:apiVersion",),
    ("f:kind",),
    ("f:metadata",),
    *(("f:metadata", f"f:{one}") for one in METADATA),
}
STATUS = ("f:status",)
ABSENT: Any = object()


class Manager(NamedTuple):
    """Who sets fields. Example: Manager("kn", "Update")."""

    name: str
    operation: str
    subresource: str = ""


class Conflicts(Exception):
    """Fields that other managers have: pairs of a field, as the API writes it, and its manager."""

    def __init__(self, found: list[tuple[str, Manager]]) -> None:
        super().__init__(found)
        self.found = [(path, manager.name) for path, manager in found]
        self.managers = [manager for _, manager in found]


@dataclass
class Owners:
    """Who has which fields of one object."""

    fields: dict[Manager, set[Path]] = field(default_factory=dict)

    def others(self, me: Manager) -> set[Path]:
        return set().union(*(paths for one, paths in self.fields.items() if one != me))

    def lose(self, lost: set[Path], but: Manager) -> None:
        """Take fields from all others."""
        for one in self.fields.keys() - {but}:
            self.fields[one] -= lost
        self.fields = {one: paths for one, paths in self.fields.items() if paths}

    def managed_fields(self, api_version: str) -> list[Object]:
        return [
            {
                "manager": one.name,
                "operation": one.operation,
                "apiVersion": api_version,
                "time": "2026-11-22T10:00:00Z",
                "fieldsType": "FieldsV1",
                "fieldsV1": _nested(paths),
                **({"subresource": one.subresource} if one.subresource else {}),
            }
            for one, paths in sorted(self.fields.items())
        ]


# ---- What the API does ----


def apply(live: Object | None, wanted: Object, owners: Owners, manager: str, force: bool = False) -> Object:
    """The object after an apply. Raises Conflicts; changes `owners` otherwise."""
    me, node = Manager(manager, "Apply"), schema_of(wanted)
    wanted = {key: one for key, one in wanted.items() if key != "status"}
    last = owners.fields.get(me, set())
    merged: Object = _merged(live or {}, wanted, node)
    ours = {path for path in fields(wanted, node) if _managed(path)}
    new = _pruned(merged, last, owners.others(me) | ours, node)
    changes = compare(live or {}, new, node)
    held = [
        (path, one)
        for one in sorted(owners.fields)
        if one != me
        for path in sorted(owners.fields[one] & (changes.modified | changes.added))
    ]
    if held and not force:
        raise Conflicts([(written(path), one) for path, one in held])
    owners.lose({path for path, _ in held} | changes.removed, me)
    owners.fields[me] = ours
    return new


def update(
    live: Object | None, wanted: Object, owners: Owners, manager: str, subresource: str = ""
) -> Object:
    """The object after a create, replace or plain patch: what it changes is the manager's alone."""
    me = Manager(manager, "Update", subresource)
    if not subresource:
        wanted = _with_status_of(live, wanted)
    changes = compare(live or {}, wanted, schema_of(wanted))
    owners.lose(changes.modified | changes.added | changes.removed, me)
    mine = owners.fields.get(me, set()) - changes.removed | changes.modified | changes.added
    if mine := {path for path in mine if _managed(path, subresource)}:
        owners.fields[me] = mine
    return copy.deepcopy(wanted)


def _with_status_of(live: Object | None, one: Object) -> Object:
    """The main endpoint takes no status."""
    rest = {key: value for key, value in one.items() if key != "status"}
    return rest | {"status": live["status"]} if live and "status" in live else rest


def _managed(path: Path, subresource: str = "") -> bool:
    """Of the main endpoint all but the status, of that one nothing else."""
    return path not in UNMANAGED and (path[:1] == STATUS) == (subresource == "status")


# ---- Schemas ----


@cache
def _knative_service() -> Node:
    (version,) = yaml.load(CRD.read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))["spec"]["versions"]
    found: Node = version["schema"]["openAPIV3Schema"]
    return {**found, "properties": {**found["properties"], "metadata": ABOUT}}


def schema_of(one: Object) -> Node:
    kind = (one["apiVersion"], one["kind"])
    if kind == KNATIVE_SERVICE:
        return _knative_service()
    try:
        return {"$ref": schema(one)["$ref"]}
    except LookupError:
        return {"properties": {"metadata": ABOUT}}


def _open(node: Node) -> Node:
    while "$ref" in node:
        rest = {key: value for key, value in node.items() if key != "$ref"}
        node = {**published()[node["$ref"].rpartition("/")[2]], **rest}
    return node


def _named(node: Node, element: str) -> bool:
    """Whether a field is one that the schema names, not a key of somebody's choice."""
    return element[:2] == "f:" and element[2:] in node.get("properties", {})


def _child(node: Node, element: str) -> Node:
    if element[:2] != "f:":
        return _open(node.get("items") or {})
    extra = node.get("additionalProperties")
    return _open(node.get("properties", {}).get(element[2:]) or (extra if isinstance(extra, dict) else {}))


def _is_leaf(value: Any, node: Node) -> bool:
    if isinstance(value, dict):
        return node.get("x-kubernetes-map-type") == "atomic"
    return not isinstance(value, list) or node.get("x-kubernetes-list-type") not in ("map", "set")


def _parts(value: Any, node: Node) -> dict[str, Any]:
    """Fields of a map, items of a list, by element."""
    if isinstance(value, dict):
        return {f"f:{key}": one for key, one in value.items()}
    return {_key(one, node): one for one in value or ()}


def _key(item: Any, node: Node) -> str:
    if node["x-kubernetes-list-type"] == "set":
        return f"v:{json.dumps(item)}"
    found = {key: item.get(key, DEFAULTS.get(key)) for key in node["x-kubernetes-list-map-keys"]}
    return "k:" + json.dumps(found, separators=(",", ":"))


# ---- Values and sets of fields ----


def fields(value: Any, node: Node, path: Path = ()) -> set[Path]:
    """What an object sets (`ToFieldSet`)."""
    node = _open(node)
    if _is_leaf(value, node):
        return {path}
    found: set[Path] = set()
    for element, one in _parts(value, node).items():
        at = (*path, element)
        found |= fields(one, _child(node, element), at)
        if one is None or one == {} or not _named(node, element):
            found.add(at)
    return found


@dataclass
class Comparison:
    added: set[Path] = field(default_factory=set)
    removed: set[Path] = field(default_factory=set)
    modified: set[Path] = field(default_factory=set)


def compare(old: Any, new: Any, node: Node, path: Path = (), into: Comparison | None = None) -> Comparison:
    """What is different."""
    node, found = _open(node), into or Comparison()
    sides = [one for one in (old, new) if one is not ABSENT]
    if all(_is_leaf(one, node) or one in ({}, []) for one in sides):
        if len(sides) == 2 and old != new:
            found.modified.add(path)
    else:
        one, two = (_parts({} if side is ABSENT else side, node) for side in (old, new))
        for element in {**one, **two}:
            parts = one.get(element, ABSENT), two.get(element, ABSENT)
            compare(*parts, _child(node, element), (*path, element), found)
    if len(sides) == 1:
        (found.added if old is ABSENT else found.removed).add(path)
    return found


def _merged(live: Any, wanted: Any, node: Node) -> Any:
    """An item that both have stands where it stood."""
    node = _open(node)
    if live is ABSENT or type(live) is not type(wanted) or _is_leaf(wanted, node):
        return copy.deepcopy(wanted)
    old, new = _parts(live, node), _parts(wanted, node)
    if isinstance(wanted, list) and len(new) < len(wanted):
        raise ValueError(f"duplicate entries for key in {wanted}")
    found = {
        element: _merged(old.get(element, ABSENT), new[element], _child(node, element))
        if element in new
        else copy.deepcopy(one)
        for element, one in {**old, **new}.items()
    }
    return (
        {element[2:]: one for element, one in found.items()}
        if isinstance(live, dict)
        else list(found.values())
    )


def _pruned(merged: Object, last: set[Path], managed: set[Path], node: Node) -> Object:
    """Without what its manager applied last time, nobody manages now (`prune`)."""
    last, managed = _with_parents(last, node), _with_parents(managed, node)
    before = _with_parents(fields(merged, node), node)
    bare = _with_parents(fields(_without(merged, last, node), node), node)
    owned = _with_parents(fields(_without(merged, before - (bare | managed), node), node), node)
    found: Object = _without(merged, (before - owned) & last, node)
    return found


def _with_parents(paths: set[Path], node: Node) -> set[Path]:
    """`EnsureNamedFieldsAreMembers`."""
    return paths | {prefix for path in paths for prefix in _named_parents(path, node)}


def _named_parents(path: Path, node: Node) -> Iterator[Path]:
    node = _open(node)
    for depth, element in enumerate(path):
        if _named(node, element):
            yield path[: depth + 1]
        node = _child(node, element)


def _without(value: Any, gone: set[Path], node: Node) -> Any:
    """`RemoveItems`: a map or list that is empty afterwards goes too."""
    node = _open(node)
    if not gone or _is_leaf(value, node):
        return copy.deepcopy(value)
    within: dict[str, set[Path]] = {}
    for path in gone:
        if len(path) > 1:
            within.setdefault(path[0], set()).add(path[1:])
    found = {}
    for element, one in _parts(value, node).items():
        left = _without(one, within.get(element, set()), _child(node, element))
        emptied = one and not left and isinstance(one, dict | list)
        if (element,) not in gone and not emptied:
            found[element] = left
    return (
        {element[2:]: one for element, one in found.items()}
        if isinstance(value, dict)
        else list(found.values())
    )


# ---- As the API writes them ----


def written(path: Path) -> str:
    """`.spec.template.spec.containers[name="user"].image`, as conflicts name a field."""
    text = ""
    for element in path:
        sort, _, name = element.partition(":")
        if sort == "f":
            text += f".{name}"
        elif sort == "v":
            text += f"[={name}]"
        else:
            text += "[" + ",".join(f"{key}={json.dumps(one)}" for key, one in json.loads(name).items()) + "]"
    return text


def _nested(paths: set[Path]) -> Object:
    """`fieldsV1`: a dot where a field that holds others is itself one."""
    root: Object = {}
    for path in sorted(paths):
        place = root
        for element in path:
            place = place.setdefault(element, {})
    for path in paths:
        place = root
        for element in path:
            place = place[element]
        if place:
            place["."] = {}
    return root

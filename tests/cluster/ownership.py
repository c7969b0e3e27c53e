"""Which manager has set which field of an object, as the Kubernetes API remembers it for server-side apply.

A field is a path of elements (`f:spec`, or `k:{"name":"x"}` for an item of a list with identity), as in the
`fieldsV1` of managedFields. Lists without identity, and those of custom resources that declare none, are one field.
Rules (https://kubernetes.io/docs/reference/using-api/server-side-apply/): an apply that changes a field of another
manager is a conflict unless forced; equal values are shared; a field that its manager no longer applies goes, unless
another has it; an update takes every field that it changes from all others.
"""

import copy
import json
from dataclasses import dataclass, field
from typing import Any

Path = tuple[str, ...]
Object = dict[str, Any]

IDENTITY = {
    "containers": ("name",),
    "initContainers": ("name",),
    "env": ("name",),
    "volumes": ("name",),
    "imagePullSecrets": ("name",),
    "volumeMounts": ("mountPath",),
    "volumeClaimTemplates": (),
}
PORTS = {"Service": ("port", "protocol")}
CUSTOM = {"serving.knative.dev": {"volumes": ("name",), "imagePullSecrets": ("name",)}}
"""Of Knative's definitions: their `containers` are one field."""
UNMANAGED = {
    ("f:apiVersion",), ("f:kind",), ("f:metadata", "f:name"), ("f:metadata", "f:namespace"), ("f:metadata", "f:uid"),
    ("f:metadata", "f:resourceVersion"), ("f:metadata", "f:generation"), ("f:metadata", "f:creationTimestamp"),
    ("f:metadata", "f:managedFields"),
}  # fmt: skip


class Conflicts(Exception):
    """Fields that other managers have: pairs of a field, as the API writes it, and its manager."""

    def __init__(self, found: list[tuple[str, str]]) -> None:
        super().__init__(found)
        self.found = found


@dataclass
class Owners:
    """Who has which fields of one object, by (manager, operation)."""

    fields: dict[tuple[str, str], set[Path]] = field(default_factory=dict)

    def others(self, path: Path, me: tuple[str, str]) -> list[tuple[str, str]]:
        """Who else has the field, or a field that holds it."""
        return [
            one for one, paths in self.fields.items() if one != me and any(_within(path, p) for p in paths)
        ]

    def managed_fields(self, api_version: str) -> list[Object]:
        return [
            {
                "manager": manager,
                "operation": operation,
                "apiVersion": api_version,
                "fieldsType": "FieldsV1",
                "fieldsV1": _nested(paths),
            }
            for (manager, operation), paths in sorted(self.fields.items())
            if paths
        ]


def apply(live: Object | None, wanted: Object, owners: Owners, manager: str, force: bool = False) -> Object:
    """The object after an apply. Raises Conflicts; changes `owners` otherwise."""
    me = (manager, "Apply")
    old, new = leaves(live or {}, wanted), leaves(wanted, wanted)
    changed = [path for path, value in new.items() if path not in old or old[path] != value]
    held = [(path, other) for path in changed for other in owners.others(path, me)]
    if held and not force:
        raise Conflicts([(written(path), other[0]) for path, other in held])
    for path, other in held:
        owners.fields[other] = {one for one in owners.fields[other] if not _within(path, one)}
    gone = [path for path in owners.fields.get(me, set()) - new.keys() if not owners.others(path, me)]
    owners.fields[me] = set(new)
    merged: Object = _merged(live or {}, wanted, wanted)
    for path in sorted(gone, key=_tells_apart):
        _remove(merged, path, wanted)
    return merged


def update(live: Object | None, wanted: Object, owners: Owners, manager: str) -> Object:
    """The object after a create, replace or plain patch: what it changes is the manager's alone."""
    me = (manager, "Update")
    old, new = leaves(live or {}, wanted), leaves(wanted, wanted)
    changed = {path for path, value in new.items() if path not in old or old[path] != value}
    for one, paths in owners.fields.items():
        owners.fields[one] = {path for path in paths if path in new and path not in changed}
    owners.fields[me] = owners.fields.get(me, set()) | changed
    return copy.deepcopy(wanted)


def leaves(value: Object, of: Object) -> dict[Path, Any]:
    """Field → value; `of` is the object that tells which kind it is."""
    found = _leaves(value, (), of)
    return {path: one for path, one in found.items() if path not in UNMANAGED and path[:1] != ("f:status",)}


def _leaves(value: Any, path: Path, of: Object) -> dict[Path, Any]:
    if isinstance(value, dict) and value:
        parts = [_leaves(inner, (*path, f"f:{key}"), of) for key, inner in value.items()]
    elif isinstance(value, list) and value and (keys := identity(path, of)):
        parts = [_leaves(item, (*path, _key(item, keys)), of) for item in value]
    else:
        return {path: value}
    return {inner: one for part in parts for inner, one in part.items()}


def identity(path: Path, of: Object) -> tuple[str, ...] | None:
    """The fields that tell items of the list at a path apart; None if it is one field."""
    name = path[-1].removeprefix("f:")
    group = of["apiVersion"].rpartition("/")[0]
    if "." in group and not group.endswith("k8s.io"):
        return CUSTOM.get(group, {}).get(name)
    if name == "ports":
        return PORTS.get(of["kind"], ("containerPort", "protocol")) if of["kind"] != "NetworkPolicy" else None
    return IDENTITY.get(name) or None


def written(path: Path) -> str:
    """`.spec.template.spec.containers[name="user"].image`, as conflicts name a field."""
    text = ""
    for element in path:
        sort, _, name = element.partition(":")
        if sort == "f":
            text += f".{name}"
        else:
            text += "[" + ",".join(f"{key}={json.dumps(one)}" for key, one in json.loads(name).items()) + "]"
    return text


def _key(item: Object, keys: tuple[str, ...]) -> str:
    found = {key: item.get(key, "TCP" if key == "protocol" else None) for key in keys}
    return "k:" + json.dumps(found, separators=(",", ":"))


def _tells_apart(path: Path) -> bool:
    """Whether a field says which item of a list it belongs to: such a one goes last."""
    sort, _, key = path[-2].partition(":") if len(path) > 1 else ("f", "", "")
    return sort == "k" and path[-1].removeprefix("f:") in json.loads(key)


def _within(path: Path, holder: Path) -> bool:
    return path[: len(holder)] == holder


def _merged(live: Any, wanted: Any, of: Object, path: Path = ()) -> Any:
    if isinstance(live, dict) and isinstance(wanted, dict):
        new = {key: _merged(live.get(key), one, of, (*path, f"f:{key}")) for key, one in wanted.items()}
        return {**copy.deepcopy(live), **new}
    keys = identity(path, of) if isinstance(live, list) and isinstance(wanted, list) else None
    if not keys:
        return copy.deepcopy(wanted)
    items = {_key(item, keys): item for item in live}
    for item in wanted:
        key = _key(item, keys)
        items[key] = _merged(items.get(key), item, of, (*path, key))
    return list(items.values())


def _remove(value: Any, path: Path, of: Object, at: Path = ()) -> None:
    """Take a field away, and what is empty without it."""
    element, rest = path[0], path[1:]
    if isinstance(value, list):
        keys = identity(at, of) or ()
        found = next((index for index, item in enumerate(value) if _key(item, keys) == element), None)
        if found is not None and rest:
            _remove(value[found], rest, of, (*at, element))
            if not value[found]:
                del value[found]
        return
    name = element.removeprefix("f:")
    if name not in value:
        return
    if rest and isinstance(value[name], dict | list):
        _remove(value[name], rest, of, (*at, element))
    if not rest or value[name] in ({}, []):
        del value[name]


def _nested(paths: set[Path]) -> Object:
    root: Object = {}
    for path in sorted(paths):
        place = root
        for element in path:
            place = place.setdefault(element, {})
    return root

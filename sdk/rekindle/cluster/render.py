"""A kustomization as a list of objects: the part of kustomize that our manifests use.

Known are `resources`, `namespace`, `labels`, `images` and `patches` (JSON 6902 with a target, or a strategic merge
of one whole object, where lists of named items merge by name; `$patch: delete` takes objects out). Any other field
is an error: what is not understood must not be left out in silence. Order as in kustomize: patches, namespace,
labels, images.
"""

import copy
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from string import Template
from typing import Any

from rekindle.cluster.errors import ClusterError

Manifest = dict[str, Any]
"""One object as the API takes it."""

KNOWN = {"apiVersion", "kind", "resources", "namespace", "labels", "images", "patches"}
CLUSTER_SCOPED = {
    "Namespace", "ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition", "PriorityClass", "RuntimeClass",
    "StorageClass", "PersistentVolume",
}  # fmt: skip
MERGE_KEYS = {
    "containers": "name", "initContainers": "name", "env": "name", "volumes": "name", "ports": "containerPort",
    "volumeMounts": "mountPath", "imagePullSecrets": "name",
}  # fmt: skip
"""Lists whose items have an identity, and which field that is."""


def render(folder: Path, values: Mapping[str, str] | None = None) -> list[Manifest]:
    """The objects of the kustomization in a folder; `values` fill the places `${name}` of its files.

    Raises ClusterError that names file and field.
    """
    file = folder / "kustomization.yaml"
    (spec,) = load(file)
    if unknown := spec.keys() - KNOWN:
        raise ClusterError(f"{file}: {', '.join(sorted(unknown))}: not supported")
    objects = [one for path in spec.get("resources", []) for one in _resource(folder / path, values)]
    for patch in spec.get("patches", []):
        objects = _patched(objects, patch, folder, values)
    for one in objects:
        if "namespace" in spec:
            set_namespace(one, spec["namespace"])
        for labels in spec.get("labels", []):
            _label(one, labels)
        for image in spec.get("images", []):
            _set_image(one, image)
    return objects


def load(file: Path, values: Mapping[str, str] | None = None) -> list[Manifest]:
    """The objects of a YAML file. Raises ClusterError."""
    found = [one for one in _documents(file, values) if one is not None]
    if not all(isinstance(one, dict) for one in found):
        raise ClusterError(f"{file}: expected objects")
    return found


def _documents(file: Path, values: Mapping[str, str] | None) -> list[Any]:
    import yaml

    try:
        text = file.read_text(encoding="utf-8")
        filled = text if values is None else Template(text).substitute(values)
        # The same in C, where the package has it: ten times as fast.
        return list(yaml.load_all(filled, getattr(yaml, "CSafeLoader", yaml.SafeLoader)))
    except KeyError as error:
        raise ClusterError(f"{file}: nobody knows the place ${{{error.args[0]}}}") from error
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ClusterError(f"{file}: {error}") from error


def _resource(path: Path, values: Mapping[str, str] | None) -> list[Manifest]:
    return render(path, values) if path.is_dir() else load(path, values)


# ---- Patches ----


def _patched(
    objects: list[Manifest], patch: dict[str, Any], folder: Path, values: Mapping[str, str] | None
) -> list[Manifest]:
    import yaml

    if unknown := patch.keys() - {"path", "patch", "target"}:
        raise ClusterError(f"{folder}: patches: {', '.join(sorted(unknown))}: not supported")
    content = yaml.safe_load(patch["patch"]) if "patch" in patch else _content(folder / patch["path"], values)
    target = patch.get("target") or _identity(content)
    found = [one for one in objects if _matches(one, target)]
    if not found:
        raise ClusterError(f"{folder}: patches: no object fits the target {target}")
    if isinstance(content, dict) and content.get("$patch") == "delete":
        return [one for one in objects if one not in found]
    return [_with(one, content) if one in found else one for one in objects]


def _content(file: Path, values: Mapping[str, str] | None) -> Any:
    (found,) = _documents(file, values)
    return found


def _with(one: Manifest, patch: Any) -> Manifest:
    """JSON 6902 if the patch is a list, else a strategic merge."""
    if isinstance(patch, list):
        return _json_patched(one, patch)
    merged: Manifest = merge(one, patch)
    return merged


def _json_patched(one: Manifest, operations: list[Any]) -> Manifest:
    from rekindle.exports import package

    jsonpatch = package("jsonpatch", "cluster")
    try:
        changed: Manifest = jsonpatch.apply_patch(one, operations)
    except (jsonpatch.JsonPatchException, jsonpatch.JsonPointerException) as error:
        raise ClusterError(f"patch of {describe(one)}: {error}") from error
    return changed


def _identity(patch: Manifest) -> dict[str, Any]:
    group, _, version = patch["apiVersion"].rpartition("/")
    return {
        "group": group,
        "version": version,
        "kind": patch["kind"],
        "name": f"^{re.escape(patch['metadata']['name'])}$",
    }


def _matches(one: Manifest, target: dict[str, Any]) -> bool:
    """Whether an object is meant: by kind, group, version, name (a regular expression) and labels."""
    group, _, version = one["apiVersion"].rpartition("/")
    said = {"group": group, "version": version, "kind": one["kind"], "name": one["metadata"]["name"]}
    if unknown := target.keys() - said.keys() - {"labelSelector"}:
        raise ClusterError(f"patches: target: {', '.join(sorted(unknown))}: not supported")
    labels = one["metadata"].get("labels", {})
    wanted = dict(pair.split("=", 1) for pair in target.get("labelSelector", "").split(",") if pair)
    fits = (re.fullmatch(str(target[name]), value) for name, value in said.items() if name in target)
    return all(fits) and all(labels.get(name) == value for name, value in wanted.items())


def merge(one: Any, patch: Any, field: str = "") -> Any:
    """Strategic merge: objects by key (null removes), lists of named items by name, other lists replaced."""
    if isinstance(one, dict) and isinstance(patch, dict):
        merged = {key: value for key, value in one.items() if patch.get(key, value) is not None}
        for key, value in patch.items():
            if value is not None:
                merged[key] = merge(one.get(key), value, key)
        return merged
    if isinstance(one, list) and isinstance(patch, list) and field in MERGE_KEYS:
        return _merge_items(one, patch, MERGE_KEYS[field])
    return copy.deepcopy(patch)


def _merge_items(items: list[Any], patches: list[Any], key: str) -> list[Any]:
    by_key = {item.get(key): item for item in items}
    for patch in patches:
        known = by_key.get(patch.get(key))
        if patch.get("$patch") == "delete":
            by_key.pop(patch.get(key), None)
        else:
            by_key[patch.get(key)] = patch if known is None else merge(known, patch)
    return list(by_key.values())


# ---- Namespace, labels, images ----


def set_namespace(one: Manifest, namespace: str) -> None:
    """Put the object there; a Namespace takes the name, and bindings look for their accounts there."""
    if one["kind"] == "Namespace":
        one["metadata"]["name"] = namespace
    elif one["kind"] not in CLUSTER_SCOPED:
        one["metadata"]["namespace"] = namespace
    for subject in one.get("subjects") or []:
        if subject["kind"] == "ServiceAccount":
            subject["namespace"] = namespace


def _label(one: Manifest, spec: dict[str, Any]) -> None:
    if unknown := {name for name in spec if spec[name] and name not in ("pairs", "includeTemplates")}:
        raise ClusterError(f"labels: {', '.join(sorted(unknown))}: not supported")
    places = [one]
    if spec.get("includeTemplates") and isinstance(one.get("spec", {}).get("template"), dict):
        places.append(one["spec"]["template"])
    for place in places:
        place.setdefault("metadata", {}).setdefault("labels", {}).update(spec["pairs"])


def _set_image(one: Manifest, spec: dict[str, str]) -> None:
    for container in containers(one):
        name, _, tag = container["image"].partition("@")[0].rpartition(":")
        if (name or tag) == spec["name"]:
            tag = spec.get("newTag", tag if name else "")
            container["image"] = spec.get("newName", spec["name"]) + (f":{tag}" if tag else "")


def containers(one: Manifest) -> Iterator[dict[str, Any]]:
    """All containers of an object's pods."""
    spec = one.get("spec", {})
    for template in (spec.get("template"), spec.get("jobTemplate", {}).get("spec", {}).get("template")):
        for field in ("initContainers", "containers"):
            yield from (template or {}).get("spec", {}).get(field) or []


def describe(one: Manifest) -> str:
    """`Service.serving.knative.dev gateway`, as people say it."""
    group = one["apiVersion"].rpartition("/")[0]
    return f"{one['kind']}{'.' if group else ''}{group} {one['metadata'].get('name', '?')}"


def condition(one: Manifest, kind: str) -> dict[str, Any]:
    """A condition of an object's status, empty if it has none of this kind."""
    found = ((one.get("status") or {}).get("conditions")) or []
    return next((each for each in found if each["type"] == kind), {})


def gave_up(one: Manifest) -> bool:
    """Whether it is a Job that has failed, and is not tried again."""
    return one["kind"] == "Job" and condition(one, "Failed").get("status") == "True"


def to_yaml(objects: list[Manifest]) -> str:
    """One document an object."""
    import yaml

    return yaml.safe_dump_all(objects, sort_keys=False, allow_unicode=True, width=110)

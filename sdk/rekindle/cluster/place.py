"""Manifests for one installation: its namespace wherever one is named, the registry of its images, its settings' mark.

Pods read ConfigMaps when they start. A mark of what stands in them on the templates of those that do makes pods anew
when it changes, and only then.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rekindle.cluster.errors import ClusterError
from rekindle.cluster.render import Manifest, render, set_namespace

NAMESPACE = "rekindle"
"""Of the manifests, unless another is asked for."""
IMAGES = "dev.local/rekindle"
"""Of the manifests: where images lie that were made by hand."""
GATEWAY = "gateway"
"""The service that clients reach."""
PART_OF = "app.kubernetes.io/part-of"
"""Label of all that is ours."""
NAMESPACE_LABEL = "kubernetes.io/metadata.name"
SETTINGS = "rekindle.dev/settings"
"""Annotation of a template: a hash of the ConfigMaps that its pods read."""


def installation(overlay: Path, namespace: str = NAMESPACE, registry: str | None = None) -> list[Manifest]:
    """The objects of an overlay for that namespace, with images from that registry."""
    objects = [placed(one, namespace, registry) for one in render(overlay)]
    _mark_settings(objects)
    return objects


def _mark_settings(objects: Sequence[Manifest]) -> None:
    maps = {one["metadata"]["name"]: one.get("data") for one in objects if one["kind"] == "ConfigMap"}
    for one in objects:
        if one["kind"] in ("Deployment", "StatefulSet") or one["apiVersion"].startswith("serving."):
            template = one["spec"]["template"]
            if read := {
                name: maps[name] for name in sorted(set(_settings(template["spec"]))) if name in maps
            }:
                mark = hashlib.sha256(json.dumps(read, sort_keys=True).encode()).hexdigest()[:16]
                template.setdefault("metadata", {}).setdefault("annotations", {})[SETTINGS] = mark


def _settings(pod: dict[str, Any]) -> Iterator[str]:
    """Names of the ConfigMaps that a pod reads as a whole: as its environment, as a volume."""
    for container in pod["containers"]:
        yield from (
            one["configMapRef"]["name"] for one in container.get("envFrom", []) if "configMapRef" in one
        )
    yield from (one["configMap"]["name"] for one in pod.get("volumes", []) if "configMap" in one)


def placed(one: Manifest, namespace: str, registry: str | None) -> Manifest:
    """An object with its namespace and registry. Raises ClusterError for a namespace that cannot be one."""
    if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", namespace):
        raise ClusterError(f"namespace {namespace!r}: expected at most 63 of a-z, 0-9 and -, as a DNS label")
    found: Manifest = _replaced(one, namespace, registry)
    if "namespace" in found["metadata"] or found["kind"] == "Namespace" or "subjects" in found:
        set_namespace(found, namespace)
    return found


def _replaced(value: Any, namespace: str, registry: str | None) -> Any:
    if isinstance(value, dict):
        return {
            key: namespace
            if key == NAMESPACE_LABEL and inner == NAMESPACE
            else _replaced(inner, namespace, registry)
            for key, inner in value.items()
        }
    if isinstance(value, list):
        return [_replaced(inner, namespace, registry) for inner in value]
    if not isinstance(value, str):
        return value
    if registry is not None and value.startswith(f"{IMAGES}/"):
        return registry.rstrip("/") + value.removeprefix(IMAGES)
    return re.sub(rf"\.{NAMESPACE}\.svc\b", f".{namespace}.svc", value)

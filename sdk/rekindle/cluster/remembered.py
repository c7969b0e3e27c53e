"""Options that a base model was added with, kept with its services: what is not said again stays as it was.

Without that, to add a model again because its images are outdated would silently take its GPUs away.
"""

import json
from collections.abc import Mapping, Sequence

from rekindle.cluster.api import KNATIVE, Api
from rekindle.cluster.errors import ClusterError
from rekindle.cluster.models import BASE_LABEL, BASE_NAME
from rekindle.cluster.names import token
from rekindle.cluster.render import Manifest

OPTIONS = "rekindle.dev/options"
"""Annotation of a model's services: a JSON object."""
Option = str | int
KINDS: dict[str, type[Option]] = {
    "source": str, "gpus": int, "max_runs": int, "max_replicas": int, "engine": str, "dtype": str, "overlay": str,
}  # fmt: skip


def remember(objects: Sequence[Manifest], options: Mapping[str, Option]) -> None:
    """Write down what was asked for, defaults not among it."""
    text = json.dumps(dict(sorted(options.items())))
    for one in objects:
        if one["apiVersion"] == KNATIVE:
            one["metadata"].setdefault("annotations", {})[OPTIONS] = text


def remembered(api: Api, base: str, namespace: str) -> dict[str, Option]:
    """What was asked for when the model was added; nothing if it was not. Raises ClusterError."""
    found: dict[str, Option] = {}
    for one in api.all(KNATIVE, "Service", namespace, f"{BASE_LABEL}={token(base)}"):
        about = one["metadata"].get("annotations") or {}
        if (name := about.get(BASE_NAME, base)) != base:
            raise ClusterError(f"{base}: the services of {name!r} have the same names; remove it first")
        found |= _read(about.get(OPTIONS, "{}"), one["metadata"]["name"])
    return found


def _read(text: str, service: str) -> dict[str, Option]:
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    known = (
        {name: value for name, value in found.items() if name in KINDS} if isinstance(found, dict) else None
    )
    if known is None or not all(type(value) is KINDS[name] for name, value in known.items()):
        said = f"{text[:100]!r}, expected a JSON object of options of `models add`; remove the annotation"
        raise ClusterError(f"service {service}: annotation {OPTIONS}: {said}")
    return known

"""Takes the schemas of the kinds that our manifests use out of the package `kubernetes-validate`.

    pip install kubernetes-validate==1.37.0 && python -m tests.schemas.take 1.36.0

Texts for readers are left out: they are most of the size.
"""

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PACKAGE = "kubernetes_validate"
CORE = "io.k8s.api.core.v1."
KINDS = (
    *(CORE + kind for kind in ("ConfigMap", "Namespace", "Secret", "Service", "ServiceAccount")),
    "io.k8s.api.apps.v1.Deployment",
    "io.k8s.api.apps.v1.StatefulSet",
    "io.k8s.api.batch.v1.Job",
    "io.k8s.api.networking.v1.NetworkPolicy",
    "io.k8s.api.policy.v1.PodDisruptionBudget",
    "io.k8s.api.rbac.v1.Role",
    "io.k8s.api.rbac.v1.RoleBinding",
)


def take(definitions: dict[str, Any]) -> dict[str, Any]:
    """The kinds and all that they refer to."""
    taken: dict[str, Any] = {}
    missing = list(KINDS)
    while missing:
        name = missing.pop()
        if name not in taken:
            taken[name] = _without_texts(definitions[name])
            missing += _references(taken[name])
    return {name: taken[name] for name in sorted(taken)}


def _without_texts(schema: Any) -> Any:
    if isinstance(schema, dict):
        return {
            key: _without_texts(value)
            for key, value in schema.items()
            if not (key == "description" and isinstance(value, str))
        }
    return [_without_texts(one) for one in schema] if isinstance(schema, list) else schema


def _references(schema: Any) -> list[str]:
    if isinstance(schema, dict):
        own = [schema["$ref"].rpartition("/")[2]] if isinstance(schema.get("$ref"), str) else []
        return own + [name for value in schema.values() for name in _references(value)]
    return [name for one in schema for name in _references(one)] if isinstance(schema, list) else []


def main(version: str) -> None:
    spec = importlib.util.find_spec(PACKAGE)
    assert spec is not None and spec.origin is not None, f"pip install {PACKAGE.replace('_', '-')}"
    folder = Path(spec.origin).parent / "kubernetes-json-schema" / f"v{version}-local-strict"
    definitions = json.loads((folder / "_definitions.json").read_text())["$defs"]
    text = json.dumps({"$defs": take(definitions)}, indent=1)
    (HERE / "kubernetes.json").write_text(text + "\n")


if __name__ == "__main__":
    main(sys.argv[1])

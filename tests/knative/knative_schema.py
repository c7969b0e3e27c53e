"""JSON schemas of what our manifests contain: Kubernetes' own, and that of a Knative Service derived from them.

Knative takes Kubernetes' pods, but not all of them: a field that it does not let through is refused. MASKS is what
it lets through (serving 1.23, `pkg/apis/serving/fieldmask.go`), FLAGGED what it lets through once a feature flag is
set (`config/core/configmaps/features.yaml`); all other fields of a pod are refused always.
"""

import json
from collections.abc import Collection
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema

Manifest = dict[str, Any]
CORE = "io.k8s.api.core.v1."
KNATIVE_SERVICE = ("serving.knative.dev/v1", "Service")
PUBLISHED = Path(__file__).parent.parent / "schemas" / "kubernetes.json"

FLAGGED: dict[str, dict[str, str]] = {
    "PodSpec": {
        "affinity": "kubernetes.podspec-affinity",
        "topologySpreadConstraints": "kubernetes.podspec-topologyspreadconstraints",
        "hostAliases": "kubernetes.podspec-hostaliases",
        "nodeSelector": "kubernetes.podspec-nodeselector",
        "tolerations": "kubernetes.podspec-tolerations",
        "runtimeClassName": "kubernetes.podspec-runtimeclassname",
        "dnsPolicy": "kubernetes.podspec-dnspolicy",
        "dnsConfig": "kubernetes.podspec-dnsconfig",
        "securityContext": "kubernetes.podspec-securitycontext",
        "shareProcessNamespace": "kubernetes.podspec-shareprocessnamespace",
        "hostIPC": "kubernetes.podspec-hostipc",
        "hostPID": "kubernetes.podspec-hostpid",
        "hostNetwork": "kubernetes.podspec-hostnetwork",
        "priorityClassName": "kubernetes.podspec-priorityclassname",
        "schedulerName": "kubernetes.podspec-schedulername",
        "initContainers": "kubernetes.podspec-init-containers",
    },
    "Volume": {
        "image": "kubernetes.podspec-volumes-image",
        "hostPath": "kubernetes.podspec-volumes-hostpath",
        "ephemeral": "kubernetes.podspec-volumes-ephemeral",
        "csi": "kubernetes.podspec-volumes-csi",
        "persistentVolumeClaim": "kubernetes.podspec-persistent-volume-claim",
    },
    "VolumeMount": {"mountPropagation": "kubernetes.podspec-volumes-mount-propagation"},
    "EnvVarSource": {
        "fieldRef": "kubernetes.podspec-fieldref",
        "resourceFieldRef": "kubernetes.podspec-fieldref",
    },
    "Capabilities": {"add": "kubernetes.containerspec-addcapabilities"},
}
"""By kind and field: the flag in the ConfigMap `config-features` that lets it through."""
MASKS: dict[str, tuple[str, ...]] = {
    "PodSpec": (
        "serviceAccountName",
        "containers",
        "volumes",
        "imagePullSecrets",
        "enableServiceLinks",
        "automountServiceAccountToken",
    ),
    "Container": (
        "name",
        "args",
        "command",
        "env",
        "workingDir",
        "envFrom",
        "image",
        "imagePullPolicy",
        "livenessProbe",
        "ports",
        "readinessProbe",
        "resources",
        "securityContext",
        "startupProbe",
        "terminationMessagePath",
        "terminationMessagePolicy",
        "volumeMounts",
    ),
    "Volume": ("name", "secret", "configMap", "projected", "emptyDir"),
    "VolumeProjection": ("secret", "configMap", "serviceAccountToken"),
    "VolumeMount": ("name", "readOnly", "mountPath", "subPath"),
    "ContainerPort": ("containerPort", "name", "protocol"),
    "EnvVarSource": ("configMapKeyRef", "secretKeyRef"),
    "ResourceRequirements": ("limits", "requests"),
    "SecurityContext": (
        "capabilities",
        "readOnlyRootFilesystem",
        "runAsUser",
        "runAsGroup",
        "runAsNonRoot",
        "allowPrivilegeEscalation",
        "seccompProfile",
    ),
    "Capabilities": ("drop",),
}
ONLY = {"automountServiceAccountToken": {"const": False}}
"""Fields of which only this is taken."""
SECONDS = {"type": "integer", "minimum": 0}
TRAFFIC = {
    "type": "object",
    "properties": {
        "revisionName": {"type": "string"},
        "latestRevision": {"type": "boolean"},
        "percent": {"type": "integer", "minimum": 0, "maximum": 100},
        "tag": {"type": "string"},
    },
    "additionalProperties": False,
}


@cache
def published() -> dict[str, Any]:
    """Kubernetes' definitions by name."""
    found: dict[str, Any] = json.loads(PUBLISHED.read_text())["$defs"]
    return found


def schema(manifest: Manifest, flags: Collection[str] = ()) -> dict[str, Any]:
    """The schema of an object's kind, Knative's with these feature flags set. Raises LookupError."""
    kind = (manifest["apiVersion"], manifest["kind"])
    return (
        knative_service(frozenset(flags))
        if kind == KNATIVE_SERVICE
        else {
            "$ref": f"#/$defs/{_name(*kind)}",
            "$defs": published(),
        }
    )


@cache
def _name(api_version: str, kind: str) -> str:
    for name, one in published().items():
        for each in one.get("x-kubernetes-group-version-kind", []):
            if ("/".join(filter(None, (each["group"], each["version"]))), each["kind"]) == (
                api_version,
                kind,
            ):
                return name
    raise LookupError(f"{api_version} {kind}: no schema; see tests/schemas/README.md")


@cache
def knative_service(flags: frozenset[str]) -> dict[str, Any]:
    """A Service of Knative, strict in every field that a manifest may set."""
    masked = {f"knative.{kind}": _masked(kind, flags) for kind in MASKS}
    pod = masked["knative.PodSpec"]
    for field in (
        "containerConcurrency",
        "timeoutSeconds",
        "responseStartTimeoutSeconds",
        "idleTimeoutSeconds",
    ):
        pod["properties"][field] = SECONDS
    about = {"$ref": "#/$defs/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"}
    template = _object({"metadata": about, "spec": {"$ref": "#/$defs/knative.PodSpec"}}, "spec")
    spec = _object({"template": template, "traffic": {"type": "array", "items": TRAFFIC}}, "template")
    kinds = {"apiVersion": {"type": "string"}, "kind": {"type": "string"}}
    return _object({**kinds, "metadata": about, "spec": spec}, "spec") | {
        "$defs": _rerouted(published()) | masked
    }


def _object(properties: dict[str, Any], *required: str) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


def _masked(kind: str, flags: frozenset[str]) -> dict[str, Any]:
    """Kubernetes' schema of a kind with the fields that Knative takes."""
    whole = published()[CORE + kind]
    flagged = (field for field, flag in FLAGGED.get(kind, {}).items() if flag in flags)
    properties = {
        field: ONLY.get(field) or _rerouted(whole["properties"][field]) for field in (*MASKS[kind], *flagged)
    }
    return {**whole, "properties": properties, "additionalProperties": False}


def _rerouted(part: Any) -> Any:
    """The same, referring to masked kinds."""
    text = json.dumps(part)
    for kind in MASKS:
        text = text.replace(f'"#/$defs/{CORE}{kind}"', f'"#/$defs/knative.{kind}"')
    return json.loads(text)


@cache
def _validator(api_version: str, kind: str, flags: frozenset[str]) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(schema({"apiVersion": api_version, "kind": kind}, flags))


def mistakes(manifest: Manifest, flags: Collection[str] = ()) -> list[str]:
    """What the schema of its kind has against an object; empty if nothing."""
    validator = _validator(manifest["apiVersion"], manifest["kind"], frozenset(flags))
    return [
        f"{'.'.join(map(str, one.absolute_path))}: {one.message}" for one in validator.iter_errors(manifest)
    ]


def flags_needed(manifest: Manifest) -> set[str]:
    """The feature flags without which Knative refuses an object."""
    if not mistakes(manifest):
        return set()
    every = {flag for fields in FLAGGED.values() for flag in fields.values()}
    return {flag for flag in every if mistakes(manifest, every - {flag})}

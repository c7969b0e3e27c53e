"""What an API server does to an object between the client's words and what it keeps: defaults, and refusals.

Defaults of pods and Services as Kubernetes' own, those of Knative Services as its webhook's (serving 1.23,
`pkg/apis/serving/v1/revision_defaults.go`): for a list that is one field the difference matters, since what was
applied is then not what stands there. Refusals are those that our commands meet: fields that cannot change, Knative's
flags and bounds.
"""

import base64
import copy
from collections.abc import Collection
from typing import Any

from tests.cluster.ownership import Object
from tests.knative.knative_schema import FLAGGED, KNATIVE_SERVICE, flags_needed, mistakes

SCALE = "autoscaling.knative.dev/"
ZERO = "allow-zero-initial-scale"
"""Of `config-autoscaler`, not of the features."""
CHANGEABLE = {
    "StatefulSet": {
        "replicas", "ordinals", "template", "updateStrategy", "revisionHistoryLimit",
        "persistentVolumeClaimRetentionPolicy", "minReadySeconds",
    },
    "Job": {"parallelism", "backoffLimit", "activeDeadlineSeconds", "ttlSecondsAfterFinished", "suspend"},
}  # fmt: skip
FIXED = {"Deployment": ("selector",), "Service": ("clusterIP",)}
COUNTS_ITS_SPEC = {"Deployment", "StatefulSet", "Job", "CronJob", "NetworkPolicy", "PodDisruptionBudget"}
"""Kinds of Kubernetes with a generation; custom resources have one too."""


class Invalid(Exception):
    """What the API has against an object: code, reason, message."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(code, reason, message)
        self.code, self.reason, self.message = code, reason, message


def admitted(one: Object, live: Object | None, flags: Collection[str]) -> Object:
    """The object as it is kept. Raises Invalid."""
    found = copy.deepcopy(one)
    _default(found)
    if live is not None:
        _check_what_is_fixed(live, found)
    if _is_knative(found) and (live is None or live["spec"] != found["spec"]):
        _check_knative(found, flags)
    return found


def generation(one: Object, live: Object | None) -> int | None:
    """It counts changes of what is asked for; None for kinds that do not count."""
    if one["kind"] not in COUNTS_ITS_SPEC and "." not in one["apiVersion"].rpartition("/")[0]:
        return None
    before: int = 0 if live is None else live["metadata"]["generation"]
    return before + (live is None or live.get("spec") != one.get("spec"))


# ---- Defaults ----


def _is_knative(one: Object) -> bool:
    return (one["apiVersion"], one["kind"]) == KNATIVE_SERVICE


def _default(one: Object) -> None:
    spec = one.get("spec") or {}
    if one["kind"] == "Secret":
        said = one.pop("stringData", {})
        one["data"] = {**one.get("data", {}), **{key: _encoded(value) for key, value in said.items()}}
        one.setdefault("type", "Opaque")
    elif one["kind"] == "Namespace":
        one["metadata"].setdefault("labels", {})["kubernetes.io/metadata.name"] = one["metadata"]["name"]
    elif _is_knative(one):
        _default_knative(one)
    elif one["kind"] == "Service":
        spec.setdefault("clusterIP", "10.96.0.7")
        for port in spec.get("ports", []):
            port.setdefault("protocol", "TCP")
    for container in spec.get("template", {}).get("spec", {}).get("containers", []):
        if not _is_knative(one):
            container.setdefault("terminationMessagePath", "/dev/termination-log")
            container.setdefault("imagePullPolicy", "IfNotPresent")
            for port in container.get("ports", []):
                port.setdefault("protocol", "TCP")


def _encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _default_knative(one: Object) -> None:
    revision = one["spec"]["template"].setdefault("spec", {})
    one["spec"].setdefault("traffic", [{"latestRevision": True, "percent": 100}])
    one["metadata"].setdefault("annotations", {}).setdefault("serving.knative.dev/creator", "test")
    revision.setdefault("timeoutSeconds", 300)
    revision.setdefault("containerConcurrency", 0)
    empty = {each["name"] for each in revision.get("volumes", []) if "emptyDir" in each}
    for container in revision["containers"]:
        container.setdefault("name", "user-container")
        container.setdefault("resources", {})
        container.setdefault("readinessProbe", {"tcpSocket": {"port": 0}}).setdefault("successThreshold", 1)
        for mount in container.get("volumeMounts", []):
            if mount["name"] not in empty:
                mount["readOnly"] = True


# ---- Refusals ----


def _check_what_is_fixed(live: Object, one: Object) -> None:
    kind, name = one["kind"], one["metadata"]["name"]
    changed = _changed(live.get("spec"), one.get("spec"))
    if kind == "StatefulSet" and changed - CHANGEABLE[kind]:
        said = "updates to statefulset spec for fields other than 'replicas', 'template' … are forbidden"
        raise Invalid(422, "Invalid", f'StatefulSet.apps "{name}" is invalid: spec: Forbidden: {said}')
    if kind == "Job" and (fixed := changed - CHANGEABLE[kind]):
        said = f"spec.{min(fixed)}: Invalid value: core.PodTemplateSpec{{…}}: field is immutable"
        raise Invalid(422, "Invalid", f'Job.batch "{name}" is invalid: {said}')
    if fixed := changed & {*FIXED.get(kind, ())}:
        raise Invalid(422, "Invalid", f'{kind} "{name}" is invalid: spec.{min(fixed)}: field is immutable')
    if kind == "RoleBinding" and live["roleRef"] != one["roleRef"]:
        raise Invalid(422, "Invalid", f'RoleBinding "{name}" is invalid: roleRef: cannot change roleRef')


def _changed(live: Any, one: Any) -> set[str]:
    return {key for key in {**(live or {}), **(one or {})} if (live or {}).get(key) != (one or {}).get(key)}


def _check_knative(one: Object, flags: Collection[str]) -> None:
    scale = one["spec"]["template"].get("metadata", {}).get("annotations", {})
    if mistakes(_as_written(one), {*flags} - {ZERO}):
        raise _denied(f"must not set the field(s): {', '.join(_refused(one, flags))}")
    if scale.get(f"{SCALE}initial-scale") == "0" and ZERO not in flags:
        key = f"{SCALE}initial-scale"
        raise _denied(f"invalid value: 0: {key}=0 not allowed by cluster: spec.template.annotations.{key}")
    least, most = (int(scale.get(f"{SCALE}{bound}", "0")) for bound in ("min-scale", "max-scale"))
    if most and most < least:
        raise _denied(f"max-scale={most} is less than min-scale={least}")


def _refused(one: Object, flags: Collection[str]) -> list[str]:
    missing = flags_needed(_as_written(one)) - {*flags}
    by_flag = {flag: name for names in FLAGGED.values() for name, flag in names.items()}
    return sorted(f"spec.template.spec.{by_flag[flag]}" for flag in missing)


def _as_written(one: Object) -> Object:
    """As a manifest is: without what the server adds."""
    found = copy.deepcopy(one)
    found.pop("status", None)
    return found


def _denied(said: str) -> Invalid:
    webhook = 'admission webhook "validation.webhook.serving.knative.dev" denied the request'
    return Invalid(400, "BadRequest", f"{webhook}: validation failed: {said}")

"""What a schema cannot say of our manifests: annotations and their values, what Knative refuses, what pods must have.

Every rule is a function from an object to complaints. Keys and ranges are those of Knative Serving 1.23
(`pkg/apis/autoscaling`, `pkg/apis/serving`, `pkg/apis/networking`); a misspelt key is accepted there in silence, so
here it is not.
"""

import re
from collections.abc import Callable, Collection, Iterator
from typing import Any

from tests.knative.knative_schema import KNATIVE_SERVICE, Manifest

Rule = Callable[[Manifest], Iterator[str]]
UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def seconds(text: str) -> float:
    """A duration as Go writes it: `1m30s`. Raises ValueError."""
    if not re.fullmatch(r"(\d+(\.\d+)?(ms|s|m|h))+", text):
        raise ValueError(f"{text!r} is no duration")
    return sum(
        float(number) * UNITS[unit] for number, _, unit in re.findall(r"(\d+(\.\d+)?)(ms|s|m|h)", text)
    )


def _between(read: Callable[[str], float], least: float, most: float) -> Callable[[str], bool]:
    def fits(text: str) -> bool:
        try:
            return least <= read(text) <= most
        except ValueError:
            return False

    return fits


ANY = float("inf")
SCALING = "autoscaling.knative.dev/"
SERVING = "serving.knative.dev/"
DEADLINE = f"{SERVING}progress-deadline"
TEMPLATE_ANNOTATIONS: dict[str, Callable[[str], bool]] = {
    f"{SCALING}class": {"kpa.autoscaling.knative.dev"}.__contains__,
    f"{SCALING}metric": {"concurrency", "rps"}.__contains__,
    f"{SCALING}min-scale": _between(int, 0, 2**31 - 1),
    f"{SCALING}max-scale": _between(int, 0, 2**31 - 1),
    f"{SCALING}initial-scale": _between(int, 0, 2**31 - 1),
    f"{SCALING}activation-scale": _between(int, 2, 2**31 - 1),
    f"{SCALING}target": _between(float, 0.01, ANY),
    f"{SCALING}target-utilization-percentage": _between(float, 1, 100),
    f"{SCALING}target-burst-capacity": lambda text: text == "-1" or _between(float, 0, ANY)(text),
    f"{SCALING}window": _between(seconds, 6, 3600),
    f"{SCALING}scale-down-delay": _between(seconds, 0, 3600),
    f"{SCALING}scale-to-zero-pod-retention-period": _between(seconds, 0, 3600),
    f"{SCALING}panic-window-percentage": _between(float, 1, 100),
    f"{SCALING}panic-threshold-percentage": _between(float, 110, 1000),
    f"{SCALING}metric-aggregation-algorithm": {"linear", "weighted-exponential"}.__contains__,
    DEADLINE: _between(seconds, 1, ANY),
}
"""Keys that a revision's template may carry, and which values they take."""
SERVICE_ANNOTATIONS: dict[str, Callable[[str], bool]] = {
    f"{SERVING}rollout-duration": _between(seconds, 0, ANY),
    "rekindle.dev/base-model": bool,
    "rekindle.dev/capacity": _between(float, 0.01, ANY),
}
"""The same of a Service itself, where Knative refuses those of scale."""
LABELS: dict[str, Callable[[str], bool]] = {
    "app.kubernetes.io/part-of": {"rekindle"}.__contains__,
    "app.kubernetes.io/name": bool,
    "rekindle.dev/kind": bool,
    "rekindle.dev/base": bool,
    "networking.knative.dev/visibility": {"cluster-local"}.__contains__,
    "pod-security.kubernetes.io/enforce": {"baseline", "restricted"}.__contains__,
    "pod-security.kubernetes.io/warn": {"restricted"}.__contains__,
}
RESERVED_PORTS = {8008, 8012, 8013, 8022, 8112, 9090, 9091}
"""Of queue-proxy, which shares the pod's network."""
RESERVED_NAMES = {"PORT", "K_SERVICE", "K_CONFIGURATION", "K_REVISION"}
MOST_SECONDS = 600
"""`max-revision-timeout-seconds` of a stock cluster."""
HARDENED = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}
HARDENED_EITHER = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
"""Of the container or, outside of Knative, of its pod."""


def is_knative(one: Manifest) -> bool:
    return (one["apiVersion"], one["kind"]) == KNATIVE_SERVICE


def template(one: Manifest) -> Manifest:
    """What an object's pods are made from, empty if it has none."""
    found: Manifest = one.get("spec", {}).get("template", {}) if isinstance(one.get("spec"), dict) else {}
    return found


def pod(one: Manifest) -> dict[str, Any]:
    found: dict[str, Any] = template(one).get("spec", {})
    return found


def containers(one: Manifest) -> list[dict[str, Any]]:
    return [*pod(one).get("initContainers", []), *pod(one).get("containers", [])]


def scale(one: Manifest) -> dict[str, str]:
    found: dict[str, str] = template(one).get("metadata", {}).get("annotations", {})
    return found


def _known(place: str, found: dict[str, str], known: dict[str, Callable[[str], bool]]) -> Iterator[str]:
    for key, value in found.items():
        if key not in known:
            yield f"{place}: {key} is not known"
        elif not isinstance(value, str) or not known[key](value):
            yield f"{place}: {key} does not take {value!r}"


def annotations(one: Manifest) -> Iterator[str]:
    """Every annotation is known, stands where it works, and has a value that is taken."""
    yield from _known("metadata.annotations", one["metadata"].get("annotations", {}), SERVICE_ANNOTATIONS)
    yield from _known("template.annotations", scale(one), TEMPLATE_ANNOTATIONS)


def labels(one: Manifest) -> Iterator[str]:
    """Every label is known; all objects say that they are ours, and pods what they are."""
    for place, about in (("metadata", one["metadata"]), ("template", template(one).get("metadata"))):
        if about is None:
            continue
        found = about.get("labels", {})
        yield from _known(f"{place}.labels", found, LABELS)
        for wanted in ("app.kubernetes.io/part-of", "app.kubernetes.io/name"):
            if wanted not in found:
                yield f"{place}.labels: {wanted} is missing"
    if is_knative(one) and template(one)["metadata"]["labels"].get("rekindle.dev/kind") is None:
        yield "template.labels: rekindle.dev/kind is missing: the network's policies would not know the pod"


def bounds(one: Manifest) -> Iterator[str]:
    """The least is no more than the most, and there is a most: without, a cluster is bought empty."""
    if not is_knative(one):
        return
    least, most = (int(scale(one).get(f"{SCALING}{key}", "0")) for key in ("min-scale", "max-scale"))
    if not most:
        yield "max-scale: missing, which means any number"
    elif least > most:
        yield f"min-scale {least} is above max-scale {most}"


def full_activations(one: Manifest) -> Iterator[str]:
    """Where requests are counted by how many are open, one counts in full."""
    counted = scale(one).get(f"{SCALING}metric", "concurrency") == "concurrency"
    if is_knative(one) and counted and scale(one).get(f"{SCALING}target-utilization-percentage") != "100":
        yield "target-utilization-percentage: one activation would ask for two replicas unless it is 100"


def timeouts(one: Manifest) -> Iterator[str]:
    """Both are there, neither cuts the other, and a stock cluster takes them."""
    if not is_knative(one):
        return
    whole, first = pod(one).get("timeoutSeconds"), pod(one).get("responseStartTimeoutSeconds")
    if whole is None or first is None:
        yield "timeoutSeconds, responseStartTimeoutSeconds: both must be set"
    elif not first <= whole <= MOST_SECONDS:
        yield f"timeouts: expected {first} <= {whole} <= {MOST_SECONDS}"
    if DEADLINE not in scale(one):
        yield "progress-deadline: missing; Knative gives a slow start up after 600 s"


def ports(one: Manifest) -> Iterator[str]:
    """Exactly one port, of a name that Knative knows and a number that queue-proxy does not use."""
    if not is_knative(one):
        return
    found = [port for container in containers(one) for port in container.get("ports", [])]
    if len(found) != 1:
        yield f"ports: {len(found)}, expected exactly one"
    for port in found:
        if port["containerPort"] in RESERVED_PORTS:
            yield f"ports: {port['containerPort']} belongs to queue-proxy"
        if port.get("name", "") not in ("http1", "h2c", ""):
            yield f"ports: the name {port['name']!r} is not http1 or h2c"


def reserved(one: Manifest) -> Iterator[str]:
    """No variable, container or path that Knative keeps for itself."""
    for container in containers(one) if is_knative(one) else []:
        for variable in container.get("env", []):
            if variable["name"] in RESERVED_NAMES or variable["name"].startswith("K_"):
                yield f"env: {variable['name']} belongs to Knative"
        if container["name"] == "queue-proxy":
            yield "containers: the name queue-proxy belongs to Knative"
        for mount in container.get("volumeMounts", []):
            if mount["mountPath"] in ("/", "/dev", "/dev/log"):
                yield f"volumeMounts: {mount['mountPath']} cannot be mounted over"


def probes(one: Manifest) -> Iterator[str]:
    """All servers have three probes, with ports."""
    if not is_knative(one) and one["kind"] != "StatefulSet":
        return
    for container in containers(one):
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            get = container.get(probe, {}).get("httpGet", {})
            if not get:
                yield f"{probe}: missing"
            elif "port" not in get:
                yield f"{probe}: it has no port, passes admission and never succeeds"


def probe_times(one: Manifest) -> Iterator[str]:
    """A start is seen soon, given up by the progress deadline and not by a probe; a busy disk ends no server."""
    for container in containers(one):
        start = container.get("startupProbe", {})
        longest = start.get("periodSeconds", 10) * start.get("failureThreshold", 3)
        if DEADLINE in scale(one) and longest >= seconds(scale(one)[DEADLINE]):
            yield f"startupProbe: {longest} s, not below the progress deadline"
        if is_knative(one) and start.get("periodSeconds") != 1:
            # its activator (`enableProbeOptimisation`) waits for the kubelet where there is a startup probe
            yield "startupProbe: a cold start takes up to its period longer, so every second"
        if one["kind"] == "StatefulSet":
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                if container.get(probe, {}).get("timeoutSeconds", 1) < 5:
                    yield f"{probe}: a server whose disk is busy may take more than a second"


def resources(one: Manifest) -> Iterator[str]:
    """Requests and limits of processor and memory; a GPU is a limit, and what is asked for is no more than it."""
    for container in containers(one):
        found = container.get("resources", {})
        for field in ("requests", "limits"):
            for what in ("cpu", "memory"):
                if what not in found.get(field, {}):
                    yield f"resources.{field}: {what} is missing"
        for what, asked in found.get("requests", {}).items():
            if what not in ("cpu", "memory") and found.get("limits", {}).get(what) != asked:
                yield f"resources: {what} is requested without a limit, which is refused"


def hardened(one: Manifest) -> Iterator[str]:
    """Not root, nothing to gain, nothing to write but volumes, the kernel's calls filtered, no token without need."""
    for container in containers(one):
        context = container.get("securityContext", {})
        for field, wanted in HARDENED.items():
            if context.get(field) != wanted:
                yield f"securityContext.{field}: {context.get(field)!r}, expected {wanted!r}"
        around = {**pod(one).get("securityContext", {}), **context}
        for field, wanted in HARDENED_EITHER.items():
            if around.get(field) != wanted:
                yield f"securityContext.{field}: {around.get(field)!r}, expected {wanted!r}"
    if containers(one):
        if "serviceAccountName" not in pod(one):
            yield "serviceAccountName: missing"
        if pod(one).get("automountServiceAccountToken", True) and one["metadata"]["name"] != "dispatcher":
            yield "automountServiceAccountToken: only the dispatcher asks the cluster anything"


def volumes(one: Manifest) -> Iterator[str]:
    """What is mounted is there, what is there is mounted, and a folder for temporary files has a bound."""
    there = {volume["name"] for volume in pod(one).get("volumes", [])}
    claimed = {claim["metadata"]["name"] for claim in one.get("spec", {}).get("volumeClaimTemplates", [])}
    mounted = {mount["name"] for container in containers(one) for mount in container.get("volumeMounts", [])}
    for name in mounted ^ (there | claimed):
        yield f"volumes: {name} is mounted and missing, or there and not mounted"
    for volume in pod(one).get("volumes", []):
        if "emptyDir" in volume and "sizeLimit" not in volume["emptyDir"]:
            yield f"volumes: {volume['name']} has no sizeLimit"


def images(one: Manifest) -> Iterator[str]:
    """Every image has a tag that stays what it is."""
    for container in containers(one):
        if not re.fullmatch(r"[a-z0-9.-]+/[a-z0-9./-]+:[0-9][A-Za-z0-9.-]*", container["image"]):
            yield f"image: {container['image']!r}, expected registry/name:version"


RULES: tuple[Rule, ...] = (
    annotations,
    labels,
    bounds,
    full_activations,
    timeouts,
    ports,
    reserved,
    probes,
    probe_times,
    resources,
    hardened,
    volumes,
    images,
)


def complaints(one: Manifest, rules: Collection[Rule] = RULES) -> list[str]:
    """What all rules have against an object; empty if nothing."""
    return [said for rule in rules for said in rule(one)]


def needs_zero_initial_scale(one: Manifest) -> bool:
    """Whether it asks for what `allow-zero-initial-scale` of `config-autoscaler` permits."""
    return scale(one).get(f"{SCALING}initial-scale") == "0"

"""Knative as the platform: which services there are, and how they fare, by the cluster's own records.

Services are found by their labels, so that a base model that is added is served without a restart, and bounds that
somebody changes with `kn` hold from the next look on. Three lists are read at a time, no more often than every
`READ_SECONDS`; the API server is not asked for what a queue knows better.

The only module that knows Kubernetes.
"""

import asyncio
import math
import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import kubernetes
import structlog
import urllib3
from kubernetes.client import ApiClient, CustomObjectsApi
from kubernetes.client.exceptions import ApiException

from events.activation import DEADLINE_SECONDS
from events.platform import ServiceSpec, ServiceStatus, State, Verdict

log = structlog.get_logger(__name__)

READ_SECONDS = 2.0
ASK_SECONDS = 10.0
PART_OF = "app.kubernetes.io/part-of=rekindle"
KIND, BASE, CAPACITY = "rekindle.dev/kind", "rekindle.dev/base-model", "rekindle.dev/capacity"
MAX_SCALE = "autoscaling.knative.dev/max-scale"
UNBOUNDED = 100
"""Replicas, where nobody has set a bound."""
GRANTED_SECONDS = 300.0
"""For a request, where a revision says nothing else."""
USED = 0.9
"""How much of that an activation takes."""
PROGRESS_DEADLINE = "serving.knative.dev/progress-deadline"
CRASHING_SECONDS = 120.0
"""How long a service may have no pod but those that end again and again."""
RENEWED_SECONDS = 60.0
"""How often a verdict is given again while the failure lasts: work that has come since waits in vain, too."""
PASSING = frozenset({"Unschedulable"})
"""Reasons for which a revision is not ready at once, and may be soon: a node is added."""
UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
IDLE = frozenset({"NoTraffic"})
"""Reasons of a condition that is not met because nobody asks for anything."""

Object = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Cluster:
    """What was read. Objects as the API server gives them."""

    services: Sequence[Object] = ()
    revisions: Mapping[str, Object] = field(default_factory=dict)
    """By name."""
    scales: Mapping[str, Object] = field(default_factory=dict)
    """Pod autoscalers, by the name of their revision."""
    at: datetime = field(default_factory=lambda: datetime.now(UTC))
    """When that was."""


class KnativePlatform:
    """Knative Services of one namespace."""

    def __init__(self, namespace: str, client: ApiClient | None = None) -> None:
        """`client` is made from the pod's account, or a kubeconfig, unless it is given."""
        self._namespace = namespace
        self._api = CustomObjectsApi(client or connect())
        self._read_at = -READ_SECONDS
        self._reading = asyncio.Lock()
        self._cluster: Cluster | None = None

    async def services(self) -> list[ServiceSpec]:
        """Those that take activations; none before the cluster was read for the first time."""
        cluster = await self._look()
        return [spec for one in cluster.services if (spec := spec_of(one, self._namespace)) is not None]

    async def status(self) -> dict[str, ServiceStatus]:
        cluster = await self._look()
        return {one["metadata"]["name"]: status_of(one, cluster) for one in cluster.services}

    async def _look(self) -> Cluster:
        """The cluster as it was a moment ago; an API server that is away changes nothing."""
        async with self._reading:
            if time.monotonic() - self._read_at >= READ_SECONDS:
                try:
                    self._cluster = await asyncio.to_thread(self._read)
                except (ApiException, urllib3.exceptions.HTTPError) as error:
                    log.warning("cluster.unread", reason=str(error)[:300])
                self._read_at = time.monotonic()
            return self._cluster or Cluster()

    def _read(self) -> Cluster:
        serving, scaling = "serving.knative.dev/v1", "autoscaling.internal.knative.dev/v1alpha1"
        revisions = self._list(serving, "revisions")
        scales = self._list(scaling, "podautoscalers")
        return Cluster(
            self._list(serving, "services", PART_OF),
            {one["metadata"]["name"]: one for one in revisions},
            {one["metadata"]["name"]: one for one in scales},
        )

    def _list(self, version: str, plural: str, selector: str = "") -> list[Object]:
        group, _, version = version.partition("/")
        found: Any = self._api.list_namespaced_custom_object(
            group, version, self._namespace, plural, label_selector=selector, _request_timeout=ASK_SECONDS
        )
        items: list[Object] = found["items"]
        return items


def connect() -> ApiClient:
    """A client for the cluster that this process runs in, or that the kubeconfig names."""
    if "KUBERNETES_SERVICE_HOST" in os.environ:
        kubernetes.config.load_incluster_config()  # type: ignore[no-untyped-call]
    else:
        kubernetes.config.load_kube_config()  # type: ignore[no-untyped-call]
    return ApiClient()


def spec_of(service: Object, namespace: str) -> ServiceSpec | None:
    """How a service is activated; None for one that nobody activates, as the gateway."""
    metadata = service["metadata"]
    kind, given = metadata.get("labels", {}).get(KIND), metadata.get("annotations", {})
    if kind not in ("train", "sample", "checkpoint", "data", "reward"):
        return None
    template = service["spec"]["template"]
    bound = int(template.get("metadata", {}).get("annotations", {}).get(MAX_SCALE, "0"))
    together = (
        template["spec"].get("containerConcurrency") or 1
    )  # 0: any number, and Knative counts no slots then
    name = metadata["name"]
    address = service.get("status", {}).get("address", {}).get("url")
    return ServiceSpec(
        name=name,
        kind=kind,
        base=given.get(BASE),
        url=address or f"http://{name}.{namespace}.svc.cluster.local",
        most=(bound or UNBOUNDED) * together,
        capacity=float(given.get(CAPACITY, "1")),
        seconds=_activation_seconds(template["spec"]),
    )


def _activation_seconds(revision: Object) -> float:
    """So long that Knative does not end the request: all its timeouts hold, an activation is answered at its end."""
    limits = [revision.get("timeoutSeconds"), revision.get("responseStartTimeoutSeconds")]
    granted = min(float(limit or GRANTED_SECONDS) for limit in limits)
    idle = float(revision.get("idleTimeoutSeconds") or granted)  # 0: no limit
    return min(DEADLINE_SECONDS, USED * granted, USED * idle)


def status_of(service: Object, cluster: Cluster) -> ServiceStatus:
    """How a service fares, by its own conditions and those of the revision that takes its requests."""
    current = _revision_in_use(service, cluster)
    scale = cluster.scales.get(current["metadata"]["name"]) if current else None
    numbers = scale.get("status", {}) if scale else {}
    actual, desired = _count(numbers, "actualScale"), _count(numbers, "desiredScale")
    failing = () if actual else (_failed(service, current), _not_activated(service, scale))
    verdict = _verdict(cluster.at, *failing)
    state: State = "zero"
    if verdict is not None:
        state = "failed"
    elif actual:
        state = "ready"
    elif desired or _is_starting(service):
        state = "starting"
    reason = None if state in ("ready", "zero") else _reason(scale, current, service)
    return ServiceStatus(state=state, reason=reason, verdict=verdict, replicas=actual)


def _count(numbers: Object, name: str) -> int:
    """-1 says that the autoscaler does not know yet."""
    return max(0, int(numbers.get(name, 0)))


def _revision_in_use(service: Object, cluster: Cluster) -> Object | None:
    """That of most traffic; before any is ready, the latest one."""
    status = service.get("status", {})
    shares = sorted(status.get("traffic", []), key=lambda share: -(share.get("percent") or 0))
    names = [share.get("revisionName") for share in shares] + [status.get("latestCreatedRevisionName")]
    return next((cluster.revisions[name] for name in names if name in cluster.revisions), None)


def _is_starting(service: Object) -> bool:
    return _condition(service, "Ready").get("status") == "Unknown"


Failing = tuple[datetime, str]
"""From when on something counts as given up, and why."""


def _verdict(now: datetime, *failing: Failing | None) -> Verdict | None:
    """What the platform has given up by now, given anew while that lasts."""
    for since, reason in filter(None, failing):
        if now >= since:
            renewals = math.floor((now - since).total_seconds() / RENEWED_SECONDS)
            return Verdict(at=since + timedelta(seconds=renewals * RENEWED_SECONDS), reason=reason)
    return None


def _failed(service: Object, revision: Object | None) -> Failing | None:
    """The revision that requests go to has failed. A newer one that fails beside it takes nothing away.

    A revision is not ready as soon as its only pod crashes, or finds no node; that counts when it lasts.
    """
    ready = _condition(revision, "Ready")
    if ready.get("status") != "False" or _condition(service, "Ready").get("status") != "False":
        return None
    said = ready.get("message") or ready.get("reason") or "its revision failed"
    return _after(ready, _patience(ready.get("reason", ""), service)), said


def _not_activated(service: Object, scale: Object | None) -> Failing | None:
    """Replicas do not come. Knative gives them up itself only when no request is open, which one of ours always is."""
    active = _condition(scale, "Active")
    if active.get("reason") == "TimedOut":
        return _after(active, 0.0), active.get("message") or "TimedOut"
    if active.get("status") != "Unknown":
        return None
    deadline = _progress_deadline(service)
    return _after(active, deadline), f"no replica was ready within {deadline:.0f} s"


def _after(condition: Object, seconds: float) -> datetime:
    return datetime.fromisoformat(condition["lastTransitionTime"]) + timedelta(seconds=seconds)


def _patience(reason: str, service: Object) -> float:
    """Seconds for which a revision may not be ready for that reason: no longer than it may take to start."""
    deadline = _progress_deadline(service)
    if reason in PASSING:
        return deadline
    return min(CRASHING_SECONDS, deadline) if reason.startswith("ExitCode") else 0.0


def _progress_deadline(service: Object) -> float:
    annotations = service["spec"]["template"].get("metadata", {}).get("annotations", {})
    return _seconds(annotations.get(PROGRESS_DEADLINE, "600s"))


def _seconds(duration: str) -> float:
    """Of a duration as Go writes it: `1h2m3.5s`."""
    return sum(float(number) * UNITS[unit] for number, unit in re.findall(r"([\d.]+)(ms|h|m|s)", duration))


def _reason(*objects: Object | None) -> str | None:
    """Of conditions that are not met, then of those that are not known: the first, from what is nearest to the pods.

    While it starts, the autoscaler says no more than that requests wait; why, its revision may know.
    """
    for status in ("False", "Unknown"):
        for one in objects:
            for condition in (one or {}).get("status", {}).get("conditions", []):
                said = condition.get("message") or condition.get("reason")
                if said and condition.get("status") == status and condition.get("reason") not in IDLE:
                    return str(said)
    return None


def _condition(one: Object | None, kind: str) -> Object:
    conditions = (one or {}).get("status", {}).get("conditions", [])
    return next((condition for condition in conditions if condition["type"] == kind), {})

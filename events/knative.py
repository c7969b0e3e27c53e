"""Knative as the platform: which services there are, and how they fare, by the cluster's own records.

Services are found by their labels, so that a base model that is added is served without a restart, and bounds that
somebody changes with `kn` hold from the next look on. Three lists are read at a time, no more often than every
`READ_SECONDS`; the API server is not asked for what a queue knows better.

The only module that knows Kubernetes.
"""

import asyncio
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import kubernetes
import structlog
import urllib3
from kubernetes.client import ApiClient, CustomObjectsApi
from kubernetes.client.exceptions import ApiException

from events.platform import ServiceSpec, ServiceStatus, State, Verdict

log = structlog.get_logger(__name__)

READ_SECONDS = 2.0
ASK_SECONDS = 10.0
PART_OF = "app.kubernetes.io/part-of=rekindle"
KIND, BASE, CAPACITY = "rekindle.dev/kind", "rekindle.dev/base-model", "rekindle.dev/capacity"
MAX_SCALE = "autoscaling.knative.dev/max-scale"
UNBOUNDED = 100
"""Replicas, where nobody has set a bound."""
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
    )


def status_of(service: Object, cluster: Cluster) -> ServiceStatus:
    """How a service fares, by its own conditions and those of the revision that takes its requests."""
    current = _revision_in_use(service, cluster)
    scale = cluster.scales.get(current["metadata"]["name"]) if current else None
    numbers = scale.get("status", {}) if scale else {}
    actual, desired = _count(numbers, "actualScale"), _count(numbers, "desiredScale")
    verdict = _verdict(service, current)
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


def _verdict(service: Object, revision: Object | None) -> Verdict | None:
    """Knative has given up the revision that requests go to. A newer one that fails beside it takes nothing away."""
    ready = _condition(revision, "Ready")
    if ready.get("status") != "False" or _condition(service, "Ready").get("status") != "False":
        return None
    said = ready.get("message") or ready.get("reason") or "its revision failed"
    return Verdict(at=datetime.fromisoformat(ready["lastTransitionTime"]), reason=said)


def _reason(*objects: Object | None) -> str | None:
    """The first that does not go well, of what is nearest to the pods."""
    for one in objects:
        for condition in (one or {}).get("status", {}).get("conditions", []):
            said = condition.get("message") or condition.get("reason")
            if said and condition.get("status") != "True" and condition.get("reason") not in IDLE:
                return str(said)
    return None


def _condition(one: Object | None, kind: str) -> Object:
    conditions = (one or {}).get("status", {}).get("conditions", [])
    return next((condition for condition in conditions if condition["type"] == kind), {})

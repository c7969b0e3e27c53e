"""Knative as the platform: which services there are, and how they fare, by the cluster's own records.

Services are found by their labels, so that a base model that is added is served without a restart. Three lists are read
at a time, no more often than every `READ_SECONDS`; the API server is not asked for what a queue knows better. What the
records mean is another module's affair (events/revisions.py).

The only module that knows Kubernetes.
"""

import asyncio
import os
import time
from typing import Any

import kubernetes
import structlog
import urllib3
from kubernetes.client import ApiClient, CustomObjectsApi
from kubernetes.client.exceptions import ApiException

from events.platform import ServiceSpec, ServiceStatus
from events.revisions import Cluster, Object, spec_of, status_of

log = structlog.get_logger(__name__)

READ_SECONDS = 2.0
ASK_SECONDS = 10.0
PART_OF = "app.kubernetes.io/part-of=rekindle"


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
        found = (spec_of(one, cluster, self._namespace) for one in cluster.services)
        return [spec for spec in found if spec is not None]

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

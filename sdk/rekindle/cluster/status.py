"""How the services fare: replicas, work, GPUs, conditions, and why one of them does not scale.

All of it is the cluster's word, but for activations and backlog: these are known to the server, which is asked
where it can be reached. What one may not read is missing, and said so.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from rekindle.cluster.api import KNATIVE, Api
from rekindle.cluster.deploy import JOB, why_not_ready
from rekindle.cluster.errors import ClusterError
from rekindle.cluster.models import BASE_NAME, GPU, KIND_LABEL, SCALE
from rekindle.cluster.place import GATEWAY, PART_OF
from rekindle.cluster.reasons import at_its_least, at_its_most, of_workload, reasons
from rekindle.cluster.render import Manifest, condition

OURS = f"{PART_OF}=rekindle"
FIRST_CONTACT = 5.0
"""Seconds that a server may take to answer."""


@dataclass(frozen=True, slots=True)
class Server:
    """Where the server is asked. Example: Server("https://rekindle.example", "tml-…")."""

    url: str | None = None
    """None = where the cluster says that the gateway is."""
    api_key: str | None = None


@dataclass(frozen=True, slots=True)
class Work:
    """What the server says of a service; None = it does not say."""

    activations: int | None = None
    backlog: int | None = None


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """One Knative service. Example: ServiceStatus("gateway", "gateway", None, ready=True, …)."""

    name: str
    kind: str
    base: str | None
    """Exact name of its base model, None = for all."""
    ready: bool
    url: str | None
    revision: str | None
    """The newest one."""
    desired: int
    """Replicas that Knative wants."""
    actual: int
    """Replicas that there are."""
    min_scale: int
    max_scale: int
    """0 = no bound."""
    gpus: int
    """Asked for by all its replicas."""
    activations: int | None
    """Requests that are held open so that it works; None = not known."""
    backlog: int | None
    """Commands that wait or are in hand, of a trainer runs that have some; None = not known."""
    conditions: dict[str, str]
    """Status by type: True, False or Unknown."""
    reasons: list[str]
    """Why it does not scale, or is not ready."""


@dataclass(frozen=True, slots=True)
class Status:
    """The whole installation."""

    url: str | None
    """Of the gateway."""
    services: list[ServiceStatus]
    workloads: dict[str, str | None]
    """What is no Knative service, with the reason if it is not ready; jobs that are not done."""
    gpus: int
    """Asked for by all replicas."""
    unknown: list[str]
    """What could not be read, and why."""


def status(api: Api, namespace: str, server: Server = Server()) -> Status:
    """Ask the cluster. Raises ClusterError if it has no installation there."""
    unknown: list[str] = []
    services = api.all(KNATIVE, "Service", namespace, OURS)
    if not services:
        raise ClusterError(f"nothing of Rekindle in namespace {namespace!r}: rekindle deploy")
    revisions = api.all(KNATIVE, "Revision", namespace)
    pods = _maybe(api, unknown, "v1", "Pod", namespace)
    events = _maybe(api, unknown, "v1", "Event", namespace)
    url = next((_url(one) for one in services if one["metadata"]["name"] == GATEWAY), None)
    work = _work(replace(server, url=server.url or url), unknown)
    workloads = [
        one
        for kind in ("StatefulSet", "Deployment")
        for one in _maybe(api, unknown, "apps/v1", kind, namespace, OURS)
    ]
    jobs = [one for one in _maybe(api, unknown, *JOB, namespace, OURS) if why_not_ready(one)]
    found = [_of_service(one, revisions, pods, events, work) for one in services]
    return Status(
        url=url,
        services=sorted(found, key=lambda one: (one.base or "", one.name)),
        workloads={one["metadata"]["name"]: _of_workload(one, pods, events) for one in [*workloads, *jobs]},
        gpus=sum(one.gpus for one in found),
        unknown=unknown,
    )


def _maybe(api: Api, unknown: list[str], *what: str) -> list[Manifest]:
    try:
        return api.all(*what)
    except ClusterError as error:
        unknown.append(str(error))
        return []


def _of_workload(one: Manifest, pods: Sequence[Manifest], events: Sequence[Manifest]) -> str | None:
    """Why it is not ready, with what its pods say of that."""
    why = why_not_ready(one)
    return None if why is None else "; ".join([why, *of_workload(one["metadata"]["name"], pods, events)])


def _of_service(
    one: Manifest,
    revisions: Sequence[Manifest],
    pods: Sequence[Manifest],
    events: Sequence[Manifest],
    work: dict[str, Work],
) -> ServiceStatus:
    about, state, spec = one["metadata"], one.get("status") or {}, one["spec"]["template"]["spec"]
    own = [
        each
        for each in revisions
        if each["metadata"]["labels"].get("serving.knative.dev/service") == about["name"]
    ]
    desired, actual = (sum(_replicas(each)[which] for each in own) for which in (0, 1))
    scale = one["spec"]["template"].get("metadata", {}).get("annotations", {})
    least, most = (int(scale.get(f"{SCALE}{bound}", 0)) for bound in ("min-scale", "max-scale"))
    doing = work.get(about["name"], Work())
    gpus = sum(_replicas(each)[1] * _gpus(each.get("spec") or spec) for each in own)
    bounds = (
        at_its_most(most, spec.get("containerConcurrency", 0), doing.activations),
        at_its_least(least, gpus, doing.activations),
    )
    return ServiceStatus(
        name=about["name"],
        kind=about["labels"].get(KIND_LABEL, about["name"]),
        base=about.get("annotations", {}).get(BASE_NAME),
        ready=condition(one, "Ready").get("status") == "True",
        url=_url(one),
        revision=state.get("latestCreatedRevisionName"),
        desired=desired,
        actual=actual,
        min_scale=least,
        max_scale=most,
        gpus=gpus,
        activations=doing.activations,
        backlog=doing.backlog,
        conditions={each["type"]: each["status"] for each in state.get("conditions", [])},
        reasons=[*reasons(one, revisions, pods, events), *filter(None, bounds)],
    )


def _url(one: Manifest) -> str | None:
    found: str | None = (one.get("status") or {}).get("url")
    return found


def _replicas(revision: Manifest) -> tuple[int, int]:
    """Wanted, and there."""
    status = revision.get("status") or {}
    return status.get("desiredReplicas") or 0, status.get("actualReplicas") or 0


def _gpus(pod: dict[str, Any]) -> int:
    limits = (each.get("resources", {}).get("limits", {}) for each in pod.get("containers", []))
    return sum(int(each.get(GPU, 0)) for each in limits)


# ---- The server's word ----


def _work(server: Server, unknown: list[str]) -> dict[str, Work]:
    """By name of the service."""
    import httpx
    from pydantic import ValidationError

    from rekindle.types import ServicesResponse

    if server.url is None:
        return {}
    headers = {"X-API-Key": server.api_key} if server.api_key else {}
    try:
        answer = httpx.get(
            f"{server.url.rstrip('/')}/api/v1/services", headers=headers, timeout=FIRST_CONTACT
        )
        answer.raise_for_status()
        found = ServicesResponse.model_validate_json(answer.content).services
    except (httpx.HTTPError, httpx.InvalidURL, ValidationError) as error:
        unknown.append(f"activations and backlog, of {server.url}: {error}")
        return {}
    return {one.name: Work(one.activations, one.queued) for one in found}

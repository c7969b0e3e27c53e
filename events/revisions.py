"""What the records of a Knative Service say: how it is activated, how it fares, whether it has been given up.

A service has revisions, and what holds is written on those that requests go to: an update, a split of the traffic or a
rollback changes which ones these are. Bounds that somebody changes with `kn` hold as soon as requests go to the one
that has them. Pure functions of objects as the API server gives them.
"""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from events.activation import DEADLINE_SECONDS
from events.platform import ServiceSpec, ServiceStatus, State, Verdict

KIND, BASE, CAPACITY = "rekindle.dev/kind", "rekindle.dev/base-model", "rekindle.dev/capacity"
SERVICE = "serving.knative.dev/service"
"""Label of a revision: whose it is."""
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


def spec_of(service: Object, cluster: Cluster, namespace: str) -> ServiceSpec | None:
    """How a service is activated; None for one that nobody activates, as the gateway.

    What holds is what is written on the revisions that requests go to, and not on the template of the next one.
    """
    metadata = service["metadata"]
    kind, given = metadata.get("labels", {}).get(KIND), metadata.get("annotations", {})
    if kind not in ("train", "sample", "checkpoint", "data", "reward"):
        return None
    shares = _shares(service, cluster) or [(service["spec"]["template"], 100)]
    name = metadata["name"]
    address = service.get("status", {}).get("address", {}).get("url")
    return ServiceSpec(
        name=name,
        kind=kind,
        base=given.get(BASE),
        url=address or f"http://{name}.{namespace}.svc.cluster.local",
        most=max(1, min(_slots(revision) * 100 // percent for revision, percent in shares)),
        capacity=float(given.get(CAPACITY, "1")),
        seconds=min(_activation_seconds(revision["spec"]) for revision, _ in shares),
    )


def _shares(service: Object, cluster: Cluster) -> list[tuple[Object, int]]:
    """The revisions that requests go to and of how many percent, most first; before any is ready, the latest one."""
    status, percents = service.get("status", {}), Counter[str]()
    for share in status.get("traffic", []):
        percents[share.get("revisionName", "")] += share.get("percent") or 0  # a tag alone gets none
    if not +percents:
        percents[status.get("latestCreatedRevisionName", "")] = 100
    known = cluster.revisions
    return [(known[name], percent) for name, percent in percents.most_common() if percent and name in known]


def _slots(revision: Object) -> int:
    """Requests that all its replicas take together."""
    together = (
        revision["spec"].get("containerConcurrency") or 1
    )  # 0: any number, and Knative counts no slots then
    return (int(_annotations(revision).get(MAX_SCALE, "0")) or UNBOUNDED) * int(together)


def _annotations(revision: Object) -> Object:
    found: Object = revision.get("metadata", {}).get("annotations", {})
    return found


def _activation_seconds(revision: Object) -> float:
    """So long that Knative does not end the request: all its timeouts hold, an activation is answered at its end."""
    limits = [revision.get("timeoutSeconds"), revision.get("responseStartTimeoutSeconds")]
    granted = min(float(limit or GRANTED_SECONDS) for limit in limits)
    idle = float(revision.get("idleTimeoutSeconds") or granted)  # 0: no limit
    return min(DEADLINE_SECONDS, USED * granted, USED * idle)


def status_of(service: Object, cluster: Cluster) -> ServiceStatus:
    """How a service fares, by the revisions that requests go to; replicas of older ones still finish what they have."""
    used = [revision for revision, _ in _shares(service, cluster)]
    scales = [cluster.scales.get(one["metadata"]["name"]) for one in used]
    replicas = sum(_count(scale, "actualScale") for scale in _scales_of(service, cluster))
    verdict = None
    if not replicas:
        verdict = _verdict(cluster.at, [_given_up(service, *one) for one in zip(used, scales, strict=True)])
    state: State = "zero"
    if verdict is not None:
        state = "failed"
    elif any(_count(scale, "actualScale") for scale in scales):
        state = "ready"
    elif any(_count(scale, "desiredScale") for scale in scales) or _is_new(service):
        state = "starting"
    elif replicas:
        state = "ready"
    reason = None if state in ("ready", "zero") else _reason(*scales, *used, service)
    return ServiceStatus(state=state, reason=reason, verdict=verdict, replicas=replicas)


def _scales_of(service: Object, cluster: Cluster) -> list[Object]:
    """Of all its revisions."""
    name = service["metadata"]["name"]
    revisions = cluster.revisions.values()
    own = [one["metadata"] for one in revisions if one["metadata"].get("labels", {}).get(SERVICE) == name]
    return [cluster.scales[one["name"]] for one in own if one["name"] in cluster.scales]


def _count(scale: Object | None, name: str) -> int:
    """-1 says that the autoscaler does not know yet."""
    return max(0, int((scale or {}).get("status", {}).get(name, 0)))


def _is_new(service: Object) -> bool:
    """Whether none of its revisions has been ready yet, and one may be soon."""
    return not _traffic(service) and _condition(service, "Ready").get("status") == "Unknown"


def _traffic(service: Object) -> set[str]:
    """Revisions that are reached, under the service's name or a tag; each was ready once."""
    return {share.get("revisionName") for share in service.get("status", {}).get("traffic", [])}


Failing = tuple[datetime, str]
"""From when on something counts as given up, and why."""


def _verdict(now: datetime, failing: Sequence[Failing | None]) -> Verdict | None:
    """What the platform has given up by now, given anew while that lasts: nothing while one revision may still come."""
    ends = [one for one in failing if one is not None and one[0] <= now]
    if not ends or len(ends) < len(failing):
        return None
    since, reason = max(end for end, _ in ends), ends[0][1]
    renewals = math.floor((now - since).total_seconds() / RENEWED_SECONDS)
    return Verdict(at=since + timedelta(seconds=renewals * RENEWED_SECONDS), reason=reason)


def _given_up(service: Object, revision: Object, scale: Object | None) -> Failing | None:
    """When a revision without replicas counts as given up, by what says most; None if it does not."""
    reached = revision["metadata"]["name"] in _traffic(service)
    found = [one for one in (_failed(revision, scale, reached), _not_activated(revision, scale)) if one]
    return (min(since for since, _ in found), found[0][1]) if found else None


def _failed(revision: Object, scale: Object | None, reached: bool) -> Failing | None:
    """It has failed, or its only pod crashes or finds no node; that counts when it lasts.

    Knative forgets a crash only when a pod is ready again: what happened before replicas were last asked for is past.
    """
    ready, active = _condition(revision, "Ready"), _condition(scale, "Active")
    if ready.get("status") != "False":
        return None
    since, patience = _since(ready), _patience(ready.get("reason", ""), revision)
    if reached and patience:
        if active.get("status") == "False":
            return None
        since = max(since, _since(active)) if active else since
    said = ready.get("message") or ready.get("reason") or "its revision failed"
    return since + timedelta(seconds=patience), said


def _not_activated(revision: Object, scale: Object | None) -> Failing | None:
    """Replicas do not come. Knative gives them up itself only when no request is open, which one of ours always is."""
    active = _condition(scale, "Active")
    if active.get("reason") == "TimedOut":
        return _since(active), active.get("message") or "TimedOut"
    if active.get("status") != "Unknown":
        return None
    deadline = _progress_deadline(revision)
    return _since(active) + timedelta(seconds=deadline), f"no replica was ready within {deadline:.0f} s"


def _since(condition: Object) -> datetime:
    return datetime.fromisoformat(condition["lastTransitionTime"])


def _patience(reason: str, revision: Object) -> float:
    """Seconds for which a revision may not be ready for that reason: no longer than it may take to start."""
    deadline = _progress_deadline(revision)
    if reason in PASSING:
        return deadline
    return min(CRASHING_SECONDS, deadline) if reason.startswith("ExitCode") else 0.0


def _progress_deadline(revision: Object) -> float:
    return _seconds(_annotations(revision).get(PROGRESS_DEADLINE, "600s"))


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

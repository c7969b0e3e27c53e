"""Why a service does not scale, in words: pure functions of what the cluster says of its revisions and pods."""

from collections.abc import Iterator, Sequence

from rekindle.cluster.models import GPU
from rekindle.cluster.render import Manifest, condition

REVISION = "serving.knative.dev/revision"
NAME, JOB_NAME = "app.kubernetes.io/name", "batch.kubernetes.io/job-name"
WAITING = {
    "ImagePullBackOff": "the image cannot be pulled",
    "ErrImagePull": "the image cannot be pulled",
    "InvalidImageName": "the image cannot be pulled",
    "CrashLoopBackOff": "it ends again and again",
    "CreateContainerConfigError": "a Secret or ConfigMap is missing",
}
"""States in which a container does not start."""


def reasons(
    service: Manifest, revisions: Sequence[Manifest], pods: Sequence[Manifest], events: Sequence[Manifest]
) -> list[str]:
    """All that is known, most telling first; each said once. Revisions, pods and events of the whole namespace."""
    name = service["metadata"]["name"]
    own = [one for one in revisions if _label(one, "serving.knative.dev/service") == name]
    names = {one["metadata"]["name"] for one in own}
    short = {one["metadata"]["name"] for one in own if _is_short(one)}
    replicas = [one for one in pods if _label(one, REVISION) in names]
    found = [
        *_of_pods(replicas),
        *_of_quota(short, events),
        *_of_revisions(service, own),
        *_of_service(service),
    ]
    return list(dict.fromkeys(found))


def of_workload(name: str, pods: Sequence[Manifest]) -> list[str]:
    """What its pods say, of a workload that is no Knative service. Pods of the whole namespace."""
    own = [one for one in pods if name in (_label(one, NAME), _label(one, JOB_NAME))]
    return list(dict.fromkeys(_of_pods(own)))


def _of_pods(pods: Sequence[Manifest]) -> Iterator[str]:
    running = {_label(one, REVISION) for one in pods if one.get("status", {}).get("phase") == "Running"}
    for pod in pods:
        scheduled = condition(pod, "PodScheduled")
        if scheduled.get("status") == "False":
            yield _unscheduled(_label(pod, REVISION), running, scheduled.get("message") or "no node is free")
        for container in pod.get("status", {}).get("containerStatuses", []):
            waiting = (container.get("state") or {}).get("waiting") or {}
            if waiting.get("reason") in WAITING:
                yield f"{WAITING[waiting['reason']]}: {waiting.get('message') or waiting['reason']}"


def _unscheduled(revision: str | None, running: set[str | None], message: str) -> str:
    """A new revision may wait for the GPU that the old one has: neither gives way by itself."""
    others = sorted(one for one in running - {revision} if one)
    if GPU in message and others:
        return (
            f"{revision} waits for a GPU that {', '.join(others)} holds: set min-scale=0 on that revision "
            f"({message})"
        )
    return f"no node has room: {message}"


def _is_short(revision: Manifest) -> bool:
    """Whether it wants more replicas than there are: otherwise events tell of what is past."""
    status = revision.get("status") or {}
    return bool((status.get("desiredReplicas") or 0) > (status.get("actualReplicas") or 0))


def _of_quota(revisions: set[str], events: Sequence[Manifest]) -> Iterator[str]:
    for event in events:
        about = event.get("involvedObject", {}).get("name", "")
        message = event.get("message", "")
        if event.get("reason") == "FailedCreate" and any(about.startswith(one) for one in revisions):
            yield f"quota: {message}" if "exceeded quota" in message else f"no pod can be made: {message}"


def _of_revisions(service: Manifest, revisions: Sequence[Manifest]) -> Iterator[str]:
    """Of the newest one alone: older ones that failed no longer matter."""
    latest = service.get("status", {}).get("latestCreatedRevisionName")
    for one in revisions:
        ready = condition(one, "Ready")
        if one["metadata"]["name"] == latest and ready.get("status") == "False":
            yield f"revision {latest} failed: {ready.get('message') or ready.get('reason')}"


def _of_service(service: Manifest) -> Iterator[str]:
    ready = condition(service, "Ready")
    if not ready:
        yield "Knative has not looked at it yet"
    elif ready.get("status") != "True" and (said := ready.get("message") or ready.get("reason")):
        yield str(said)


def at_its_most(most: int, concurrency: int, activations: int | None) -> str | None:
    """Whether all replicas are busy that max-scale allows; None if not, or if nobody says so."""
    if not most or activations is None or activations < most * max(1, concurrency):
        return None
    return f"all replicas are busy that max-scale={most} allows"


def _label(one: Manifest, name: str) -> str | None:
    found: str | None = one["metadata"].get("labels", {}).get(name)
    return found

"""Why something does not scale, in words: pure functions of what the cluster says of revisions, pods and events.

The words of Kubernetes and Knative stand behind ours. Knative repeats what it sees at a pod in the conditions of the
revision, and those in the service's: each is said once, by who is nearest to it.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from rekindle.cluster.models import GPU
from rekindle.cluster.render import Manifest, condition

REVISION = "serving.knative.dev/revision"
NAME, JOB_NAME = "app.kubernetes.io/name", "batch.kubernetes.io/job-name"
PULL = "the image cannot be pulled"
WAITING = {
    "ErrImagePull": PULL,
    "ImagePullBackOff": PULL,
    "InvalidImageName": PULL,
    "ErrImageNeverPull": PULL,
    "RegistryUnavailable": PULL,
    "CreateContainerConfigError": "a Secret or ConfigMap is missing",
    "CreateContainerError": "the container cannot be made",
    "RunContainerError": "the container cannot be started",
}
"""States in which a container does not start, as kubelet names them."""
NOT_STARTED = ("FailedMount", "FailedAttachVolume", "FailedCreatePodSandBox")
"""Events of a pod whose containers are still to be made."""
IDLE = "NoTraffic"
"""Why a revision is not active when all is well."""
LONGEST = 200
"""Characters of a container's last words."""


def reasons(
    service: Manifest, revisions: Sequence[Manifest], pods: Sequence[Manifest], events: Sequence[Manifest]
) -> list[str]:
    """All that is known, most telling first; each said once. Revisions, pods and events of the whole namespace."""
    name = service["metadata"]["name"]
    own = [one for one in revisions if _label(one, "serving.knative.dev/service") == name]
    names = {one["metadata"]["name"] for one in own}
    short = {f"{one['metadata']['name']}-deployment" for one in own if _is_short(one)}
    replicas = [one for one in pods if _label(one, REVISION) in names]
    found = [*_of_pods(replicas), *_of_events(replicas, short, events)]
    found += _new(_of_revisions(service, own), found)
    found += _new(_of_service(service), found)
    return list(dict.fromkeys(line for line, _ in found))


def of_workload(name: str, pods: Sequence[Manifest], events: Sequence[Manifest] = ()) -> list[str]:
    """The same of a workload that is no Knative service, and not ready. Pods and events of the whole namespace."""
    own = [one for one in pods if name in (_label(one, NAME), _label(one, JOB_NAME))]
    found = [*_of_pods(own), *_of_events(own, {name}, events)]
    return list(dict.fromkeys(line for line, _ in found))


Reason = tuple[str, str]
"""What we say, and what the cluster has said of it."""


def _new(more: Iterable[Reason], known: Sequence[Reason]) -> list[Reason]:
    """Without those that say again what is known."""
    said = [words.rstrip(".") for _, words in known if words]
    return [one for one in more if not any(words in one[1] for words in said)]


# ---- Pods and their events ----


def _of_pods(pods: Sequence[Manifest]) -> Iterator[Reason]:
    for pod in pods:
        scheduled = condition(pod, "PodScheduled")
        if scheduled.get("status") == "False":
            message = scheduled.get("message") or "no node is free"
            yield _unscheduled(_label(pod, REVISION), pods, message), message
        for container in (pod.get("status") or {}).get("containerStatuses") or []:
            yield from _of_container(container)


def _of_container(container: dict[str, Any]) -> Iterator[Reason]:
    waiting = (container.get("state") or {}).get("waiting") or {}
    reason, message = waiting.get("reason"), waiting.get("message", "")
    if reason == "CrashLoopBackOff":
        ended = (container.get("lastState") or {}).get("terminated") or {}
        words = ended.get("message") or message
        yield f"it ends again and again: {_end(ended) or reason}", words
    elif reason in WAITING:
        yield f"{WAITING[reason]}: {message or reason}", message


def _end(ended: dict[str, Any]) -> str:
    """`OOMKilled, exit code 137: last words`."""
    if not ended:
        return ""
    said = f"exit code {ended.get('exitCode')}"
    if (reason := ended.get("reason", "Error")) != "Error":
        said = f"{reason}, {said}"
    words = (ended.get("message") or "").strip().rpartition("\n")[2]
    return f"{said}: {words[:LONGEST]}" if words else said


def _unscheduled(revision: str | None, pods: Sequence[Manifest], message: str) -> str:
    """A new revision may wait for the GPU that the old one has: neither gives way by itself."""
    running = [one for one in pods if (one.get("status") or {}).get("phase") == "Running"]
    ending = {_label(one, REVISION) for one in running if one["metadata"].get("deletionTimestamp")}
    others = {_label(one, REVISION) for one in running} - {revision, None}
    if GPU in message and (holding := sorted(str(one) for one in others - ending)):
        held = ", ".join(holding)
        return f"{revision} waits for a GPU that {held} holds: set min-scale=0 on that revision ({message})"
    if GPU in message and ending:
        return f"{revision} waits for a GPU that a pod which ends still holds ({message})"
    if "PersistentVolumeClaim" in message or "persistentvolumeclaim" in message:
        return f"its volume is not there; has the cluster a default StorageClass? {message}"
    return f"no node has room: {message}"


def _is_short(revision: Manifest) -> bool:
    """Whether it wants more replicas than there are: otherwise events tell of what is past."""
    status = revision.get("status") or {}
    return bool((status.get("desiredReplicas") or 0) > (status.get("actualReplicas") or 0))


def _of_events(pods: Sequence[Manifest], makers: set[str], events: Sequence[Manifest]) -> Iterator[Reason]:
    """`makers`: Deployments and StatefulSets that want more pods than there are."""
    pending = {one["metadata"]["name"] for one in pods if (one.get("status") or {}).get("phase") == "Pending"}
    for event in events:
        about = event.get("involvedObject", {}).get("name", "")
        reason, message = event.get("reason"), event.get("message", "")
        if reason == "FailedCreate" and any(_is_of(about, one) for one in makers):
            sort = "quota" if "exceeded quota" in message else "no pod can be made"
            yield f"{sort}: {message}", message
        elif reason in NOT_STARTED and about in pending:
            yield f"its pod cannot start: {message}", message


def _is_of(name: str, maker: str) -> bool:
    """Whether it is the maker itself, or a ReplicaSet of it."""
    return name == maker or (name.startswith(f"{maker}-") and "-" not in name.removeprefix(f"{maker}-"))


# ---- Knative ----


def _of_revisions(service: Manifest, revisions: Sequence[Manifest]) -> Iterator[Reason]:
    """Of those alone that are the newest or take requests: older ones that failed no longer matter."""
    status = service.get("status") or {}
    latest = status.get("latestCreatedRevisionName")
    used = {latest, *(one.get("revisionName") for one in status.get("traffic") or [])}
    for one in revisions:
        name, ready, active = one["metadata"]["name"], condition(one, "Ready"), condition(one, "Active")
        if name == latest and ready.get("status") == "False":
            words = ready.get("message") or ready.get("reason") or ""
            yield f"revision {name} failed: {words}", words
        if name in used and active.get("status") == "False" and active.get("reason") != IDLE:
            words = active.get("message") or active.get("reason") or ""
            yield f"revision {name} was given up: {words}", words


def _of_service(service: Manifest) -> Iterator[Reason]:
    ready = condition(service, "Ready")
    if not ready:
        yield "Knative has not looked at it yet", ""
    elif ready.get("status") != "True" and (said := ready.get("message") or ready.get("reason")):
        yield str(said), str(said)
    yield from _of_traffic(service)


def _of_traffic(service: Manifest) -> Iterator[Reason]:
    """What is changed has no effect where somebody keeps requests at an older revision."""
    status, name = service.get("status") or {}, service["metadata"]["name"]
    newest = status.get("latestReadyRevisionName")
    used = sorted({str(one.get("revisionName")) for one in status.get("traffic") or [] if one.get("percent")})
    if newest and used and newest not in used:
        way = f"kn service update {name} --traffic @latest=100"
        yield f"requests go to {', '.join(used)}, none to the newest revision {newest}: {way}", ""


# ---- Bounds ----


def at_its_most(most: int, concurrency: int, activations: int | None) -> str | None:
    """Whether all replicas are busy that max-scale allows; None if not, or if nobody says so."""
    if not most or activations is None or activations < most * max(1, concurrency):
        return None
    return f"all replicas are busy that max-scale={most} allows"


def at_its_least(least: int, gpus: int, activations: int | None) -> str | None:
    """Whether GPUs are held without work; None if not, or if nobody says so."""
    if not least or not gpus or activations != 0:
        return None
    return f"min-scale={least} keeps {gpus} GPU{'s' if gpus > 1 else ''} without work"


def _label(one: Manifest, name: str) -> str | None:
    found: str | None = one["metadata"].get("labels", {}).get(name)
    return found

"""An installation: its objects applied in order, its secrets made, and when all of it is ready."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from rekindle.cluster import inventory, secrets
from rekindle.cluster.api import KNATIVE, Api, Ref
from rekindle.cluster.apply import FIRST, Applied, apply, in_order
from rekindle.cluster.place import GATEWAY
from rekindle.cluster.render import Manifest, condition, gave_up

Tell = Callable[[str], None]
"""Hears what is being done."""
JOB = ("batch/v1", "Job")
WORKLOADS = (("apps/v1", "StatefulSet"), JOB, ("apps/v1", "Deployment"), (KNATIVE, "Service"))
"""What has to be ready, or done, in the order in which it becomes so."""


@dataclass(frozen=True, slots=True)
class Deployed:
    """What a deployment has done."""

    applied: tuple[Applied, ...]
    """What became of each object, those included that the manifests no longer have."""
    secrets: secrets.Made
    stays: tuple[str, ...] = ()
    """What there is beyond the manifests, and why."""


def deploy(
    api: Api,
    objects: list[Manifest],
    namespace: str,
    tell: Tell,
    show_key: Tell = lambda key: None,
    *,
    dry_run: bool = False,
) -> Deployed:
    """Apply all objects: namespace, accounts and configuration, secrets, then the rest. Raises ClusterError.

    What others have set is taken back, but for bounds and windows of scale; what earlier deployments have made and
    these objects no longer have is removed, if they are a whole installation, with a gateway. `show_key` hears the
    first API key as soon as it is made: nobody is told again, whatever becomes of the rest. A deployment that was cut
    short goes on when it is repeated.
    """
    for kind in dict.fromkeys((one["apiVersion"], one["kind"]) for one in objects):
        api.check_kind(*kind)  # before anything is made
    whole = any(one["metadata"]["name"] == GATEWAY and one["apiVersion"] == KNATIVE for one in objects)
    known = inventory.recorded(api, namespace) if whole else frozenset()
    ours = inventory.ours(api, objects, known) if whole else frozenset()
    spaces, first, rest = _stages(objects)
    applied = list(_apply_all(api, spaces, tell, dry_run))
    if whole and not dry_run:
        inventory.record(api, namespace, add=ours)
    applied += _apply_all(api, first, tell, dry_run)
    tell("secrets")
    made = secrets.ensure(api, namespace, show_key, dry_run=dry_run)
    applied += _apply_all(api, rest, tell, dry_run)
    tell("what is no longer there")
    pruned = inventory.prune(api, inventory.left_over(known, objects), namespace, dry_run=dry_run)
    if whole and not dry_run:
        inventory.record(api, namespace, drop=known - ours - {*pruned.stays})
    applied += pruned.removed
    return Deployed(tuple(applied), made, (*pruned.notes, *inventory.unused_claims(applied)))


def _stages(objects: list[Manifest]) -> tuple[list[Manifest], list[Manifest], list[Manifest]]:
    """The namespace, what others need, and those."""
    ordered = in_order(objects)
    spaces = [one for one in ordered if one["kind"] == "Namespace"]
    first = [one for one in ordered if one["kind"] in FIRST and one not in spaces]
    return spaces, first, ordered[len(spaces) + len(first) :]


def _apply_all(api: Api, objects: list[Manifest], tell: Tell, dry_run: bool) -> Iterator[Applied]:
    for one in objects:
        tell(f"{one['kind']} {one['metadata']['name']}")
        yield apply(api, one, force=True, dry_run=dry_run)


def wait(api: Api, objects: Sequence[Manifest], namespace: str, seconds: float, tell: Tell) -> list[str]:
    """Watch until these workloads are ready or the time is over; those that are not, with the reason if it is known."""
    deadline = time.monotonic() + seconds
    late = []
    for version, kind in WORKLOADS:
        wanted = [one for one in objects if (one["apiVersion"], one["kind"]) == (version, kind)]
        names = {one["metadata"]["name"] for one in wanted}
        late += _wait_for(api, (version, kind), names, namespace, deadline, tell) if names else []
    return late


def _wait_for(
    api: Api, kind: tuple[str, str], names: set[str], namespace: str, deadline: float, tell: Tell
) -> list[str]:
    while True:
        for found in api.watch(*kind, namespace, deadline - time.monotonic()):
            ours = [one for one in found if one["metadata"]["name"] in names]
            waiting = [one for one in ours if why_not_ready(one) is not None]
            late = [str(why_not_ready(one)) for one in waiting]
            late += [f"{name}: gone" for name in sorted(names - {one["metadata"]["name"] for one in ours})]
            if (len(late) == len(waiting) and all(map(gave_up, waiting))) or time.monotonic() >= deadline:
                return late
            tell(late[0])


def why_not_ready(one: Manifest) -> str | None:
    """`gateway: RevisionMissing`, as far as the object says it; None if it is ready, or done."""
    name, status = one["metadata"]["name"], one.get("status") or {}
    if one["kind"] == "Job":
        return _why_not_done(one)
    if status.get("observedGeneration", 0) < one["metadata"].get("generation", 0):
        return f"{name}: not looked at yet"
    if one["apiVersion"] == KNATIVE:
        ready = condition(one, "Ready")
        if ready.get("status") == "True":
            return None
        return f"{name}: {ready.get('message') or ready.get('reason') or 'not ready'}"
    if (old := status.get("replicas", 0) - status.get("updatedReplicas", 0)) > 0:
        return f"{name}: {old} replicas of an older version"
    wanted, there = one["spec"].get("replicas", 1), status.get("readyReplicas", 0)
    return None if there >= wanted else f"{name}: {there} of {wanted} replicas ready"


def _why_not_done(job: Manifest) -> str | None:
    about = job["metadata"]
    if condition(job, "Complete").get("status") == "True":
        return None
    state = "failed" if gave_up(job) else "not done yet"
    return f"{about['name']}: {state}; kubectl logs -n {about['namespace']} job/{about['name']}"


class Way(NamedTuple):
    """To the gateway. Example: Way("http://gateway.rekindle.example.com", "gateway-00001")."""

    url: str | None
    """Where Knative has it answer; None while that is not known."""
    revision: str | None
    """Whose pods answer there; None while there are none."""


def way(api: Api, namespace: str) -> Way:
    """Where clients reach the installation."""
    status = (api.get(Ref(KNATIVE, "Service", GATEWAY, namespace)) or {}).get("status") or {}
    return Way(status.get("url"), status.get("latestReadyRevisionName"))

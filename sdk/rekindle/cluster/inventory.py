"""What deployments have made, so that it goes when the manifests no longer have it.

A ConfigMap beside the objects holds their names. Written down is only what was not there when it was first applied,
and removed only what the API still knows as applied by us: what somebody else has made, even under a name of ours,
stays. What holds data, and what belongs to a base model, stays too, whoever made it.
"""

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from rekindle.cluster.api import MANAGER, Api, Ref
from rekindle.cluster.apply import Applied
from rekindle.cluster.errors import ClusterError, UnknownKind
from rekindle.cluster.models import BASE_LABEL
from rekindle.cluster.place import PART_OF
from rekindle.cluster.render import Manifest

NAME, FIELD = "rekindle-deployed", "objects"
HOLDS_DATA = ("Namespace", "Secret", "PersistentVolumeClaim", "PersistentVolume", "CustomResourceDefinition")
"""Kinds that no deployment removes."""


@dataclass(frozen=True, slots=True)
class Pruned:
    """What became of objects that the manifests no longer have."""

    removed: tuple[Applied, ...] = ()
    stays: tuple[Ref, ...] = ()
    """Ours, and not removed."""
    notes: tuple[str, ...] = ()
    """What stays, and why."""


def recorded(api: Api, namespace: str) -> frozenset[Ref]:
    """What earlier deployments have made there. Raises ClusterError for a record that nobody can read."""
    found = api.get(Ref("v1", "ConfigMap", NAME, namespace))
    try:
        rows = json.loads(((found or {}).get("data") or {}).get(FIELD, "[]"))
        return frozenset(Ref(*row) for row in rows)
    except (ValueError, TypeError) as error:
        said = f"{error}; delete it, and nothing is removed that is there now"
        raise ClusterError(f"ConfigMap {NAME}: {said}") from error


def record(api: Api, namespace: str, add: Collection[Ref] = (), drop: Collection[Ref] = ()) -> None:
    """Write down what is ours, and what no longer is; what others deploy meanwhile stands there too."""
    refs = sorted((recorded(api, namespace) | {*add}) - {*drop}, key=str)
    rows = ",\n".join(json.dumps(row) for row in refs)
    about = {"name": NAME, "namespace": namespace, "labels": {PART_OF: "rekindle"}}
    one = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": about, "data": {FIELD: f"[{rows}]"}}
    api.apply(one, force=True)


def ours(api: Api, objects: Sequence[Manifest], known: Collection[Ref]) -> frozenset[Ref]:
    """Which of these objects are made by this deployment, or were by an earlier one."""
    ours_before = {_same(ref) for ref in known}
    found = ((Ref.of(one), api.get(Ref.of(one))) for one in objects)
    return frozenset(
        ref for ref, live in found if live is None or (_same(ref) in ours_before and _is_applied_by_us(live))
    )


def left_over(known: Collection[Ref], objects: Sequence[Manifest]) -> frozenset[Ref]:
    """Which of those that are known are none of these objects."""
    there = {_same(Ref.of(one)) for one in objects}
    return frozenset(ref for ref in known if _same(ref) not in there)


def _same(ref: Ref) -> tuple[str, ...]:
    """An object is one and the same in all versions of its API."""
    return ref.api_version.rpartition("/")[0], ref.kind, ref.name, ref.namespace or ""


def prune(api: Api, gone: Collection[Ref], namespace: str, *, dry_run: bool) -> Pruned:
    """Remove what the manifests no longer have, as far as it may go."""
    removed, stays, notes = [], [], []
    for ref in sorted(gone, key=str):
        live = _live(api, ref)
        if live is None or not _is_applied_by_us(live):
            continue
        if reason := _why_it_stays(ref, live, namespace):
            stays.append(ref)
            notes.append(f"{ref.kind} {ref.name} stays, though the manifests no longer have it: {reason}")
            continue
        if not dry_run:
            api.delete(ref)
        removed.append(Applied(ref, "removed", live, None))
    return Pruned(tuple(removed), tuple(stays), tuple(notes))


def _live(api: Api, ref: Ref) -> Manifest | None:
    try:
        return api.get(ref)
    except UnknownKind:  # with its kind an object goes
        return None


def _is_applied_by_us(live: Manifest) -> bool:
    managers = live["metadata"].get("managedFields") or []
    return any((one.get("manager"), one.get("operation")) == (MANAGER, "Apply") for one in managers)


def _why_it_stays(ref: Ref, live: Manifest, namespace: str) -> str | None:
    if ref.kind in HOLDS_DATA:
        return "it may hold what nothing else does"
    if BASE_LABEL in live["metadata"].get("labels", {}):
        return "it belongs to a base model"
    if ref.namespace != namespace:
        return "others may use it, outside of this namespace"
    return None


def unused_claims(applied: Sequence[Applied]) -> Iterator[str]:
    """Volumes of replicas that are no more: Kubernetes keeps them, and so do we."""
    for one in applied:
        if one.ref.kind == "StatefulSet" and one.before is not None:
            spec = one.before["spec"]
            left = one.after["spec"].get("replicas", 1) if one.after else 0
            claims = [
                f"{claim['metadata']['name']}-{one.ref.name}-{index}"
                for claim in spec.get("volumeClaimTemplates", [])
                for index in range(left, spec.get("replicas", 1))
            ]
            if claims:
                yield f"PersistentVolumeClaim {', '.join(claims)} stays, with what {one.ref.name} has stored there"

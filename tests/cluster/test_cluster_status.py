"""`rekindle status` against a simulated cluster: what it shows, and why something does not scale."""

import copy
import json
from typing import Any

import pytest

from rekindle.cluster import manifests
from rekindle.cluster.deploy import why_not_ready
from rekindle.cluster.names import service_name
from rekindle.cluster.place import installation
from rekindle.cluster.reasons import at_its_least, at_its_most, reasons
from tests.cluster.simulated import URL, Cluster

BASE = "Qwen/Qwen3-8B"
TRAIN = service_name("train", BASE)
SERVING = "serving.knative.dev"


def revision(
    name: str, service: str, *, desired: int = 0, actual: int = 0, failed: str | None = None
) -> dict[str, Any]:
    ready = {"type": "Ready", "status": "False" if failed else "True", "reason": "X", "message": failed or ""}
    return {
        "apiVersion": f"{SERVING}/v1",
        "kind": "Revision",
        "metadata": {"name": name, "namespace": "rekindle", "labels": {f"{SERVING}/service": service}},
        "status": {"desiredReplicas": desired, "actualReplicas": actual, "conditions": [ready]},
    }


def pod(
    revision: str,
    *,
    phase: str = "Pending",
    unscheduled: str = "",
    waiting: dict[str, str] | None = None,
    ended: dict[str, Any] | None = None,
    ends: bool = False,
) -> Any:
    status: dict[str, Any] = {"phase": phase}
    if unscheduled:
        status["conditions"] = [{"type": "PodScheduled", "status": "False", "message": unscheduled}]
    if waiting:
        last = {"lastState": {"terminated": ended}} if ended else {}
        status["containerStatuses"] = [{"name": "train", "state": {"waiting": waiting}, **last}]
    labels = {f"{SERVING}/revision": revision}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": f"{revision}-pod",
            "namespace": "rekindle",
            "labels": labels,
            **({"deletionTimestamp": "2026-11-22T10:00:00Z"} if ends else {}),
        },
        "status": status,
    }


def service(latest: str, ready: str = "Unknown", message: str = "") -> dict[str, Any]:
    conditions = [{"type": "Ready", "status": ready, "message": message}]
    return {
        "metadata": {"name": "train"},
        "status": {"latestCreatedRevisionName": latest, "conditions": conditions},
    }


def event(name: str, message: str, reason: str = "FailedCreate") -> dict[str, Any]:
    return {"metadata": {"name": "e"}, "involvedObject": {"name": name}, "reason": reason, "message": message}


OLD, NEW = revision("train-1", "train"), revision("train-2", "train", desired=1)
NO_GPU = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."


@pytest.mark.parametrize(
    ("pods", "events", "expected"),
    [
        ([], [], []),
        ([pod("train-2", unscheduled=NO_GPU)], [], [f"no node has room: {NO_GPU}"]),
        (
            [pod("train-1", phase="Running"), pod("train-2", unscheduled=NO_GPU)],
            [],
            [f"train-2 waits for a GPU that train-1 holds: set min-scale=0 on that revision ({NO_GPU})"],
        ),
        (
            [pod("train-2", waiting={"reason": "ImagePullBackOff", "message": "Back-off"})],
            [],
            ["the image cannot be pulled: Back-off"],
        ),
        ([pod("train-2", waiting={"reason": "ContainerCreating"})], [], []),
        (
            [pod("train-2", waiting={"reason": "CrashLoopBackOff"})],
            [],
            ["it ends again and again: CrashLoopBackOff"],
        ),
        (
            [
                pod(
                    "train-2",
                    waiting={"reason": "CrashLoopBackOff", "message": "back-off 5m0s restarting"},
                    ended={"reason": "OOMKilled", "exitCode": 137},
                )
            ],
            [],
            ["it ends again and again: OOMKilled, exit code 137"],
        ),
        (
            [
                pod(
                    "train-2",
                    waiting={"reason": "CrashLoopBackOff"},
                    ended={
                        "reason": "Error",
                        "exitCode": 1,
                        "message": "Traceback\nOSError: no such model\n",
                    },
                )
            ],
            [],
            ["it ends again and again: exit code 1: OSError: no such model"],
        ),
        (
            [pod("train-1", phase="Running", ends=True), pod("train-2", unscheduled=NO_GPU)],
            [],
            [f"train-2 waits for a GPU that a pod which ends still holds ({NO_GPU})"],
        ),
        (
            [pod("train-2", waiting={"reason": "RunContainerError", "message": "no such file"})],
            [],
            ["the container cannot be started: no such file"],
        ),
        (
            [pod("train-2", waiting={"reason": "ContainerCreating"})],
            [event("train-2-pod", 'secret "rekindle-keys" not found', "FailedMount")],
            ['its pod cannot start: secret "rekindle-keys" not found'],
        ),
        ([pod("train-2", phase="Running")], [event("train-2-pod", "past", "FailedMount")], []),
        ([], [event("train-20-deployment-abc", "exceeded quota: gpus")], []),
        ([pod("other-1", unscheduled=NO_GPU)], [], []),
        ([], [event("train-2-deployment-abc", "exceeded quota: gpus")], ["quota: exceeded quota: gpus"]),
        ([], [event("train-1-deployment-abc", "exceeded quota: gpus")], []),
        ([], [event("other-2", "exceeded quota: gpus")], []),
    ],
)
def test_a_service_that_does_not_scale_says_why(
    pods: list[Any], events: list[Any], expected: list[str]
) -> None:
    assert reasons(service("train-2", ready="True"), [OLD, NEW], pods, events) == expected


def test_only_the_newest_revision_that_failed_matters() -> None:
    failed = [
        revision("train-1", "train", failed="old"),
        revision("train-2", "train", failed="no such model"),
    ]
    assert reasons(service("train-2", "False", "it failed"), failed, [], []) == [
        "revision train-2 failed: no such model",
        "it failed",
    ]
    assert reasons(service("train-3", "True"), failed, [], []) == []


def given_up(reason: str, message: str) -> dict[str, Any]:
    one = revision("train-2", "train")
    one["status"]["conditions"].append(
        {"type": "Active", "status": "False", "reason": reason, "message": message}
    )
    return one


def test_a_revision_that_was_not_ready_in_time_is_said_and_one_without_work_is_not() -> None:
    late = given_up("TimedOut", "The target could not be activated.")
    assert reasons(service("train-2", "True"), [late], [], []) == [
        "revision train-2 was given up: The target could not be activated."
    ]
    assert reasons(service("train-3", "True"), [late], [], []) == []
    idle = given_up("NoTraffic", "The target is not receiving traffic.")
    assert reasons(service("train-2", "True"), [idle], [], []) == []


def test_requests_that_are_kept_at_an_older_revision_are_said() -> None:
    one = service("train-2", "True")
    one["status"]["latestReadyRevisionName"] = "train-2"
    one["status"]["traffic"] = [{"revisionName": "train-1", "percent": 100}]
    assert reasons(one, [OLD, NEW], [], []) == [
        "requests go to train-1, none to the newest revision train-2: "
        "kn service update train --traffic @latest=100"
    ]
    one["status"]["traffic"] += [{"revisionName": "train-2", "latestRevision": True, "percent": 10}]
    assert reasons(one, [OLD, NEW], [], []) == []


def test_what_knative_repeats_of_a_pod_is_said_once() -> None:
    """Its revision has the pod's words, and its service those of the revision."""
    failed = revision("train-2", "train", failed=NO_GPU)
    said = f'Revision "train-2" failed with message: {NO_GPU}.'
    assert reasons(service("train-2", "False", said), [failed], [pod("train-2", unscheduled=NO_GPU)], []) == [
        f"no node has room: {NO_GPU}"
    ]
    assert reasons(service("train-2", "False", said), [failed], [], []) == [
        f"revision train-2 failed: {NO_GPU}"
    ]


@pytest.mark.parametrize(
    ("least", "gpus", "activations", "expected"),
    [
        (1, 2, 0, "min-scale=1 keeps 2 GPUs without work"),
        (1, 2, 1, None),
        (1, 0, 0, None),
        (0, 2, 0, None),
        (1, 2, None, None),
    ],
)
def test_gpus_that_are_held_without_work_are_said(
    least: int, gpus: int, activations: int | None, expected: str | None
) -> None:
    assert at_its_least(least, gpus, activations) == expected


@pytest.mark.parametrize(
    ("most", "concurrency", "activations", "expected"),
    [
        (2, 1, 2, "all replicas are busy that max-scale=2 allows"),
        (2, 1, 1, None),
        (2, 16, 31, None),
        (2, 16, 32, "all replicas are busy that max-scale=2 allows"),
        (0, 1, 99, None),
        (2, 1, None, None),
    ],
)
def test_a_bound_that_is_reached_is_a_reason(
    most: int, concurrency: int, activations: int | None, expected: str | None
) -> None:
    assert at_its_most(most, concurrency, activations) == expected


# ---- The command ----


@pytest.fixture
def installed(cluster: Cluster) -> Cluster:
    for one in installation(manifests.overlay("base")):
        cluster.server.put(one)
    cluster.done("models", "add", BASE, "--gpus", 2, "--max-replicas", 4)
    cluster.server.put(revision(f"{TRAIN}-00001", TRAIN, desired=3, actual=2))
    cluster.server.put(pod(f"{TRAIN}-00001", unscheduled=NO_GPU))
    return cluster


def by_name(cluster: Cluster, *options: str) -> tuple[dict[str, Any], dict[str, Any]]:
    found = json.loads(cluster.done("status", "--json", *options))
    return found, {one["name"]: one for one in found["services"]}


def test_status_shows_replicas_gpus_bounds_and_reasons(installed: Cluster) -> None:
    found, services = by_name(installed)
    train = services[TRAIN]
    assert (train["desired"], train["actual"], train["gpus"], train["max_scale"]) == (3, 2, 4, 4)
    assert train["base"] == BASE and train["reasons"] == [f"no node has room: {NO_GPU}"]
    assert found["gpus"] == 4 and found["url"] == URL
    assert found["workloads"] == {"nats": None, "blobs": None, "dispatcher": None}
    assert services["gateway"]["conditions"] == {"Ready": "True"}


def test_a_workload_that_is_not_ready_says_what_its_pods_say(installed: Cluster) -> None:
    nats = copy.deepcopy(installed.server.get("apps/v1", "statefulsets", "nats"))
    installed.server.controllers.clear()
    installed.server.put({**nats, "status": {"observedGeneration": 9, "replicas": 1, "updatedReplicas": 1}})
    unbound = pod("none", unscheduled="pod has unbound immediate PersistentVolumeClaims")
    unbound["metadata"] |= {"name": "nats-0", "labels": {"app.kubernetes.io/name": "nats"}}
    installed.server.put(unbound)
    found, _ = by_name(installed)
    assert found["workloads"]["nats"] == (
        "nats: 0 of 1 replicas ready; its volume is not there; has the cluster a default StorageClass? "
        "pod has unbound immediate PersistentVolumeClaims"
    )


def test_a_workload_is_not_ready_while_older_pods_are() -> None:
    """As `kubectl rollout status` has it."""
    one: dict[str, Any] = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "dispatcher"}}
    one["spec"] = {"replicas": 1}
    rolling = {**one, "status": {"replicas": 2, "updatedReplicas": 1, "readyReplicas": 1}}
    assert why_not_ready(rolling) == "dispatcher: 1 replicas of an older version"
    assert why_not_ready({**one, "status": {"replicas": 1, "updatedReplicas": 1, "readyReplicas": 1}}) is None


def test_gpus_are_those_of_each_revision(installed: Cluster) -> None:
    """Of one that is on its way out, too, which may have asked for others than the newest."""
    old = revision(f"{TRAIN}-00000", TRAIN, desired=1, actual=1)
    old["spec"] = {"containers": [{"resources": {"limits": {"nvidia.com/gpu": "1"}}}]}
    installed.server.put(old)
    _, services = by_name(installed)
    assert services[TRAIN]["gpus"] == 2 * 2 + 1


def test_activations_and_backlog_are_the_servers_word(installed: Cluster) -> None:
    answer = {
        "services": [{"name": TRAIN, "kind": "train", "state": "ready", "queued": 70, "activations": 64}]
    }
    installed.server.texts["/api/v1/services"] = json.dumps(answer)
    found, services = by_name(installed, "--base-url", installed.server.url)
    train = services[TRAIN]
    assert (train["activations"], train["backlog"]) == (64, 70) and found["unknown"] == []
    said = installed.run("status", "--json", env={"REKINDLE_BASE_URL": installed.server.url}).stdout
    assert json.loads(said) == found, "the variable says where, too"
    assert "all replicas are busy that max-scale=4 allows" in train["reasons"]
    assert services["reward"]["activations"] is None


def test_without_the_server_the_rest_is_shown(installed: Cluster) -> None:
    found, services = by_name(installed, "--base-url", "http://127.0.0.1:1")
    assert services[TRAIN]["actual"] == 2 and services[TRAIN]["activations"] is None
    assert found["unknown"][0].startswith("activations and backlog, of http://127.0.0.1:1: ")


def test_what_one_may_not_read_is_said(installed: Cluster) -> None:
    installed.server.forbidden |= {("list", "pods"), ("list", "events")}
    found = installed.run("status", "--base-url", "http://127.0.0.1:1")
    assert (
        found.exit_code == 0
        and found.stderr.count("not known: ") == 3
        and "pods is forbidden" in found.stderr
    )
    assert f"{TRAIN} " in found.stdout and "2 of 3" in found.stdout


def test_a_namespace_without_an_installation_is_an_error(cluster: Cluster) -> None:
    found = cluster.run("status", "--namespace", "empty")
    assert found.exit_code == 1 and "nothing of Rekindle in namespace 'empty'" in found.stderr

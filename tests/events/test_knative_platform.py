"""Knative's own records, as a cluster writes them, say which services there are and how they fare."""

from datetime import UTC, datetime
from typing import Any

import pytest
from kubernetes.client.exceptions import ApiException

from events import knative
from events.dispatcher.settings import DispatcherSettings
from events.knative import Cluster, KnativePlatform, spec_of, status_of

WHEN = "2026-11-01T10:00:00Z"
SETTINGS = {"nats_url": "nats://127.0.0.1:4222", "blobs": "blobs"}


def service(kind: str = "train", **changes: Any) -> dict[str, Any]:
    name = f"{kind}-qwen-1234"
    return {
        "metadata": {
            "name": name,
            "labels": {"rekindle.dev/kind": kind},
            "annotations": {"rekindle.dev/base-model": "Qwen/Qwen3-8B", "rekindle.dev/capacity": "2.0"},
        },
        "spec": {
            "template": {
                "metadata": {"annotations": {"autoscaling.knative.dev/max-scale": "3"}},
                "spec": {"containerConcurrency": 16},
            }
        },
        "status": {
            "address": {"url": f"http://{name}.rekindle.svc.cluster.local"},
            "latestCreatedRevisionName": f"{name}-00001",
            "traffic": [{"revisionName": f"{name}-00001", "percent": 100}],
            "conditions": [{"type": "Ready", "status": "True"}],
        },
        **changes,
    }


def revision(name: str, status: str = "True", **said: str) -> dict[str, Any]:
    ready = {"type": "Ready", "status": status, "lastTransitionTime": WHEN, **said}
    return {"metadata": {"name": name}, "status": {"conditions": [ready]}}


def scale(name: str, actual: int, desired: int, **condition: str) -> dict[str, Any]:
    conditions = [{"type": "Active", **condition}] if condition else []
    status = {"actualScale": actual, "desiredScale": desired, "conditions": conditions}
    return {"metadata": {"name": name}, "status": status}


def cluster(*, revisions: list[dict[str, Any]], scales: list[dict[str, Any]]) -> Cluster:
    return Cluster(
        (service(),),
        {one["metadata"]["name"]: one for one in revisions},
        {one["metadata"]["name"]: one for one in scales},
    )


FIRST = "train-qwen-1234-00001"


def test_bounds_and_names_become_slots() -> None:
    spec = spec_of(service(), "rekindle")
    assert spec is not None
    assert (spec.name, spec.kind, spec.base) == ("train-qwen-1234", "train", "Qwen/Qwen3-8B")
    assert (spec.most, spec.capacity) == (48, 2.0), "three replicas with sixteen runs each"
    assert spec.url == "http://train-qwen-1234.rekindle.svc.cluster.local"


def test_what_is_not_said_has_a_bound_and_an_address() -> None:
    bare = service(status={}, spec={"template": {"spec": {}}})
    spec = spec_of(bare, "lab")
    assert spec is not None and spec.most == knative.UNBOUNDED
    assert spec.url == "http://train-qwen-1234.lab.svc.cluster.local"


def test_nobody_activates_the_gateway() -> None:
    assert spec_of(service("gateway"), "rekindle") is None


@pytest.mark.parametrize(
    ("found", "state", "replicas", "reason"),
    [
        (
            scale(
                FIRST,
                0,
                0,
                status="False",
                reason="NoTraffic",
                message="The target is not receiving traffic.",
            ),
            "zero",
            0,
            None,
        ),
        (scale(FIRST, -1, -1), "zero", 0, None),
        (
            scale(
                FIRST,
                0,
                1,
                status="Unknown",
                reason="Queued",
                message="0/3 nodes: insufficient nvidia.com/gpu",
            ),
            "starting",
            0,
            "0/3 nodes: insufficient nvidia.com/gpu",
        ),
        (scale(FIRST, 2, 3, status="True"), "ready", 2, None),
    ],
)
def test_the_autoscaler_says_how_a_service_fares(
    found: dict[str, Any], state: str, replicas: int, reason: str | None
) -> None:
    status = status_of(service(), cluster(revisions=[revision(FIRST)], scales=[found]))
    assert (status.state, status.replicas, status.reason, status.verdict) == (state, replicas, reason, None)


def failing() -> dict[str, Any]:
    made = service()
    made["status"]["conditions"] = [{"type": "Ready", "status": "False"}]
    return made


def test_a_revision_that_is_given_up_is_a_verdict() -> None:
    failed = revision(FIRST, "False", reason="ProgressDeadlineExceeded", message="no progress in 1800 s")
    status = status_of(failing(), cluster(revisions=[failed], scales=[scale(FIRST, 0, 1)]))
    assert status.state == "failed" and status.verdict is not None
    assert status.verdict.at == datetime(2026, 11, 1, 10, tzinfo=UTC)
    assert status.verdict.reason == "no progress in 1800 s"


def test_a_new_revision_that_fails_beside_the_one_in_use_takes_nothing_away() -> None:
    made = failing()
    made["status"]["latestCreatedRevisionName"] = "train-qwen-1234-00002"
    found = cluster(
        revisions=[revision(FIRST), revision("train-qwen-1234-00002", "False", message="image not found")],
        scales=[scale(FIRST, 1, 1)],
    )
    status = status_of(made, found)
    assert (status.state, status.verdict) == ("ready", None)


def test_before_any_revision_is_ready_the_latest_one_speaks() -> None:
    made = service()
    made["status"]["traffic"] = []
    made["status"]["conditions"] = [{"type": "Ready", "status": "Unknown", "reason": "Deploying"}]
    waiting = revision(FIRST, "Unknown", reason="Deploying", message="pulling the image")
    status = status_of(made, cluster(revisions=[waiting], scales=[]))
    assert (status.state, status.reason) == ("starting", "pulling the image")


class Api:
    """Answers lists, or does not."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.away = False

    def list_namespaced_custom_object(
        self, group: str, version: str, namespace: str, plural: str, **_: Any
    ) -> Any:
        self.asked.append(f"{group}/{version}/{namespace}/{plural}")
        if self.away:
            raise ApiException(status=503, reason="away")
        found = {
            "services": [service()],
            "revisions": [revision(FIRST)],
            "podautoscalers": [scale(FIRST, 1, 1)],
        }
        return {"items": found[plural]}


async def test_the_cluster_is_read_once_for_many_looks_and_may_be_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    api = Api()
    monkeypatch.setattr(knative, "CustomObjectsApi", lambda _: api)
    platform = KnativePlatform("lab", client=object())  # type: ignore[arg-type]
    assert [spec.kind for spec in await platform.services()] == ["train"]
    assert (await platform.status())["train-qwen-1234"].state == "ready"
    assert sorted(api.asked) == [
        "autoscaling.internal.knative.dev/v1alpha1/lab/podautoscalers",
        "serving.knative.dev/v1/lab/revisions",
        "serving.knative.dev/v1/lab/services",
    ]
    api.away = True
    platform._read_at -= knative.READ_SECONDS
    assert (await platform.status())["train-qwen-1234"].state == "ready", "what was known is known still"
    assert len(api.asked) == 4


def test_the_dispatcher_is_told_who_runs_the_services() -> None:
    assert DispatcherSettings.model_validate({**SETTINGS, "platform": "knative"}).namespace == "rekindle"
    with pytest.raises(ValueError, match="state_file: missing"):
        DispatcherSettings.model_validate(SETTINGS)
    with pytest.raises(ValueError, match="platform"):
        DispatcherSettings.model_validate({**SETTINGS, "platform": "nomad"})

"""Knative's own records, as a cluster writes them, say which services there are and how they fare."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from kubernetes.client.exceptions import ApiException

from events import knative, revisions
from events.dispatcher.settings import DispatcherSettings
from events.knative import KnativePlatform
from events.revisions import Cluster, spec_of, status_of

WHEN = "2026-11-01T10:00:00Z"
THEN = datetime(2026, 11, 1, 10, tzinfo=UTC)
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


def revision(
    name: str,
    status: str = "True",
    /,
    *,
    most: int = 3,
    limits: Any = None,
    deadline: str = "600s",
    **said: str,
) -> dict[str, Any]:
    ready = {"type": "Ready", "status": status, "lastTransitionTime": WHEN, **said}
    annotations = {
        "autoscaling.knative.dev/max-scale": str(most),
        "serving.knative.dev/progress-deadline": deadline,
    }
    labels = {"serving.knative.dev/service": "train-qwen-1234"}
    return {
        "metadata": {"name": name, "labels": labels, "annotations": annotations},
        "spec": {"containerConcurrency": 16, **(limits or {})},
        "status": {"conditions": [ready]},
    }


def traffic(**percents: int) -> dict[str, Any]:
    """A service whose newest revision is the third, of which nothing shall matter."""
    made = service()
    shares = [
        {"revisionName": {"first": FIRST, "second": SECOND}[name], "percent": percent}
        for name, percent in percents.items()
    ]
    tag = {"revisionName": THIRD, "percent": 0, "tag": "next", "url": "http://next"}
    made["status"] |= {"traffic": [*shares, tag], "latestCreatedRevisionName": THIRD}
    return made


def scale(name: str, actual: int, desired: int, **condition: str) -> dict[str, Any]:
    conditions = [{"type": "Active", "lastTransitionTime": WHEN, **condition}] if condition else []
    status = {"actualScale": actual, "desiredScale": desired, "conditions": conditions}
    return {"metadata": {"name": name}, "status": status}


def cluster(
    *, revisions: list[dict[str, Any]], scales: Sequence[dict[str, Any]] = (), seconds: float = 0.0
) -> Cluster:
    """As read so many seconds after all conditions have changed."""
    return Cluster(
        (service(),),
        {one["metadata"]["name"]: one for one in revisions},
        {one["metadata"]["name"]: one for one in scales},
        THEN + timedelta(seconds=seconds),
    )


FIRST, SECOND, THIRD = (f"train-qwen-1234-0000{number}" for number in (1, 2, 3))
WAITS = {"status": "Unknown", "reason": "Queued", "message": "requests are buffered"}


def test_bounds_and_names_become_slots() -> None:
    spec = spec_of(service(), Cluster(), "rekindle")
    assert spec is not None
    assert (spec.name, spec.kind, spec.base) == ("train-qwen-1234", "train", "Qwen/Qwen3-8B")
    assert (spec.most, spec.capacity) == (48, 2.0), "three replicas with sixteen runs each"
    assert spec.url == "http://train-qwen-1234.rekindle.svc.cluster.local"


@pytest.mark.parametrize(
    ("limits", "seconds"),
    [
        ({}, 270.0),
        ({"timeoutSeconds": 300, "responseStartTimeoutSeconds": 300}, 270.0),
        ({"timeoutSeconds": 120}, 108.0),
        ({"timeoutSeconds": 3600}, 270.0),  # the time to the first byte is 300 s where nothing is said
        ({"timeoutSeconds": 600, "responseStartTimeoutSeconds": 600}, 270.0),
        ({"timeoutSeconds": 600, "responseStartTimeoutSeconds": 20}, 18.0),
        ({"idleTimeoutSeconds": 60}, 54.0),
    ],
)
def test_an_activation_ends_before_knative_ends_the_request(limits: dict[str, int], seconds: float) -> None:
    spec = spec_of(service(spec={"template": {"spec": limits}}), Cluster(), "rekindle")
    assert spec is not None and spec.seconds == pytest.approx(seconds)


def test_what_is_not_said_has_a_bound_and_an_address() -> None:
    bare = service(status={}, spec={"template": {"spec": {}}})
    spec = spec_of(bare, Cluster(), "lab")
    assert spec is not None and spec.most == revisions.UNBOUNDED
    assert spec.url == "http://train-qwen-1234.lab.svc.cluster.local"


@pytest.mark.parametrize(
    ("percents", "most", "seconds"),
    [
        ({"first": 100}, 4 * 16, 270.0),
        ({"second": 100}, 2 * 16, 54.0),  # a rollback brings the bounds of then, too
        ({"first": 90, "second": 10}, 71, 54.0),  # the first takes 64 of 71
        ({"first": 50, "second": 50}, 64, 54.0),
    ],
    ids=["latest", "rollback", "canary", "halves"],
)
def test_what_holds_is_said_by_the_revisions_that_requests_go_to(
    percents: dict[str, int], most: int, seconds: float
) -> None:
    found = [
        revision(FIRST, most=4),
        revision(SECOND, most=2, limits={"timeoutSeconds": 60}),
        revision(THIRD, most=1, limits={"timeoutSeconds": 10}),
    ]
    spec = spec_of(traffic(**percents), cluster(revisions=found), "rekindle")
    assert spec is not None and (spec.most, spec.seconds) == (most, pytest.approx(seconds))


def test_nobody_activates_the_gateway() -> None:
    assert spec_of(service("gateway"), Cluster(), "rekindle") is None


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
    assert status.verdict.at == THEN
    assert status.verdict.reason == "no progress in 1800 s"


@pytest.mark.parametrize(
    ("reason", "seconds", "given"),
    [
        ("ProgressDeadlineExceeded", 59.0, 0.0),
        ("ProgressDeadlineExceeded", 61.0, 60.0),  # what has come since then is failed, too
        ("ExitCode137", 1.0, None),  # a pod that the kernel killed starts again
        ("ExitCode1", 119.0, None),
        ("ExitCode1", 121.0, 120.0),
        ("ExitCode1", 300.0, 300.0),
        ("Unschedulable", 599.0, None),  # a node is added
        ("Unschedulable", 601.0, 600.0),
    ],
)
def test_what_may_pass_is_a_verdict_only_when_it_lasts(
    reason: str, seconds: float, given: float | None
) -> None:
    failed = revision(FIRST, "False", reason=reason, message=f"said {reason}")
    waiting = scale(FIRST, 0, 1, **WAITS)
    status = status_of(failing(), cluster(revisions=[failed], scales=[waiting], seconds=seconds))
    assert status.reason == f"said {reason}", "and not that requests are buffered"
    if given is None:
        assert (status.state, status.verdict) == ("starting", None)
    else:
        assert status.state == "failed" and status.verdict is not None
        assert status.verdict.at == THEN + timedelta(seconds=given)


def test_a_service_with_a_short_progress_deadline_is_given_up_sooner() -> None:
    made, failed = failing(), revision(FIRST, "False", deadline="1m30s", reason="ExitCode1")
    early, late = (
        Cluster((made,), {FIRST: failed}, at=THEN + timedelta(seconds=seconds)) for seconds in (89, 91)
    )
    assert status_of(made, early).verdict is None and status_of(made, late).verdict is not None


@pytest.mark.parametrize(
    ("seconds", "given"), [(599.0, None), (601.0, 600.0), (661.0, 660.0)], ids=["soon", "late", "later"]
)
def test_replicas_that_do_not_come_within_the_progress_deadline_are_given_up(
    seconds: float, given: float | None
) -> None:
    waiting = scale(FIRST, 0, 1, **WAITS)
    status = status_of(service(), cluster(revisions=[revision(FIRST)], scales=[waiting], seconds=seconds))
    if given is None:
        assert (status.state, status.verdict) == ("starting", None)
    else:
        assert status.verdict is not None and status.verdict.at == THEN + timedelta(seconds=given)
        assert status.verdict.reason == "no replica was ready within 600 s"


def test_a_crash_before_replicas_were_last_asked_for_is_past() -> None:
    """Knative forgets a crash when a pod is ready again, and not at zero: a service may have slept for days since."""
    crashed = revision(FIRST, "False", reason="ExitCode137", message="it was killed")
    asleep = scale(FIRST, 0, 0, status="False", reason="NoTraffic")
    status = status_of(failing(), cluster(revisions=[crashed], scales=[asleep], seconds=9000.0))
    assert (status.state, status.verdict) == ("zero", None)
    woken = (THEN + timedelta(seconds=9000)).isoformat()
    starts = scale(FIRST, 0, 1, **WAITS, lastTransitionTime=woken)
    for seconds, given in ((119.0, None), (121.0, 120.0)):
        later = cluster(revisions=[crashed], scales=[starts], seconds=9000.0 + seconds)
        verdict = status_of(failing(), later).verdict
        assert (verdict and (verdict.at - THEN).total_seconds() - 9000.0) == given


def test_a_revision_that_never_started_stays_given_up() -> None:
    made, crashed = failing(), revision(FIRST, "False", reason="ExitCode1", message="no such model")
    made["status"]["traffic"] = []
    asleep = scale(FIRST, 0, 0, status="False", reason="NoTraffic")
    status = status_of(made, cluster(revisions=[crashed], scales=[asleep], seconds=9000.0))
    assert status.verdict is not None and status.verdict.reason == "no such model"


ROLLOUT = [revision(FIRST), revision(SECOND), revision(THIRD)]


@pytest.mark.parametrize(
    ("percents", "first", "second", "expected"),
    [
        ({"first": 50, "second": 50}, (1, 1), (2, 2), ("ready", 3, None)),
        ({"first": 90, "second": 10}, (0, 0), (1, 1), ("ready", 1, None)),
        ({"second": 100}, (1, 1), (0, 0), ("ready", 1, None)),  # the old one finishes what it has
        (
            {"second": 100},
            (1, 1),
            (0, 1),
            ("starting", 1, "requests are buffered"),
        ),  # it has the only GPU still
    ],
    ids=["split", "canary", "finishing", "waiting"],
)
def test_in_a_rollout_all_revisions_with_replicas_count(
    percents: dict[str, int],
    first: tuple[int, int],
    second: tuple[int, int],
    expected: tuple[str, int, str | None],
) -> None:
    scales = [
        scale(name, *counts, **(WAITS if counts == (0, 1) else {"status": "True"}))
        for name, counts in ((FIRST, first), (SECOND, second))
    ]
    found = cluster(revisions=ROLLOUT, scales=scales, seconds=9000.0)
    status = status_of(traffic(**percents), found)
    assert (status.state, status.replicas, status.reason) == expected and status.verdict is None


def test_a_split_is_given_up_only_when_both_revisions_are() -> None:
    made, failed = traffic(first=90, second=10), revision(FIRST, "False", reason="ExitCode1", message="crash")
    waiting = [scale(FIRST, 0, 1, **WAITS), scale(SECOND, 0, 0, status="False", reason="NoTraffic")]
    alone = cluster(revisions=[failed, revision(SECOND)], scales=waiting, seconds=9000.0)
    assert (status_of(made, alone).state, status_of(made, alone).verdict) == ("starting", None)
    waiting[1] = scale(SECOND, 0, 1, **WAITS)
    both = cluster(revisions=[failed, revision(SECOND)], scales=waiting, seconds=601.0)
    verdict = status_of(made, both).verdict
    assert verdict is not None and (verdict.at, verdict.reason) == (THEN + timedelta(seconds=600), "crash")


def test_a_service_that_lacks_some_of_its_replicas_works() -> None:
    waiting = scale(FIRST, 1, 2, **WAITS)
    failed = revision(FIRST, "False", reason="Unschedulable", message="0/3 nodes are available")
    status = status_of(failing(), cluster(revisions=[failed], scales=[waiting], seconds=9999.0))
    assert (status.state, status.verdict) == ("ready", None)


def test_a_target_that_knative_could_not_activate_is_given_up() -> None:
    gone = scale(FIRST, 0, 0, status="False", reason="TimedOut", message="could not be activated")
    status = status_of(service(), cluster(revisions=[revision(FIRST)], scales=[gone]))
    assert status.verdict is not None and status.verdict.reason == "could not be activated"


def test_a_new_revision_that_fails_beside_the_one_in_use_takes_nothing_away() -> None:
    made = failing()
    made["status"]["latestCreatedRevisionName"] = SECOND
    found = cluster(
        revisions=[revision(FIRST), revision(SECOND, "False", message="image not found")],
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

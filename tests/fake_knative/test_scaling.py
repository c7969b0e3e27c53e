"""The fake autoscaler decides as Knative does."""

from typing import Any

import pytest

from tests.fake_knative.scaling import Autoscaler, Bounds, seconds

ONE: dict[str, str] = {"target-utilization-percentage": "100", "max-scale": "4", "window": "60s"}


def bounds(concurrency: int = 1, **annotations: str) -> Bounds:
    said = {f"autoscaling.knative.dev/{name.replace('_', '-')}": value for name, value in annotations.items()}
    template: dict[str, Any] = {"metadata": {"annotations": said}, "spec": {}}
    template["spec"]["containerConcurrency"] = concurrency
    return Bounds.of(template)


def decisions(scaler: Autoscaler, limits: Bounds, load: float, pods: int, times: list[float]) -> list[int]:
    found = []
    for now in times:
        pods = scaler.decide(limits, load, pods, now)
        found.append(pods)
    return found


@pytest.mark.parametrize(
    ("limits", "load", "pods"),
    [
        (bounds(1, **ONE), 3, 3),
        (bounds(1, **ONE), 9, 4),
        (bounds(), 1, 2),  # 70 % of one request is two pods
        (bounds(16, **ONE), 16, 1),
        (bounds(16, **ONE), 17, 2),
        (bounds(1, **ONE, min_scale="1"), 0, 1),
        (bounds(0), 70, 1),
        (bounds(0), 71, 2),
        (bounds(0, metric="rps", target="100"), 71, 2),
        (bounds(1, **ONE), 0, 0),
    ],
)
def test_a_load_is_a_number_of_pods(limits: Bounds, load: float, pods: int) -> None:
    assert limits.desired(load) == pods


def test_three_held_requests_are_three_pods_within_two_seconds_and_stay_three() -> None:
    scaler, limits = Autoscaler(), bounds(1, **ONE)
    quiet = decisions(scaler, limits, 0, 0, [float(now) for now in range(60)])
    busy = decisions(scaler, limits, 3, 0, [60 + now / 10 for now in range(600)])
    assert set(quiet) == {0} and busy[0] >= 1
    assert set(busy[20:]) == {3}


def test_the_last_pod_goes_a_window_after_the_last_request() -> None:
    scaler, limits = Autoscaler(), bounds(1, **ONE)
    decisions(scaler, limits, 1, 0, [float(now) for now in range(100)])
    idle = decisions(scaler, limits, 0, 1, [float(now) for now in range(100, 200)])
    assert 58 <= idle.index(0) <= 62


def test_delay_and_retention_put_it_off() -> None:
    scaler = Autoscaler()
    limits = bounds(1, **ONE, scale_to_zero_pod_retention_period="30s", scale_down_delay="10s")
    decisions(scaler, limits, 3, 0, [float(now) for now in range(100)])
    idle = decisions(scaler, limits, 0, 3, [float(now) for now in range(100, 250)])
    assert idle[9] == 3, "nothing goes before the delay"
    assert 88 <= idle.index(0) <= 94


def test_durations_are_read_as_go_writes_them() -> None:
    assert (seconds("60s"), seconds("2m"), seconds("1h0m1.5s")) == (60.0, 120.0, 3601.5)

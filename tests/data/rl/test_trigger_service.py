"""An upload starts a run by a trigger, in the data service itself, which may be killed at any moment."""

import json
import signal
from typing import Any

import pytest

from tests.data.lab import Lab, wait_until
from tests.data.rl.test_rl_api import dataset, spec

__all__ = ["dataset"]
Json = dict[str, Any]


def uploaded(lab: Lab, name: str, answer: int) -> int:
    row = {"question": "1 + 1?", "answer": answer}
    return int(lab.upload(json.dumps(row).encode(), name)["version"])


def started(lab: Lab, trigger: str) -> list[Json]:
    runs = lab.http.get("rl_runs").json()["runs"]
    return sorted((one for one in runs if one["trigger"] == trigger), key=lambda one: one["dataset_version"])


@pytest.mark.slow  # a delivery that died in hand is taken for lost after ten seconds
def test_each_upload_starts_one_run_though_the_service_is_killed(lab: Lab, dataset: str, name: str) -> None:
    start = spec(name, dataset={"name": "${event.name}", "version": "${event.version}"})
    trigger = f"t-{name.rpartition('/')[2]}"
    made = {"name": trigger, "on": "dataset.uploaded", "match": {"name": name}, "start": start}
    assert lab.http.post("triggers", json=made).status_code == 200
    versions = []
    for answer in range(2):
        versions.append(uploaded(lab, name, answer))
        lab.data.end(signal.SIGKILL)
        lab.data.start()
    uploaded(lab, f"{name}-other", 0)
    wait_until(lambda: len(started(lab, trigger)) >= 2, "no runs were started")
    runs = started(lab, trigger)
    assert [one["dataset_version"] for one in runs] == versions
    firings = lab.http.get(f"triggers/{trigger}/firings").json()["firings"]
    assert sorted(one["run"] for one in firings) == sorted(one["id"] for one in runs), "once for each upload"
    assert {one["outcome"] for one in firings} == {"started"}
    assert lab.http.delete(f"triggers/{trigger}").status_code == 204
    for one in runs:
        assert lab.http.delete(f"rl_runs/{one['id']}").status_code == 204

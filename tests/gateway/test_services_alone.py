"""Each service serves its own routes at its own port; the gateway only mounts the same ones."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

from tests.gateway.wire import PROTOBUF, Run, Wire, datum
from tests.stack import Stack


@contextmanager
def alone(stack: Stack, service: str) -> Iterator[httpx.Client]:
    """A client of one service, past the gateway; it wakes the service."""
    rows = json.loads((stack.data_dir / "processes.json").read_text())
    url = next(row["url"] for row in rows if row["service"] == service)
    with httpx.Client(base_url=f"{url}/api/v1", trust_env=False, timeout=60) as http:
        deadline = time.monotonic() + 60
        while http.get("healthz").json() == {"status": "starting"}:
            assert time.monotonic() < deadline, f"{service} does not get ready"
            time.sleep(0.05)
        yield http


@pytest.mark.parametrize("service", ["train", "sample", "checkpoint", "data", "reward"])
def test_every_service_says_that_it_is_well(stack: Stack, service: str) -> None:
    with alone(stack, service) as http:
        assert http.get("healthz").json() == {"status": "ok"}
        assert http.get("healthz", headers={"host": "evil.example"}).status_code == 200
        assert http.get("nothing", headers={"host": "evil.example"}).status_code == 403
        assert "python_info" in http.get(str(http.base_url).replace("/api/v1/", "/metrics")).text


def test_training_takes_commands_without_the_gateway(stack: Stack, wire: Wire, run: Run) -> None:
    with alone(stack, "train") as http:
        body = run.batch(run.number(), datum())
        answer = http.post("forward_backward", content=body, headers={"content-type": PROTOBUF}).json()
        assert wire.result(answer["request_id"]).headers["content-type"] == PROTOBUF
        step = http.post("optim_step", json=run.step_body(run.number())).json()
        assert "error" not in wire.result(step["request_id"]).json()
        assert http.post("get_info", json={"model_id": run.id}).json()["lora_rank"] == 2


def test_sampling_takes_commands_without_the_gateway(stack: Stack, wire: Wire) -> None:
    body = {
        "sampling_session_id": wire.sampler(),
        "seq_id": 0,
        "prompt": {"chunks": [{"type": "encoded_text", "tokens": [5]}]},
        "sampling_params": {"max_tokens": 1},
    }
    with alone(stack, "sample") as http:
        answer = http.post("asample", json=body).json()
    assert wire.result(answer["request_id"]).headers["content-type"] == PROTOBUF


def test_checkpoints_are_saved_and_listed_without_the_gateway(stack: Stack, wire: Wire, run: Run) -> None:
    with alone(stack, "checkpoint") as http:
        saved = http.post("save_weights", json={"model_id": run.id, "seq_id": run.number(), "path": "alone"})
        path = wire.result(saved.json()["request_id"]).json()["path"]
        listed = http.get(f"training_runs/{run.id}/checkpoints").json()["checkpoints"]
    assert [entry["tinker_path"] for entry in listed] == [path]


def test_rewards_are_scored_without_the_gateway(stack: Stack, wire: Wire) -> None:
    item = {"prompt": "6 * 7?", "completion": "42", "columns": {"answer": 42}}
    body = {"grader": {"type": "numeric"}, "items": [item], "idempotency_key": "alone"}
    with alone(stack, "reward") as http:
        answer = http.post("rewards/score", json=body).json()
    assert [score["value"] for score in wire.result(answer["request_id"]).json()["scores"]] == [1.0]

"""Everything scales from zero and back, and a loop notices nothing but time."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from services.local import nats_server
from tests.data.lab import wait_until
from tests.gateway.wire import PROTOBUF, Wire, connect, datum
from tests.stack import ROOT, Stack, running_stack

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
SERVICES = ("train", "sample", "checkpoint", "data", "reward")
IDLE = ["--idle", "2"]


@pytest.fixture(scope="module")
def sleepy(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack whose services soon go to sleep."""
    with running_stack(tiny_model_dir, tmp_path_factory.mktemp("sleepy") / "data", IDLE) as stack:
        yield stack


@pytest.fixture
def wire(sleepy: Stack) -> Iterator[Wire]:
    with connect(sleepy.url, sleepy.base_model) as opened:
        yield opened


def until_asleep(stack: Stack, *services: str) -> None:
    for service in services or SERVICES:
        stack.until(service, "zero")
        assert stack.row(service)["pid"] is None


def sample_body(sampler: str, number: int, tokens: int = 1, count: int = 1) -> dict[str, Any]:
    return {
        "sampling_session_id": sampler,
        "seq_id": number,
        "num_samples": count,
        "prompt": {"chunks": [{"type": "encoded_text", "tokens": [5]}]},
        "sampling_params": {"max_tokens": tokens, "seed": 1},
    }


def sampled(wire: Wire, request_id: str) -> None:
    assert wire.result(request_id).headers["content-type"] == PROTOBUF


def test_a_stack_begins_with_no_model_loaded_knows_its_models_and_says_which_service_starts(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    brief = {"REKINDLE_POLL_SECONDS": "0.2"}
    with (
        running_stack(tiny_model_dir, tmp_path / "data", ["--cold"], environment=brief) as stack,
        connect(stack.url, stack.base_model) as wire,
    ):
        assert {row["service"] for row in stack.rows() if row["pid"]} == {
            "supervisor",
            "nats",
            "gateway",
            "dispatcher",
        }
        found = wire.http.get("get_server_capabilities").json()
        assert [model["max_context_length"] for model in found["supported_models"]] == [512]
        future = wire.ok("/asample", sample_body(wire.sampler(), 0))["request_id"]
        said = set()
        while (answer := wire.poll(future)).status_code == 408:  # a cold start takes as long as it takes
            said.add((answer.json()["queue_state"], answer.json().get("queue_state_reason")))
        assert ("paused_capacity", f"starting {stack.row('sample')['name']}") in said
        assert answer.headers["content-type"] == PROTOBUF
        wire.run().goes_on()


def test_a_fact_wakes_the_data_service_for_a_trigger_and_lets_it_sleep_again(
    sleepy: Stack, wire: Wire
) -> None:
    heard: list[dict[str, Any]] = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            heard.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Hook) as server, ThreadPoolExecutor(1) as pool:
        spec = {"name": "hook", "on": "run.started", "webhook": f"http://127.0.0.1:{server.server_port}/"}
        triggers = f"{sleepy.url}/api/v1/triggers"
        assert httpx.post(triggers, json=spec, trust_env=False).status_code == 200
        until_asleep(sleepy, "data")
        served = pool.submit(server.handle_request)
        run = wire.run()
        run.goes_on()
        served.result(60)
        until_asleep(sleepy, "data")
        (fired,) = httpx.get(f"{triggers}/hook/firings", trust_env=False).json()["firings"]
        assert httpx.delete(f"{triggers}/hook", trust_env=False).status_code == 204
    assert (fired["outcome"], fired["subject"]) == ("called", heard[0]["subject"])
    assert heard[0]["type"] == "dev.rekindle.run.started" and len(heard) == 1


def test_a_run_goes_on_after_its_trainer_has_gone_to_zero(sleepy: Stack, wire: Wire) -> None:
    run, sampler = wire.run(), wire.sampler()
    for number in range(3):
        run.goes_on()
        sampled(wire, wire.ok("/asample", sample_body(sampler, number))["request_id"])
        until_asleep(sleepy)
    assert not [p for p in psutil.Process(sleepy.pid).children(recursive=True) if p.name() == "train.app"]
    run.goes_on()


def test_everything_sleeps_while_a_run_is_paused_that_no_client_drives(sleepy: Stack, wire: Wire) -> None:
    name = uploaded(wire, [{"question": f"{number} + 1?"} for number in range(16)])
    spec = {
        "base_model": sleepy.base_model,
        "dataset": {"name": name},
        "prompt": "{question}",
        "grader": {"type": "regex", "params": {"pattern": "[a-m]"}},
        "groups": 2,
        "sampling": {"max_tokens": 4},
        "steps": 20,
    }
    path = f"/rl_runs/{wire.ok('/rl_runs', spec)['id']}"
    until_reached(wire, path, "step", 1)
    wire.ok(f"{path}/pause", None)
    until_asleep(sleepy)
    paused = wire.http.get(path).json()
    assert (paused["phase"], 1 <= paused["step"] < 20) == ("paused", True)
    polled = wire.http.get(f"{path}/metrics", params={"after": paused["step"] - 1, "wait": 1}).json()
    wait_until(lambda: all(known(one) == ("zero", 0, 0, 0) for one in services(wire)), str(services(wire)))
    assert (polled["rows"], wire.http.get(path).json()["updated"]) == ([], paused["updated"])
    assert not any(sleepy.row(service)["pid"] for service in SERVICES), "to watch wakes nobody"
    wire.ok(f"{path}/resume", None)
    wait_until(lambda: any(one["kind"] == "train" and one["replicas"] for one in services(wire)), "asleep")
    until_reached(wire, path, "step", 20)
    until_reached(wire, path, "phase", "completed")
    done = wire.http.get(path).json()
    assert done["cursor"] == 20 * 2, "every prompt was drawn once"
    assert [row["step"] for row in wire.http.get(f"{path}/metrics").json()["rows"]][:20] == list(range(20))


def services(wire: Wire) -> list[dict[str, Any]]:
    """How they fare, as any client can ask."""
    found: list[dict[str, Any]] = wire.http.get("/services").json()["services"]
    assert {one["kind"] for one in found} == set(SERVICES)
    return found


def known(service: dict[str, Any]) -> tuple[Any, ...]:
    return service["state"], service["replicas"], service["queued"], service["activations"]


def uploaded(wire: Wire, rows: list[dict[str, Any]]) -> str:
    """A dataset with these rows."""
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    digest = hashlib.sha256(data).hexdigest()
    about = {"name": f"zero-{digest[:8]}", "format": "jsonl", "size_bytes": len(data), "sha256": digest}
    upload = wire.ok("/datasets", about)["upload_id"]
    wire.http.put(f"/datasets/uploads/{upload}/parts/0", content=data).raise_for_status()
    wire.result(wire.ok(f"/datasets/uploads/{upload}/complete", None)["request_id"])
    return str(about["name"])


def until_reached(wire: Wire, path: str, field: str, value: Any) -> None:
    """Wait until a field of an RL run has a value, a number at least that one."""
    deadline = time.monotonic() + 120.0
    while (found := wire.http.get(path).json()[field]) != value and not (
        isinstance(value, int) and found > value
    ):
        assert time.monotonic() < deadline, f"{field} is {found}, not {value}"
        time.sleep(0.02)


def test_connections_to_a_sleeping_service_wait_and_are_answered(sleepy: Stack) -> None:
    until_asleep(sleepy, "checkpoint")
    url = f"{sleepy.row('checkpoint')['url']}/api/v1/training_runs"
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: httpx.get(url, trust_env=False, timeout=60).status_code, range(16)))
    assert answers == [200] * 16


def test_no_request_is_refused_while_a_service_falls_asleep_again_and_again(sleepy: Stack) -> None:
    url = f"{sleepy.row('checkpoint')['url']}/api/v1/training_runs"
    for pause in (1.9, 2.0, 2.05, 2.1, 2.15, 2.2, 2.3):  # about when it ends
        assert httpx.get(url, trust_env=False, timeout=60).status_code == 200
        time.sleep(pause)
    assert httpx.get(url, trust_env=False, timeout=60).status_code == 200


def test_work_keeps_a_service_awake_though_nobody_asks_over_http(sleepy: Stack, wire: Wire) -> None:
    sampler = wire.sampler()
    future = wire.ok("/asample", sample_body(sampler, 0, tokens=500, count=128))["request_id"]
    pid = sleepy.until("sample", "ready")
    assert sleepy.row("sample")["activations"] == 1
    sampled(wire, future)
    assert sleepy.row("sample")["pid"] == pid
    until_asleep(sleepy, "sample")


def test_a_service_that_is_told_to_end_finishes_what_it_has_in_hand(sleepy: Stack, wire: Wire) -> None:
    run = wire.run()
    pid = sleepy.until("train", "ready")
    futures = [run.post_batch(run.batch(run.number(), datum())).json()["request_id"] for _ in range(20)]
    os.kill(pid, signal.SIGTERM)
    for future in futures:
        assert wire.result(future).headers["content-type"] == PROTOBUF
    sampler = wire.sampler()
    futures = [wire.ok("/asample", sample_body(sampler, n, 50))["request_id"] for n in range(20)]
    os.kill(sleepy.until("sample", "ready"), signal.SIGTERM)
    for future in futures:
        sampled(wire, future)


def test_a_service_that_is_told_to_end_rests_at_zero_if_nobody_needs_it(sleepy: Stack) -> None:
    pid = sleepy.wake("checkpoint")
    os.kill(pid, signal.SIGTERM)
    seen = [sleepy.row("checkpoint")]
    while seen[-1]["state"] != "zero":
        seen.append(sleepy.row("checkpoint"))
    assert {row["state"] for row in seen} <= {"ready", "stopping", "zero"}
    assert {row["pid"] for row in seen} <= {pid, None}


def catches(pid: int, number: signal.Signals) -> bool:
    """Whether a process has a handler for a signal."""
    status = Path(f"/proc/{pid}/status").read_text()
    return bool(int(re.findall(r"^SigCgt:\s*(\w+)", status, re.MULTILINE)[0], 16) >> (number - 1) & 1)


def test_two_dispatchers_change_nothing(sleepy: Stack, wire: Wire) -> None:
    environment = psutil.Process(sleepy.until("dispatcher", "ready")).environ()
    environment.pop("REKINDLE_NOTIFY_FD")
    other = subprocess.Popen(
        [sys.executable, "-m", "events.dispatcher"], env=environment, stderr=subprocess.PIPE
    )
    try:
        wait_until(lambda: catches(other.pid, signal.SIGTERM), "the other has not started")
        run, sampler = wire.run(), wire.sampler()
        seen = 0
        for number in range(40):
            run.goes_on()
            sampled(wire, wire.ok("/asample", sample_body(sampler, number))["request_id"])
            seen = max(seen, sleepy.row("train")["activations"])
            if seen >= 2 and number > 5:
                break
        assert seen >= 2, "both held an activation"
        os.kill(sleepy.until("dispatcher", "ready"), signal.SIGKILL)
        run.goes_on()
    finally:
        other.terminate()
        _, said = other.communicate(timeout=30)
    assert other.returncode == 0 and b"Traceback" not in said
    until_asleep(sleepy)


def test_a_dispatcher_that_dies_breaks_off_activations_and_work_goes_on(sleepy: Stack, wire: Wire) -> None:
    sampler = wire.sampler()
    future = wire.ok("/asample", sample_body(sampler, 0, tokens=500, count=64))["request_id"]
    pid = sleepy.until("sample", "ready")
    dispatcher = sleepy.until("dispatcher", "ready")
    os.kill(dispatcher, signal.SIGKILL)
    sampled(wire, future)
    assert sleepy.row("sample")["pid"] == pid
    sleepy.until("dispatcher", "ready", other_than=dispatcher)
    until_asleep(sleepy, "sample")


def test_while_a_service_starts_polls_say_so_and_if_it_cannot_the_future_fails_with_the_reason(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "models" / "broken"
    broken.mkdir(parents=True)
    for file in tiny_model_dir.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    whole = (broken / "model.safetensors").read_bytes()
    (broken / "model.safetensors").write_bytes(b"\xff" * 5000)
    with running_stack(broken, tmp_path / "data") as stack, connect(stack.url, stack.base_model) as wire:
        sampler, session = wire.sampler(), wire.session()
        body = {"session_id": session, "model_seq_id": 0, "base_model": wire.base_model}
        created = wire.ok("/create_model", body | {"lora_config": {"rank": 2, "seed": 1}})["request_id"]
        sample = wire.ok("/asample", sample_body(sampler, 0))["request_id"]
        with ThreadPoolExecutor(2) as pool:
            failures = list(pool.map(wire.failure, [created, sample]))
        for kind, failure in zip(("train", "sample"), failures, strict=True):
            assert failure["category"] == "server"
            assert failure["error"].startswith(f"{stack.row(kind)['name']} cannot start: it ended 5 times")
            assert "SafetensorError" in failure["error"]
            stack.until(kind, "failed")
        (broken / "model.safetensors").write_bytes(whole)  # whoever asks again finds it mended
        sampled(wire, wire.ok("/asample", sample_body(sampler, 1))["request_id"])
        wire.run().goes_on()
        assert wire.failure(sample)["error"] == failures[1]["error"]


def test_facts_are_printed_as_they_pass(sleepy: Stack, wire: Wire) -> None:
    command = [sys.executable, "-c", "import typer; from services.local.cli import events; typer.run(events)"]
    run = wire.run()
    options = ["--data-dir", str(sleepy.data_dir), "--run", run.id, "--type", "step.applied", "--json"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "sdk")])}
    process = subprocess.Popen(
        [*command, *options], env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    with process.stdout:
        with ThreadPoolExecutor(1) as pool:
            line = pool.submit(process.stdout.readline)
            while not line.done():  # it follows from some moment on
                wire.run().goes_on()
                run.goes_on()
        fact = json.loads(line.result())
        process.send_signal(signal.SIGINT)
        process.wait(30)
    assert fact["specversion"] == "1.0" and fact["type"] == "dev.rekindle.step.applied"
    assert fact["subject"] == run.id and fact["data"]["step"] >= 1
    assert nats_server.address(sleepy.data_dir).token not in str(fact)

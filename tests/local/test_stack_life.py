"""The life of a stack: it starts, ends with Ctrl-C, goes on after it, and takes its processes along."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from rekindle.types import decode_forward_backward_output
from services.local import nats_server
from tests.gateway.wire import Run, Wire, connect, datum
from tests.s3_server import running_bucket
from tests.stack import ROOT, Stack, running_stack

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def loss(run: Run) -> float:
    return float(decode_forward_backward_output(run.train().content).metrics["loss:sum"])


def train(run: Run, steps: int) -> None:
    for _ in range(steps):
        run.train()
        body = run.step_body(run.number(), learning_rate=1e-2)
        run.wire.result(run.wire.ok("/optim_step", body)["request_id"])


@contextmanager
def opened(stack: Stack) -> Iterator[Wire]:
    with connect(stack.url, stack.base_model) as wire:
        yield wire


def test_a_stack_goes_on_where_it_was_stopped_and_where_it_was_killed(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    with running_stack(tiny_model_dir, tmp_path / "data") as stack, opened(stack) as wire:
        run = wire.run()
        train(run, 3)
        saved = wire.ok("/save_weights", {"model_id": run.id, "seq_id": run.number(), "path": "kept"})
        path = wire.result(saved["request_id"]).json()["path"]
        before, last = loss(run), run.next - 1
        old = wire.poll(f"{run.id}:{last}").content
        number = run.number()  # queued, and perhaps not done when the stack ends
        run.post_batch(run.batch(number, datum()))
    with running_stack(tiny_model_dir, tmp_path / "data") as stack, opened(stack) as wire:
        again = Run(wire, run.session, run.id, run.next)
        assert wire.poll(f"{run.id}:{last}").content == old, "a result outlives the stack"
        found = decode_forward_backward_output(wire.result(f"{run.id}:{number}").content)
        assert found.metrics["loss:sum"] == pytest.approx(before, rel=1e-5)
        assert loss(again) == pytest.approx(before, rel=1e-5), "the weights are those of before"
        assert wire.http.get(f"training_runs/{run.id}").json()["last_checkpoint"]["tinker_path"] == path
        train(again, 2)
        assert loss(again) < before
        load = {"session_id": wire.session(), "model_seq_id": 0, "path": path, "optimizer": True}
        resumed = wire.ok("/load_weights", load)
        wire.result(resumed["request_id"])
        assert loss(Run(wire, load["session_id"], resumed["model_id"])) == pytest.approx(before, rel=1e-5)
        before = loss(again)
        family = psutil.Process(stack.pid).children(recursive=True)
        os.kill(stack.pid, signal.SIGKILL)
        assert not psutil.wait_procs(family, timeout=30)[1], "a killed supervisor takes its processes along"
    with running_stack(tiny_model_dir, tmp_path / "data") as stack, opened(stack) as wire:
        assert loss(Run(wire, run.session, run.id, again.next)) == pytest.approx(before, rel=1e-5)


def test_ready_is_alone_on_stdout_and_ctrl_c_ends_every_process(tiny_model_dir: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "rekindle.cli", "up", "--base-model", str(tiny_model_dir)]
    command += ["--data-dir", str(tmp_path / "data"), "--port", "0"]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    services = psutil.Process(process.pid).children()
    family = psutil.Process(process.pid).children(recursive=True)
    url = line.removeprefix("ready ").strip()
    assert httpx.get(f"{url}/api/v1/healthz", trust_env=False).json() == {"status": "ok"}
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=60)
    assert line.startswith("ready http://127.0.0.1:") and rest == ""
    assert process.returncode == 0 and len(services) == 5
    assert not psutil.wait_procs(family, timeout=1)[1]


def test_two_base_models_of_any_name_and_source_are_served_side_by_side(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    options = ["--base-model", "my/model:v1=s3://blobs/models/v1"]
    with ExitStack() as held:
        bucket = held.enter_context(running_bucket())
        bucket.objects = {f"models/v1/{file.name}": file.read_bytes() for file in tiny_model_dir.iterdir()}
        variables = bucket.environment | {"HF_HOME": str(tmp_path / "cache")}
        stack = held.enter_context(
            running_stack(tiny_model_dir, tmp_path / "data", options, environment=variables)
        )
        wire = held.enter_context(opened(stack))
        served = wire.http.get("get_server_capabilities").json()["supported_models"]
        assert {model["model_name"] for model in served} == {"my/model:v1", str(tiny_model_dir)}
        assert all(model["max_context_length"] == 512 for model in served)
        runs = [Wire(wire.http, name).run() for name in ("my/model:v1", str(tiny_model_dir))]
        info = wire.ok("/get_info", {"model_id": runs[0].id})
        assert info["model_name"] == info["model_data"]["model_name"] == "my/model:v1"
        ids = [wire.ok("/get_info", {"model_id": run.id})["model_data"]["tokenizer_id"] for run in runs]
        assert ids == ["my/model:v1", str(tiny_model_dir)], "what a client can load, where it can"
        with ThreadPoolExecutor(2) as pool:
            assert len(set(pool.map(loss, runs))) == 1
        rows = json.loads((stack.data_dir / "processes.json").read_text())
        assert sum(row["service"] in ("train", "sample") for row in rows) == 4


def test_with_a_key_other_addresses_are_served_and_only_the_key_opens(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    options = ["--host", "0.0.0.0", "--api-key", "tml-right-key", "--api-key", "tml-other-key"]
    with running_stack(tiny_model_dir, tmp_path / "data", options) as stack:
        url = f"{stack.url}/api/v1/get_server_capabilities"

        def status(key: str | None, at: str = url) -> int:
            headers = {"host": "any.example", **({"x-api-key": key} if key is not None else {})}
            return httpx.get(at, headers=headers, trust_env=False, timeout=60).status_code

        assert status("tml-right-key") == status("tml-other-key") == 200
        assert [status(key) for key in (None, "", "tml-wrong-key", "tml-right-ke", "tml-right-key ")[:4]] == [
            401
        ] * 4
        assert httpx.get(f"{stack.url}/api/v1/healthz", trust_env=False).status_code == 200
        assert httpx.post(f"{stack.url}/api/v1/create_session", json={}, trust_env=False).json()["detail"]
        urls = [row["url"] for row in stack.rows() if row["url"]]
        assert len(urls) == 5
        for service in urls:
            assert status(None, f"{service}/api/v1/training_runs") in (401, 404)
            assert status(None, f"{service}/api/v1/get_info") in (401, 405)
            assert httpx.post(f"{service}/activate", trust_env=False).status_code == 401
        run_with_key(stack.url, str(tiny_model_dir), "tml-right-key")


def run_with_key(url: str, base_model: str, key: str) -> None:
    """Where keys are asked for, the dispatcher has one of its own."""
    with httpx.Client(
        base_url=f"{url}/api/v1", headers={"x-api-key": key}, timeout=60, trust_env=False
    ) as http:
        Wire(http, base_model).run().goes_on()


IMPATIENT = """
from services.local import supervisor
supervisor.NATS_PATIENCE = 2.0
from rekindle.cli import main
main()
"""


def up(model: Path, data_dir: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    """`rekindle up` where it is expected to end by itself, soon."""
    command = [sys.executable, "-c", IMPATIENT, "up", "--base-model", str(model), "--port", "0"]
    command += ["--data-dir", str(data_dir)]
    found = {**os.environ, **environment}
    return subprocess.run(command, cwd=ROOT, env=found, capture_output=True, text=True, timeout=150)


def test_an_outside_nats_server_is_used_instead(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = tmp_path / "outside"
    address = nats_server.address(outside)
    server = subprocess.Popen(nats_server.command(outside), stderr=subprocess.DEVNULL)
    try:
        monkeypatch.setenv("NATS_URL", address.url)
        with running_stack(tiny_model_dir, tmp_path / "data") as stack, opened(stack) as wire:
            rows = json.loads((stack.data_dir / "processes.json").read_text())
            assert "nats" not in {row["service"] for row in rows}
            assert not (stack.data_dir / "nats").exists()
            wire.run().goes_on()
    finally:
        server.terminate()
        server.wait(30)


def test_an_outside_nats_server_that_does_not_answer_ends_the_command(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    done = up(tiny_model_dir, tmp_path / "data", NATS_URL="nats://127.0.0.1:9")
    assert done.returncode == 1 and "NATS does not answer" in done.stderr and "NATS_URL" in done.stderr


def test_a_port_of_nats_that_another_process_has_ends_the_command(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    port = nats_server.address(tmp_path / "data").port
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        done = up(tiny_model_dir, tmp_path / "data")
    assert done.returncode == 1 and f"port {port}" in done.stderr

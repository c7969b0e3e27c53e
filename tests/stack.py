"""Fixtures of a running Rekindle: the `rekindle up` of a person, as a subprocess, on a free port.

`running_stack` promises that nothing outlives it: it ends the command by SIGINT, as Ctrl-C does, and fails
when the command or one of its children is still there afterwards.
"""

import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import httpx
import psutil
import pytest
import tinker

ROOT = Path(__file__).resolve().parent.parent
READY_SECONDS = 180.0
STOP_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Stack:
    """E.g. `Stack("http://127.0.0.1:8000", Path("/tmp/x/data"), "/tmp/x/model", 4711)`."""

    url: str
    """Base URL of the gateway, without a path."""
    data_dir: Path
    base_model: str
    """Name of the (first) model; it is its folder where no other name was given."""
    pid: int
    """Process id of `rekindle up`."""

    def rows(self) -> list[dict[str, Any]]:
        """What the supervisor says of its processes."""
        found: list[dict[str, Any]] = json.loads((self.data_dir / "processes.json").read_text())
        return found

    def row(self, service: str) -> dict[str, Any]:
        """Of the first process of a service."""
        return next(row for row in self.rows() if row["service"] == service)

    def until(self, service: str, *states: str, other_than: int | None = None, seconds: float = 120.0) -> Any:
        """Wait for a service to be in one of the states, as another process than the given one; its pid."""
        deadline = time.monotonic() + seconds
        while (row := self.row(service))["state"] not in states or row["pid"] == (other_than or -1):
            assert time.monotonic() < deadline, f"{service} is {row['state']}, not {' or '.join(states)}"
            time.sleep(0.02)
        return row["pid"]

    def wake(self, service: str) -> int:
        """Have a service that sleeps start; returns its pid once it is ready."""
        httpx.get(f"{self.row(service)['url']}/api/v1/healthz", trust_env=False, timeout=120)
        pid: int = self.until(service, "ready")
        return pid


@contextmanager
def running_stack(
    base_model: Path | str,
    data_dir: Path,
    options: Sequence[str] = (),
    *,
    module: str = "rekindle.cli",
    environment: Mapping[str, str] | None = None,
) -> Iterator[Stack]:
    """Start the stack, wait until it is ready, and end it. `base_model` is [NAME=]FOLDER.

    `module` is what runs as the command; `environment` joins ours.

    Raises:
        AssertionError: it did not become ready in time, or left processes behind.
    """
    command = [sys.executable, "-m", module, "up", "--base-model", str(base_model)]
    command += ["--data-dir", str(data_dir), "--port", "0", *options]
    log = data_dir.parent / f"{data_dir.name}.log"
    with log.open("a") as stderr:
        found = {**os.environ, **(environment or {})}
        process = subprocess.Popen(
            command, cwd=ROOT, env=found, stdout=subprocess.PIPE, stderr=stderr, text=True
        )
    try:
        yield Stack(ready_url(process, log), data_dir, str(base_model).partition("=")[0], process.pid)
    finally:
        stop(process)


def ready_url(process: subprocess.Popen[str], log: Path) -> str:
    """The URL of the line `ready URL`; later lines are read on, so that the pipe never fills."""
    found: Future[str] = Future()

    def read(stdout: IO[str]) -> None:
        with stdout:
            for line in stdout:
                if line.startswith("ready ") and not found.done():
                    found.set_result(line.split()[1])
        if not found.done():
            found.set_exception(AssertionError(f"`rekindle up` ended; its log:\n{log.read_text()[-4000:]}"))

    assert process.stdout is not None
    threading.Thread(target=read, args=(process.stdout,), daemon=True).start()
    try:
        return found.result(READY_SECONDS)
    except TimeoutError:
        raise AssertionError(
            f"not ready after {READY_SECONDS:.0f} s; its log:\n{log.read_text()[-4000:]}"
        ) from None


def stop(process: subprocess.Popen[str]) -> None:
    """End the command as Ctrl-C does.

    Raises:
        AssertionError: the command or a child outlived the deadline (they are killed then).
    """
    family = [psutil.Process(process.pid)] if process.poll() is None else []
    family += [child for parent in family for child in parent.children(recursive=True)]
    if family:
        process.send_signal(signal.SIGINT)
    _, alive = psutil.wait_procs(family, timeout=STOP_SECONDS)
    names = [survivor.name() for survivor in alive]
    for survivor in alive:
        survivor.kill()
    process.wait(STOP_SECONDS)
    assert not names, f"still running {STOP_SECONDS:.0f} s after Ctrl-C: {names}"


@contextmanager
def sdk_client(stack: Stack) -> Iterator[tinker.ServiceClient]:
    """A client of the SDK whose session ends with the block."""
    client = tinker.ServiceClient(base_url=stack.url, api_key="tml-local")
    client.create_sampling_client(base_model=stack.base_model).result(120)
    with warnings.catch_warnings():
        # The SDK never closes the connection of its first request; found here, it disturbs no test.
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
    try:
        yield client
    finally:
        client.close("success").result(60)


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny model of a real architecture, made once a session."""
    from tests.tiny_model import make_tiny_model  # torch only where a test needs it

    directory = make_tiny_model(tmp_path_factory.mktemp("model") / "tiny")
    assert str(directory).count("/") != 2, "clients cut model names with exactly two slashes"
    return directory


@pytest.fixture(scope="session")
def stack(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """One running stack for the whole session, serving the tiny model."""
    with running_stack(tiny_model_dir, tmp_path_factory.mktemp("stack") / "data") as running:
        yield running

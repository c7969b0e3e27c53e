"""A second trainer on a running stack, of which the test itself is the platform: it starts, activates, ends it."""

import http.client
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import httpx

from events.activation import PATH, activation_event, to_http
from services.local import nats_server
from services.local.stack import listen
from tests.chaos import mortal
from tests.stack import ROOT, Stack

SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Replica:
    """E.g. Replica(40123)."""

    port: int

    def is_ready(self) -> bool:
        try:
            answer = httpx.get(f"http://127.0.0.1:{self.port}/api/v1/healthz", timeout=1.0, trust_env=False)
        except httpx.TimeoutException:
            return False  # it does not listen to its socket yet
        return answer.status_code == 200

    def activate(self) -> http.client.HTTPConnection:
        """Hold an activation open; it breaks off when the connection is closed."""
        message = to_http(activation_event("by-hand", "train", "1", datetime.now(UTC) + timedelta(minutes=4)))
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=SECONDS)
        connection.request("POST", PATH, message.body, dict(message.headers))
        return connection


@contextmanager
def trainer(stack: Stack, base: str, **variables: str) -> Iterator[Replica]:
    """A deterministic trainer of the stack's model under the name `base`, ready; ended by SIGTERM."""
    with listen("127.0.0.1", 0) as held:
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "sdk")]),
            "NATS_URL": nats_server.address(stack.data_dir).url,
            "REKINDLE_BLOBS": str(stack.data_dir / "blobs"),
            "REKINDLE_BASE_NAME": base,
            "REKINDLE_BASE_SOURCE": stack.base_model,
            "REKINDLE_DETERMINISTIC": "true",
            "REKINDLE_ACTIVATION": "true",
            "REKINDLE_SOCKET_FD": str(held.fileno()),
            **variables,
        }
        command = [sys.executable, "-m", mortal.MODULE, "replica", "services.train.app"]
        log = stack.data_dir / "logs" / "by-hand.log"
        with log.open("a") as stderr:
            process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stderr=stderr, pass_fds=[held.fileno()]
            )
        replica = Replica(held.getsockname()[1])
        try:
            until(lambda: replica.is_ready() or process.poll() is not None)
            assert process.poll() is None, f"it ended; its log:\n{log.read_text()[-4000:]}"
            yield replica
        finally:
            process.terminate()
            process.wait(SECONDS)


def until(true: Callable[[], bool]) -> None:
    """Wait for what nothing tells."""
    deadline = time.monotonic() + SECONDS
    while not true():
        assert time.monotonic() < deadline, f"not so after {SECONDS:.0f} s"
        time.sleep(0.02)

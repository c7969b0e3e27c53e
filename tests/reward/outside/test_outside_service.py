"""Outside graders in the reward service as it runs: keys, addresses, shards that wait beside shards that compute."""

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.reward.rig import Rig

KEY = "sk-very-secret"
SHARDS = 64
"""More than a replica would take that computed."""


class Slow(ThreadingHTTPServer):
    """Scores every item 0.5 once it may, and remembers who asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.gate, self.waiting = threading.Event(), threading.Semaphore(0)
        self.authorizations: set[str | None] = set()
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Slow

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.authorizations.add(self.headers["authorization"])
        self.server.waiting.release()
        self.server.gate.wait(60)
        said = json.dumps({"rewards": [0.5] * len(asked["completions"])}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, *_: Any) -> None:
        """Nobody reads it."""


@pytest.fixture
def service() -> Iterator[Slow]:
    with Slow() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.gate.set()
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    rig = Rig(tmp_path_factory.mktemp("outside"), replicas=0)
    with contextlib.closing(rig):
        replica, _ = rig.start(
            "reward",
            REKINDLE_GRADERS="1",
            REKINDLE_OUTSIDE_HOSTS='["127.0.0.0/8"]',
            REKINDLE_OUTSIDE_KEY_HOSTS='{"MINE": ["127.0.0.1"]}',
            REKINDLE_KEY_MINE=KEY,
        )
        rig.replicas.append(replica)
        yield rig


def items(count: int) -> list[dict[str, Any]]:
    return [{"prompt": "", "completion": f"{n}", "columns": {"answer": n}} for n in range(count)]


@pytest.mark.parametrize("beside", [None, {"type": "numeric"}])
def test_however_many_shards_wait_for_a_service_they_hold_up_none_that_compute(
    rig: Rig, service: Slow, beside: dict[str, Any] | None
):
    grader: dict[str, Any] = {"type": "remote", "params": {"url": service.url, "key": "MINE", "seconds": 60}}
    if beside is not None:
        parts = [{"grader": grader, "weight": 1.0}, {"grader": beside, "weight": 1.0}]
        grader = {"type": "weighted", "params": {"graders": parts}}
    key = f"slow-{beside}"
    slow = rig.submit(grader=grader, items=items(SHARDS * 32), idempotency_key=key)
    for _ in range(SHARDS):
        assert service.waiting.acquire(timeout=30)
    quick = rig.submit(grader={"type": "numeric"}, items=items(40), idempotency_key=f"quick beside {key}")
    assert [score.value for score in rig.result(quick).scores] == [1.0] * 40
    service.gate.set()
    value = 0.5 if beside is None else 1.5
    assert [score.value for score in rig.result(slow).scores] == [value] * SHARDS * 32
    assert service.authorizations == {f"Bearer {KEY}"}


def test_a_key_is_in_no_result_no_fact_and_no_log(rig: Rig, service: Slow):
    service.gate.set()
    told = ""
    for number, (url, key) in enumerate(
        [
            (service.url, "MINE"),
            (service.url, "OTHER"),
            ("http://localhost:1/", "MINE"),
            ("http://10.0.0.1/", None),
        ]
    ):
        grader = {"type": "remote", "params": {"url": url, "key": key, "seconds": 5}}
        request = rig.submit(grader=grader, items=items(1), idempotency_key=f"key-{number}")
        (score,) = rig.result(request).scores
        assert (score.outcome == "scored", score.attempts) == (number == 0, 1), score
        told += str(score) + str(rig.facts(request))
    assert "OTHER is not set" in told and "may not be sent to localhost:1" in told and "not public" in told
    written = b"".join(path.read_bytes() for path in Path(rig.folder).rglob("*") if path.is_file())
    assert KEY not in told and KEY.encode() not in written and b"reward" in written

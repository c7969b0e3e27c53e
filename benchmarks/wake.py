"""How long a service takes from zero to its first result, started by a warm parent and cold.

    python -m benchmarks.wake [ROUNDS]

Every round asks a service at zero for one small thing, waits for the answer, and sends it to zero again. The
model is the demo's (0.4 M parameters): what is measured is the way up, not the size of weights.
"""

import json
import os
import signal
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx

from benchmarks.models import DEMO, make_model
from benchmarks.record import record
from benchmarks.roundtrip import PlainClient
from examples.text2sql.stack import running_stack

ROUNDS = 20
STATE_SECONDS = 60.0
"""How long a service may take to be ready, or gone."""


class Waker:
    """Asks each service for something small."""

    def __init__(self, url: str, data_dir: Path) -> None:
        self._url = url
        self._data_dir = data_dir
        self._client = PlainClient(url, "bench")
        self._client.sample()

    def actions(self) -> Mapping[str, Callable[[], object]]:
        """By service."""
        return {
            "train": self._client.optim_step,
            "sample": self._client.sample,
            "reward": self._score,
            "data": lambda: self._get("data", "datasets"),
            "checkpoint": lambda: self._get("checkpoint", "training_runs"),
        }

    def _score(self) -> None:
        grader = {"type": "exact_match"}
        item = {"prompt": "2 + 2?", "completion": "4", "columns": {"answer": "4"}}
        body = {"grader": grader, "items": [item], "idempotency_key": uuid.uuid4().hex}
        self._client.result_of("rewards/score", body)

    def _get(self, service: str, path: str) -> None:
        """From the service itself: the gateway answers such questions without it."""
        url = f"{self._row(service)['url']}/api/v1/{path}"
        httpx.get(url, trust_env=False, timeout=120.0).raise_for_status()

    def end(self, service: str) -> None:
        """Tell its process to end, as a platform does when nobody needs it."""
        os.kill(self._until(service, "ready")["pid"], signal.SIGTERM)

    def until_zero(self, service: str) -> None:
        """Wait until there is no process. Raises TimeoutError."""
        self._until(service, "zero")

    def _until(self, service: str, state: str) -> dict[str, Any]:
        deadline = time.monotonic() + STATE_SECONDS
        while (row := self._row(service))["state"] != state:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{service} is {row['state']}, not {state}")
            time.sleep(0.01)
        return row

    def _row(self, service: str) -> dict[str, Any]:
        rows = json.loads((self._data_dir / "processes.json").read_text())
        return next(row for row in rows if row["service"] == service)


def seconds(waker: Waker, rounds: int) -> dict[str, list[float]]:
    """Sorted durations of the way up, by service; while one ends, the next one's turn has begun."""
    found: dict[str, list[float]] = {service: [] for service in waker.actions()}
    for service in ("reward", "data", "checkpoint"):
        waker.actions()[service]()
    for service in found:
        waker.end(service)
    for _ in range(rounds):
        for service, action in waker.actions().items():
            waker.until_zero(service)
            begun = time.perf_counter()
            action()
            found[service].append(time.perf_counter() - begun)
            waker.end(service)
    return {service: sorted(durations) for service, durations in found.items()}


def measure(model: Path, folder: Path, rounds: int, cold: bool) -> dict[str, list[float]]:
    """p50 and p95 of each service, in seconds."""
    # Nothing goes to zero by itself: that would take longer than all else.
    options = ["--idle", "0", *(["--cold"] if cold else [])]
    with running_stack(None, f"bench={model}", folder, options) as stack:
        found = {}
        for service, durations in seconds(Waker(stack.url, folder), rounds).items():
            found[service] = [statistics.median(durations), durations[int(len(durations) * 0.95)]]
            how = "cold" if cold else "warm"
            print(f"{service:10} {how}  p50 {found[service][0]:6.2f} s   p95 {found[service][1]:6.2f} s")
        return found


def main(rounds: int = ROUNDS) -> None:
    """Measure and record."""
    with tempfile.TemporaryDirectory() as folder:
        model = make_model(Path(folder) / "model", DEMO)
        warm = measure(model, Path(folder) / "warm", rounds, cold=False)
        cold = measure(model, Path(folder) / "cold", rounds, cold=True)
    rows: list[list[str | float]] = [[service, *warm[service], *cold[service]] for service in warm]
    record(
        "wake",
        ["service", "warm p50 s", "warm p95 s", "cold p50 s", "cold p95 s"],
        rows,
        command="task bench -- wake",
        note=f"From zero processes of the service to its first result, {rounds} times each; cold starts import all.",
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS)

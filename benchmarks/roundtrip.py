"""How long a small command takes from submission to result, through gateway, NATS, service and back.

    python -m benchmarks.roundtrip

The stack is the one of `rekindle up`, on a model of 0.4 M parameters with random weights: what is measured is
the way, not the work. One command at a time. The plain client is httpx over one keep-alive connection; the
Tinker SDK's figure stands beside it.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import httpx
import numpy as np
import tinker

from benchmarks.models import DEMO, make_model
from benchmarks.record import record
from examples.text2sql.stack import running_stack
from rekindle.types import Datum, ForwardBackwardRequest
from rekindle.types.datums import encode_forward_backward

WARM_UP, ROUNDS = 50, 500
API_KEY = "tml-bench"


class PlainClient:
    """The least a client can do: post a command, poll its future."""

    def __init__(self, url: str, base_model: str) -> None:
        self._http = httpx.Client(base_url=f"{url}/api/v1/", headers={"X-API-Key": API_KEY}, timeout=60.0)
        self.session = self._http.post("create_session", json={"tags": []}).json()["session_id"]
        lora = {"rank": 8, "seed": 0}
        wanted = {
            "session_id": self.session,
            "model_seq_id": 0,
            "base_model": base_model,
            "lora_config": lora,
        }
        self._number = 0
        self.model_id = self._await(self._http.post("create_model", json=wanted)).json()["model_id"]
        wanted = {"session_id": self.session, "sampling_session_seq_id": 0, "base_model": base_model}
        self._sampler = self._http.post("create_sampling_session", json=wanted).json()["sampling_session_id"]
        self._samples = 0

    def optim_step(self) -> None:
        self._number += 1
        adam = {"learning_rate": 0.0}
        wanted = {"model_id": self.model_id, "seq_id": self._number, "adam_params": adam}
        self._await(self._http.post("optim_step", json=wanted))

    def forward_backward(self) -> None:
        """One datum of 16 tokens."""
        self._number += 1
        datum = Datum(np.arange(16), {"target_tokens": np.arange(1, 17)})
        body = encode_forward_backward(
            ForwardBackwardRequest(self.model_id, self._number, [datum], "cross_entropy", {}, False)
        )
        headers = {"Content-Type": "application/x-protobuf"}
        self._await(self._http.post("forward_backward", content=body, headers=headers))

    def sample(self) -> None:
        """One token after a prompt of 16."""
        prompt = {"chunks": [{"type": "encoded_text", "tokens": list(range(2, 18))}]}
        wanted = {
            "sampling_session_id": self._sampler,
            "seq_id": self._samples,
            "prompt": prompt,
            "sampling_params": {"max_tokens": 1},
        }
        self._samples += 1
        self._await(self._http.post("asample", json=wanted))

    def result_of(self, path: str, body: Mapping[str, object]) -> httpx.Response:
        """Post a command and wait for its result."""
        return self._await(self._http.post(path, json=body))

    def _await(self, accepted: httpx.Response) -> httpx.Response:
        request_id = accepted.raise_for_status().json()["request_id"]
        while True:
            answer = self._http.post("retrieve_future", json={"request_id": request_id})
            if answer.status_code != 408:
                return answer.raise_for_status()


def milliseconds(command: Callable[[], object]) -> list[float]:
    """Sorted durations after a warm-up."""
    for _ in range(WARM_UP):
        command()
    durations = []
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        command()
        durations.append((time.perf_counter() - begun) * 1e3)
    return sorted(durations)


def measure(url: str, base_model: str) -> list[list[str | float]]:
    plain = PlainClient(url, base_model)
    with tinker.ServiceClient(base_url=url, api_key=API_KEY) as service:
        training = service.create_lora_training_client(base_model, rank=8, seed=0).result()
        step = tinker.AdamParams(learning_rate=0.0)
        commands: list[tuple[str, Callable[[], object]]] = [
            ("optim_step, plain client", plain.optim_step),
            ("optim_step, tinker SDK", lambda: training.optim_step(step).result()),
            ("forward_backward of 16 tokens, plain client", plain.forward_backward),
            ("sample of 1 token, plain client", plain.sample),
        ]
        return [row(name, milliseconds(command)) for name, command in commands]


def row(name: str, sorted_ms: list[float]) -> list[str | float]:
    percentile = [sorted_ms[int(len(sorted_ms) * share)] for share in (0.95, 0.99)]
    print(f"{name:45} p50 {statistics.median(sorted_ms):6.2f} ms   p99 {percentile[1]:6.2f} ms")
    return [name, statistics.median(sorted_ms), *percentile]


def main() -> None:
    """Measure and record."""
    with tempfile.TemporaryDirectory() as folder:
        model = make_model(Path(folder) / "model", DEMO)
        with running_stack(None, f"bench={model}", Path(folder) / "data") as stack:
            rows = measure(stack.url, "bench")
    record(
        "roundtrip",
        ["command", "p50 ms", "p95 ms", "p99 ms"],
        rows,
        command="task bench -- roundtrip",
        note=f"{ROUNDS} commands one after another, after {WARM_UP} to warm up; every write is synced to disk.",
    )


if __name__ == "__main__":
    main()

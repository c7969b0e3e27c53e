"""A client of the HTTP API that is allowed to be wrong: bodies as bytes, numbers as one likes.

The SDK checks before it sends; this does not. It speaks JSON and protobuf and polls by hand.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np

from rekindle.types import Datum, ForwardBackwardRequest, encode_forward_backward

PROTOBUF = "application/x-protobuf"
RESULT_SECONDS = 120.0


def datum(*tokens: int, **inputs: Any) -> Datum:
    """One sequence with targets and weights; other inputs replace or join them."""
    ids = tokens or (5, 6, 7, 8)
    arrays = {"target_tokens": np.array(ids, np.int64), "weights": np.ones(len(ids), np.float32)}
    arrays |= {name: np.asarray(values) for name, values in inputs.items()}
    return Datum(np.array(ids, np.int64), arrays)


@dataclass(frozen=True, slots=True)
class Wire:
    """One connection pool to `<stack>/api/v1`."""

    http: httpx.Client
    base_model: str

    def post(self, path: str, body: Any = None, **headers: str) -> httpx.Response:
        """POST JSON, or bytes as they are."""
        if isinstance(body, bytes):
            return self.http.post(path, content=body, headers=headers)
        return self.http.post(path, json=body, headers=headers)

    def ok(self, path: str, body: Any) -> dict[str, Any]:
        answer = self.post(path, body)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def session(self) -> str:
        return str(self.ok("/create_session", {"tags": [], "sdk_version": "0.38.0"})["session_id"])

    def run(self, rank: int = 2) -> "Run":
        """A new training run, created."""
        session = self.session()
        body = {
            "session_id": session,
            "model_seq_id": 0,
            "base_model": self.base_model,
            "lora_config": {"rank": rank, "seed": 1},
        }
        run = Run(self, session, self.ok("/create_model", body)["model_id"])
        assert self.result(f"{run.id}:0").json()["model_id"] == run.id
        return run

    def sampler(self) -> str:
        """A sampler of the base model."""
        body = {"session_id": self.session(), "sampling_session_seq_id": 0, "base_model": self.base_model}
        return str(self.ok("/create_sampling_session", body)["sampling_session_id"])

    def poll(self, request_id: str) -> httpx.Response:
        return self.post("/retrieve_future", {"request_id": request_id})

    def result(self, request_id: str, seconds: float = RESULT_SECONDS) -> httpx.Response:
        """The first answer that is not "ask again"."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            answer = self.poll(request_id)
            if answer.status_code != 408:
                return answer
        raise AssertionError(f"{request_id}: no result after {seconds} s; last poll said {answer.text}")

    def failure(self, request_id: str) -> dict[str, Any]:
        """The failure that a future ends in: `error` and `category`."""
        answer = self.result(request_id)
        assert answer.status_code == 200 and "error" in answer.json(), answer.text
        found: dict[str, Any] = answer.json()
        return found


@dataclass(slots=True)
class Run:
    """One training run and the number of its next operation."""

    wire: Wire
    session: str
    id: str
    next: int = field(default=1)

    def number(self) -> int:
        self.next += 1
        return self.next - 1

    def batch(self, number: int, *data: Datum, loss_fn: str = "cross_entropy", **config: Any) -> bytes:
        """The body of a forward_backward, not checked."""
        request = ForwardBackwardRequest(self.id, number, list(data), loss_fn, dict(config), False)
        return encode_forward_backward(request)

    def post_batch(self, body: bytes, **headers: str) -> httpx.Response:
        return self.wire.post("/forward_backward", body, **{"content-type": PROTOBUF, **headers})

    def train(self) -> httpx.Response:
        """A forward_backward that has nothing wrong; its result."""
        answer = self.post_batch(self.batch(self.number(), datum()))
        assert answer.status_code == 200, answer.text
        return self.wire.result(answer.json()["request_id"])

    def step_body(self, number: int, **adam: Any) -> dict[str, Any]:
        return {"model_id": self.id, "seq_id": number, "adam_params": adam, "type": "optim_step"}

    def step(self) -> httpx.Response:
        """An optim_step that has nothing wrong; its result."""
        answer = self.wire.ok("/optim_step", self.step_body(self.number()))
        return self.wire.result(answer["request_id"])

    def goes_on(self) -> None:
        """The next operations run at once: nothing waits for a gap, nothing hangs."""
        started = time.monotonic()
        trained, stepped = self.train(), self.step()
        assert trained.headers["content-type"] == PROTOBUF, trained.text
        assert "error" not in stepped.json(), stepped.text
        assert time.monotonic() - started < RESULT_SECONDS


@contextmanager
def connect(url: str, base_model: str) -> Iterator[Wire]:
    limits = httpx.Limits(max_connections=None)
    with httpx.Client(base_url=f"{url}/api/v1", timeout=60.0, trust_env=False, limits=limits) as http:
        yield Wire(http, base_model)

"""A server in the same process: it keeps what it was sent, and breaks down where a test wants it to.

It answers the protocol's calls at once with the simplest result; `trouble` comes before that.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np

from rekindle import ServiceClient, TrainingClient
from rekindle.types import (
    SampledSequence,
    encode_forward_backward_output,
    encode_sample_response,
    parse_forward_backward,
)

PROTOBUF = {"content-type": "application/x-protobuf"}
Trouble = Callable[[httpx.Request], httpx.Response | None]


def always(status: int, times: int = 1, **headers: str) -> Trouble:
    """The first `times` calls get that status."""
    left = [times]

    def trouble(_: httpx.Request) -> httpx.Response | None:
        left[0] -= 1
        answer = httpx.Response(status, json={"detail": f"trouble {status}"}, headers=headers)
        return answer if left[0] >= 0 else None

    return trouble


@dataclass
class FakeServer:
    """`service()` makes a client of it."""

    config: dict[str, Any] = field(default_factory=dict)
    trouble: dict[str, Trouble] = field(default_factory=dict)
    """By path after the prefix; asked before the call is handled."""
    lose: dict[str, int] = field(default_factory=dict)
    """By path: so many answers are lost after the call was handled."""
    calls: list[tuple[str, str, Any]] = field(default_factory=list)
    """(method, path, body) of everything that arrived."""
    headers: list[httpx.Headers] = field(default_factory=list)
    routes: list[bytes] = field(default_factory=list)
    """Paths and queries as they stood on the wire."""
    results: dict[str, httpx.Response] = field(default_factory=dict)
    """By request id."""
    applied: list[int] = field(default_factory=list)
    """Numbers of training commands in the order in which they took effect, each once."""

    def service(self, **options: Any) -> ServiceClient:
        return ServiceClient("http://fake.test", transport=httpx.MockTransport(self._handle), **options)

    def training(self, service: ServiceClient) -> TrainingClient:
        return service.create_lora_training_client("base", rank=4).result(10)

    def bodies(self, path: str) -> list[Any]:
        return [body for _, found, body in self.calls if found == path]

    async def _handle(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path.removeprefix("/api/v1")
        self.calls.append((request.method, path, self._body(request)))
        self.headers.append(request.headers)
        self.routes.append(request.url.raw_path)
        answer = self.trouble[path](request) if path in self.trouble else None
        answer = answer or self.answer(request.method, path, self.calls[-1][2])
        if self.lose.get(path, 0) > 0:
            self.lose[path] -= 1
            raise httpx.ReadError("the answer was lost")
        return answer

    def _body(self, request: httpx.Request) -> Any:
        if request.headers.get("content-type", "").startswith("application/json"):
            return json.loads(request.content)
        return request.content

    def answer(self, method: str, path: str, body: Any) -> httpx.Response:
        match path:
            case "/client/config":
                return httpx.Response(200, json=self.config)
            case "/create_session":
                return httpx.Response(200, json={"session_id": "s1"})
            case "/create_model":
                model = f"s1:train:{body['model_seq_id']}"
                return self.accept(f"{model}:0", {"model_id": model}, model_id=model)
            case "/get_info":
                info = {"model_id": body["model_id"], "model_data": {"model_name": "base"}}
                return httpx.Response(200, json=info)
            case "/create_sampling_session":
                return httpx.Response(200, json={"sampling_session_id": "s1:sample:0"})
            case "/retrieve_future":
                return self.results.get(body["request_id"], httpx.Response(404, json={"detail": "no such"}))
            case "/forward_backward":
                return self._train(body)
            case "/optim_step":
                return self._apply(body["model_id"], body["seq_id"], httpx.Response(200, json={}))
            case "/asample":
                return self._sample(body)
        return httpx.Response(200, json={})

    def accept(self, request_id: str, result: Any, **more: Any) -> httpx.Response:
        self.results[request_id] = (
            result if isinstance(result, httpx.Response) else httpx.Response(200, json=result)
        )
        return httpx.Response(200, json={"request_id": request_id, **more})

    def _apply(self, model: str, number: int, result: httpx.Response) -> httpx.Response:
        if number not in self.applied:
            self.applied.append(number)
        return self.accept(f"{model}:{number}", result, model_id=model)

    def _train(self, body: bytes) -> httpx.Response:
        request = parse_forward_backward(body)
        logprobs = [np.full(len(datum.tokens), -1.0, np.float32) for datum in request.data]
        metrics = {"loss:sum": float(len(request.data)), "size:max": float(len(request.data))}
        content = encode_forward_backward_output(logprobs, metrics, request.loss_fn)
        result = httpx.Response(200, content=content, headers=PROTOBUF)
        return self._apply(request.model_id, request.seq_id, result)

    def _sample(self, body: dict[str, Any]) -> httpx.Response:
        sequence = SampledSequence(np.array([7, 2], np.int32), np.array([-0.5, -0.25], np.float32), "stop")
        count = body["num_samples"]
        content = encode_sample_response([sequence] * count, np.array([np.nan, -1.5], np.float32))
        name = f"{body['sampling_session_id']}:{body['seq_id']}"
        return self.accept(
            name,
            httpx.Response(200, content=content, headers=PROTOBUF),
            sample_sequence_ids=[f"{name}:{index}" for index in range(count)],
        )

"""The part of a server in the same process that has RL runs and triggers: a run goes on by a step a look."""

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
from pydantic import BaseModel

from rekindle import ServiceClient
from rekindle.types import ServiceInfo, ServicesResponse
from rekindle.types.rl import (
    Firing,
    FiringsResponse,
    MetricsResponse,
    MetricsRow,
    RlRunInfo,
    RlRunSpec,
    RlRunsResponse,
    TriggerInfo,
    TriggerSpec,
    TriggersResponse,
)

NOW = datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC)
SPEC: dict[str, Any] = {
    "name": "sql",
    "base_model": "tiny",
    "dataset": {"name": "spider", "split": "train"},
    "prompt": "{question}",
    "grader": {"type": "math"},
    "steps": 4,
    "tags": ["a", "b"],
    "alarms": {"gap": None},
    "checkpoints": None,
}
SERVICES = (
    ServiceInfo(name="reward", kind="reward", state="ready", replicas=1, queued=7, activations=1),
    ServiceInfo(name="sample-tiny", kind="sample", base_model="tiny", state="zero", reason="starting"),
    ServiceInfo(name="train-huge", kind="train", base_model="huge"),
)


def row(number: int) -> MetricsRow:
    """Row `number` of every run; the KL from the base model is not known."""
    return MetricsRow(
        row=number,
        step=number,
        time=NOW + timedelta(seconds=number),
        reward=0.25 * number,
        reward_std=0.5,
        kl_sampler_k3=0.001,
        entropy=1.5 - number / 8,
        length=20.5,
        length_max=64,
        tokens_per_second=1234.5678,
        staleness=1.0,
        staleness_max=1,
        seconds=2.0,
        seconds_sample=1.0,
        seconds_score=0.5,
        seconds_train=0.25,
        learning_rate=1e-4,
        version=number + 1,
        evaluations=((number, 0.5),) if number % 2 == 0 else (),
    )


def message(body: BaseModel) -> httpx.Response:
    return httpx.Response(200, content=body.model_dump_json(), headers={"content-type": "application/json"})


def failed(detail: str, status: int) -> httpx.Response:
    return httpx.Response(status, json={"detail": detail})


@dataclass
class RlServer:
    runs: dict[str, RlRunInfo] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    """Run by idempotency key."""
    ending: str = "completed"
    """The phase in which runs end."""
    stands: int = 0
    """For how many looks runs do not go on."""
    triggers: dict[str, TriggerInfo] = field(default_factory=dict)
    firings: tuple[Firing, ...] = ()
    asked: list[httpx.Request] = field(default_factory=list)

    def service(self) -> ServiceClient:
        return ServiceClient("http://fake.test", transport=httpx.MockTransport(self.handle))

    def handle(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        parts = request.url.path.removeprefix("/api/v1/").split("/")
        match request.method, parts:
            case "POST", ["rl_runs"]:
                return self._start(request)
            case "GET", ["rl_runs"]:
                return message(RlRunsResponse(runs=tuple(reversed(self.runs.values()))))
            case "GET", ["services"]:
                return message(ServicesResponse(services=SERVICES))
            case _, ["rl_runs", id, *rest]:
                if id not in self.runs:
                    return failed(f"rl_run {id!r} does not exist", 404)
                return self._run(request, id, rest)
            case _:
                return self._triggers(request, parts[1:])

    def begin(self, **spec: Any) -> str:
        """A run that has just been started; its id."""
        wanted = RlRunSpec.of(SPEC | spec)
        id = f"rl-{len(self.runs)}"
        self.runs[id] = RlRunInfo(
            id=id,
            name=wanted.name or id,
            phase="running",
            step=0,
            steps=wanted.steps or 0,
            cursor=0,
            base_model="tiny",
            training_run=f"{id}:train:0",
            dataset_version=3,
            created=NOW,
            updated=NOW,
            spec=wanted,
        )
        return id

    def _start(self, request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        if body["base_model"] != "tiny":
            return failed(f"base_model: {body['base_model']!r} is not served; served: tiny", 400)
        key = request.headers["x-idempotency-key"]
        if key not in self.keys:
            self.keys[key] = self.begin(**body)
        return message(self.runs[self.keys[key]])

    def _run(self, request: httpx.Request, id: str, rest: list[str]) -> httpx.Response:
        run = self.runs[id]
        match request.method, rest:
            case "GET", []:
                self.runs[id] = self._later(run)
                return message(self.runs[id])
            case "DELETE", []:
                del self.runs[id]
                return httpx.Response(204)
            case "GET", ["metrics"]:
                after, limit = int(request.url.params["after"]), int(request.url.params["limit"])
                rows = tuple(row(number) for number in range(after + 1, run.step))[:limit]
                return message(MetricsResponse(rows=rows, next=rows[-1].row if rows else after))
            case "POST", [word]:
                phase = {"pause": "paused", "resume": "running", "cancel": "cancelled"}[word]
                self.runs[id] = run.model_copy(update={"phase": phase})
                return message(self.runs[id])
        raise AssertionError(f"no route {request.method} {rest}")

    def _later(self, run: RlRunInfo) -> RlRunInfo:
        if run.phase != "running" or self.stands:
            self.stands = max(0, self.stands - 1)
            return run
        step = run.step + 1
        over = {"phase": self.ending, "reason": "all steps are done"} if step == run.steps else {}
        return run.model_copy(update={"step": step, "metrics": row(step - 1), **over})

    def _triggers(self, request: httpx.Request, rest: list[str]) -> httpx.Response:
        match request.method, rest:
            case "POST", []:
                spec = TriggerSpec.model_validate_json(request.content)
                made = TriggerInfo(trigger=spec, created=NOW, fired=len(self.firings))
                self.triggers[spec.name] = made
                return message(made)
            case "GET", []:
                return message(TriggersResponse(triggers=tuple(self.triggers.values())))
        if rest[0] not in self.triggers:
            return failed(f"trigger {rest[0]!r} does not exist", 404)
        match request.method, rest[1:]:
            case "GET", []:
                return message(self.triggers[rest[0]])
            case "GET", ["firings"]:
                return message(FiringsResponse(firings=self.firings))
            case "DELETE", []:
                del self.triggers[rest[0]]
                return httpx.Response(204)
        raise AssertionError(f"no route {request.method} {rest}")

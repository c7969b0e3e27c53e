"""A server in the same process for the command line: datasets of JSONL rows, one run with checkpoints, one grader,
RL runs and triggers.

`run(arguments)` is the command as a person types it, with this server at its other end.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner, Result

import rekindle
from rekindle import ServiceClient
from rekindle.cli import build
from rekindle.types import Checkpoint, Cursor, TrainingRun, WeightsInfoResponse
from rekindle.types.datasets import Column, DatasetVersion
from rekindle.types.rewards import (
    ExactMatchParams,
    FunctionInfo,
    FunctionsResponse,
    GraderInfo,
    RegisterResponse,
    SandboxInfo,
    SandboxLayer,
    Score,
    ScoreResponse,
)
from tests.sdk.rl_server import RlServer

NOW = datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC)
RUN = "s1:train:0"
PATH = f"tinker://{RUN}/weights/000020"
EXPORT = f"tinker://{RUN}/external_weights/out"
PART_BYTES = 64


def failed(detail: str, status: int = 404) -> httpx.Response:
    return httpx.Response(status, json={"detail": detail})


def message(body: Any, status: int = 200) -> httpx.Response:
    return httpx.Response(
        status, content=body.model_dump_json(), headers={"content-type": "application/json"}
    )


@dataclass
class CliServer:
    rows: dict[str, list[list[dict[str, Any]]]] = field(default_factory=dict)
    """By dataset: the rows of version 1, 2, …"""
    asked: list[httpx.Request] = field(default_factory=list)
    uploads: dict[str, dict[str, Any]] = field(default_factory=dict)
    refused_from: int | None = None
    """Parts with this number and later ones are refused, as if an upload broke off there."""
    results: dict[str, httpx.Response] = field(default_factory=dict)
    outcomes: dict[str, Score] = field(default_factory=dict)
    """Score by completion; others are scored by exact match."""
    functions: list[FunctionInfo] = field(default_factory=list)
    refused: str | None = None
    """Why the server runs no code."""
    rl: RlServer = field(default_factory=RlServer)
    fatal: str | None = None
    """A completion that fails its whole request."""

    def run(self, *arguments: object, **options: Any) -> Result:
        def connected(url: str | None, key: str | None, **more: Any) -> ServiceClient:
            handler = httpx.MockTransport(self._handle)
            return ServiceClient(url or "http://fake.test", key, **more, transport=handler)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(rekindle, "ServiceClient", connected)
            return CliRunner().invoke(
                build(), [str(one) for one in arguments], prog_name="rekindle", **options
            )

    def bodies(self, end: str) -> list[Any]:
        return [json.loads(one.content) for one in self.asked if one.url.path.endswith(end)]

    def _handle(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        method, parts = request.method, request.url.path.removeprefix("/api/v1/").split("/")
        match parts:
            case ["retrieve_future"]:
                return self.results[json.loads(request.content)["request_id"]]
            case ["rl_runs" | "triggers" | "services", *_]:
                return self.rl.handle(request)
            case ["datasets", *rest]:
                return self._datasets(method, rest, request)
            case ["rewards", "functions", *rest]:
                return self._functions(method, rest, request)
            case ["rewards", "sandbox"]:
                layer = SandboxLayer(name="cpu limit", in_force=not self.refused, detail="stopped it")
                said = {"host": "pod-1", "started": NOW, "floor": "confined", "refused": self.refused}
                return message(SandboxInfo(**said, layers=(layer,)))
            case ["rewards", what]:
                return self._rewards(what, request)
            case _:
                return self._catalogue(method, parts, request)

    def _accept(self, result: httpx.Response) -> httpx.Response:
        self.results[name := f"r{len(self.results)}"] = result
        return httpx.Response(200, json={"request_id": name})

    # ---- Datasets ----

    def _datasets(self, method: str, parts: Sequence[str], request: httpx.Request) -> httpx.Response:
        match method, parts:
            case "POST", []:
                return self._open(json.loads(request.content))
            case "PUT", ["uploads", name, "parts", number]:
                return self._part(self.uploads[name], int(number), request.content)
            case "POST", ["uploads", name, "complete"]:
                return self._accept(self._complete(self.uploads.pop(name)))
            case "GET", []:
                newest = [
                    self.version(name, len(found)).model_dump(mode="json")
                    for name, found in self.rows.items()
                ]
                return httpx.Response(200, json={"datasets": newest})
        name, _, rest = "/".join(parts).partition("/versions/")
        if name not in self.rows:
            return failed(f"dataset {name!r} does not exist")
        number, _, what = rest.partition("/")
        if number and int(number) > len(self.rows[name]):
            return failed(f"version {number} of {name!r} does not exist")
        return self._version(method, name, int(number or 0), what, request)

    def _version(
        self, method: str, name: str, number: int, what: str, request: httpx.Request
    ) -> httpx.Response:
        if method == "DELETE":
            self.rows[name][(number or 1) - 1 : number or None] = []
            return httpx.Response(200, json={})
        if not number:
            found = [
                self.version(name, one).model_dump(mode="json") for one in range(len(self.rows[name]), 0, -1)
            ]
            return httpx.Response(200, json={"name": name, "versions": found})
        rows = self.rows[name][number - 1]
        match what:
            case "rows":
                query = request.url.params
                start, end = int(query.get("cursor", 0)), int(query.get("cursor", 0)) + int(query["limit"])
                cursor = str(end) if end < len(rows) else None
                return httpx.Response(200, json={"rows": rows[start:end], "cursor": cursor})
            case "file":
                return httpx.Response(200, content=json.dumps(rows).encode())
            case "derive":
                return self._accept(self._derive(name, rows, json.loads(request.content)))
        return message(self.version(name, number))

    def _open(self, body: dict[str, Any]) -> httpx.Response:
        name = sha256(json.dumps(body).encode()).hexdigest()
        upload = self.uploads.setdefault(name, {**body, "parts": {}})
        return httpx.Response(
            200, json={"upload_id": name, "part_bytes": PART_BYTES, "parts": sorted(upload["parts"])}
        )

    def _part(self, upload: dict[str, Any], number: int, content: bytes) -> httpx.Response:
        if self.refused_from is not None and number >= self.refused_from:
            return failed("part: too slow, the limit is 60 s", 413)
        upload["parts"][number] = content
        return httpx.Response(200, json={})

    def _complete(self, upload: dict[str, Any]) -> httpx.Response:
        content = b"".join(part for _, part in sorted(upload["parts"].items()))
        assert sha256(content).hexdigest() == upload["sha256"]
        try:
            rows = [json.loads(line) for line in content.splitlines()]
        except ValueError:
            return httpx.Response(200, json={"error": "row 1: not JSON", "category": "user"})
        return self._made(upload["name"], rows)

    def _derive(self, name: str, rows: list[dict[str, Any]], body: dict[str, Any]) -> httpx.Response:
        if body["op"] != "split":
            return self._made(name, rows[: len(rows) // 2])
        made = []
        for part in body["parts"]:
            self.rows[name].append(rows)
            made.append(self.version(name, len(self.rows[name]), part).model_dump(mode="json"))
        return httpx.Response(200, json={"versions": made})

    def _made(self, name: str, rows: list[dict[str, Any]]) -> httpx.Response:
        self.rows.setdefault(name, []).append(rows)
        return message(self.version(name, len(self.rows[name])))

    def version(self, dataset: str, number: int, split: str | None = None) -> DatasetVersion:
        rows = self.rows[dataset][number - 1]
        columns = [
            Column(name=name, type="string" if isinstance(value, str) else "int", nulls=0, min=0, max=9.5)
            for name, value in (rows or [{}])[0].items()
        ]
        return DatasetVersion(
            name=dataset,
            version=number,
            sha256="0" * 64,
            format="jsonl",
            rows=len(rows),
            bytes=2048,
            columns=tuple(columns),
            created=NOW,
            how={"op": "upload"},
            split=split,
        )

    # ---- Rewards ----

    def _rewards(self, what: str, request: httpx.Request) -> httpx.Response:
        if what == "graders":
            found = GraderInfo(
                type="exact_match", version="exact_match-1", params=ExactMatchParams.model_json_schema()
            )
            return httpx.Response(200, json={"graders": [found.model_dump(mode="json")]})
        items = json.loads(request.content)["items"]
        if any(item["completion"] == self.fatal for item in items):
            return self._accept(httpx.Response(200, json={"error": "no worker lived", "category": "server"}))
        return self._accept(message(ScoreResponse.of(tuple(self._score(item) for item in items))))

    def _functions(self, method: str, parts: list[str], request: httpx.Request) -> httpx.Response:
        found = [one for one in self.functions if parts in ([], [one.name])]
        if method == "GET":
            return message(FunctionsResponse(functions=tuple(found)))
        if method == "DELETE":
            self.functions = [one for one in self.functions if one not in found]
            return httpx.Response(200, json={}) if found else failed(f"function {parts[0]!r} does not exist")
        body = json.loads(request.content)
        info = FunctionInfo(
            name=body["name"],
            version=sha256(body["source"].encode()).hexdigest()[:16],
            function="reward",
            columns=("limit",),
            requirements=(),
            pure=body["pure"],
            created=NOW,
        )
        self.functions.append(info)
        score = Score(outcome="scored", value=0.5, grader_version="function-1+0", seconds=0.1, attempts=1)
        scores = (score,) * len(body["examples"])
        return self._accept(message(RegisterResponse(function=info, scores=scores)))

    def _score(self, item: dict[str, Any]) -> Score:
        right = float(item["completion"] == item["columns"]["answer"])
        plain = Score(
            outcome="scored", value=right, grader_version="exact_match-1+00", seconds=0.1, attempts=1
        )
        return self.outcomes.get(item["completion"], plain)

    # ---- Runs and checkpoints ----

    def _catalogue(self, method: str, parts: list[str], request: httpx.Request) -> httpx.Response:
        cursor = Cursor(offset=0, limit=20, total_count=1).model_dump()
        run, one = self._run().model_dump(mode="json"), self._checkpoint().model_dump(mode="json")
        match method, parts:
            case "GET", ["training_runs"]:
                return httpx.Response(200, json={"training_runs": [run], "cursor": cursor})
            case "GET", ["checkpoints"] | ["training_runs", "s1:train:0", "checkpoints"]:
                return httpx.Response(200, json={"checkpoints": [one]})
            case "GET", ["training_runs", "s1:train:0"]:
                return httpx.Response(200, json=run)
            case "POST", ["training_runs", "s1:train:0", "rollouts"]:
                return self._accept(self._made(json.loads(request.content)["name"], [{"reward": 1}]))
            case "POST", ["weights_info"]:
                return message(WeightsInfoResponse(base_model="base", is_lora=True, lora_rank=8))
            case "GET", [*_, "external_weights_urls"]:
                return failed("not here", 403)
            case (("POST" | "PUT" | "DELETE"), ["training_runs", "s1:train:0", "checkpoints", "weights", *_]):
                return httpx.Response(200, json={})
        return failed(f"{'/'.join(parts)} does not exist")

    def _run(self) -> TrainingRun:
        return TrainingRun(
            training_run_id=RUN,
            base_model="base",
            model_owner="local",
            is_lora=True,
            last_request_time=NOW,
            lora_rank=8,
            last_checkpoint=self._checkpoint(),
        )

    def _checkpoint(self) -> Checkpoint:
        return Checkpoint(
            checkpoint_id="weights/000020",
            checkpoint_type="training",
            time=NOW,
            tinker_path=PATH,
            size_bytes=1536,
        )

"""No key, no answer; another tenant's key, not a word about what is mine."""

import asyncio
import contextlib
import json
import os
import re
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from pydantic import ValidationError

from events import ids, names
from events.checkpoints import CheckpointEntry, entry_event
from events.edge import Edge
from events.keys import Keyring
from events.records import DatasetRecord, LoraShape, ModelRecord, RunRecord, SamplerRecord, SessionRecord
from events.settings import EdgeSettings, Quota
from rekindle.types.keys import EVERYONE, ApiKey, key_digest
from services.gateway import futures
from services.gateway.app import build
from services.local.nats_server import free_port
from tests.events.nats_process import NatsProcess

ANNE, BERT, ACTIVATOR = "tml-anne-key", "tml-bert-key", "tml-activator"
BASE = "tiny"
WHEN = datetime(2026, 1, 1, tzinfo=UTC)
OPEN = {"/api/v1/healthz", "/api/v1/livez", "/docs", "/openapi.json", "/docs/oauth2-redirect"}
SIGNED = "/api/v1/downloads/{expires}/{signature}/{key:path}"


@pytest.fixture
def nats(tmp_path: Path) -> Iterator[NatsProcess]:
    """One for each test: quotas count what there is."""
    with NatsProcess(tmp_path / "nats") as server:
        yield server


@pytest.fixture
def keys_file(tmp_path: Path) -> Path:
    path = tmp_path / "keys.json"
    path.write_text(json.dumps([holder("anne", ANNE), holder("bert", BERT)]))
    return path


def holder(tenant: str, key: str) -> dict[str, str]:
    return {"hash": key_digest(key), "tenant": tenant, "name": "laptop"}


def leave_keys(path: Path, *holders: dict[str, str]) -> None:
    path.write_text(json.dumps(holders))


class House:
    """A gateway in this process, with what Anne has."""

    def __init__(self, app: FastAPI, http: httpx.AsyncClient) -> None:
        self.app, self.http = app, http
        self.edge: Edge = app.state.edge
        self.session, self.run_id, self.sampler = "s1", "s1:train:0", "s1:sample:0"

    async def ask(
        self, method: str, path: str, key: str | None, more: dict[str, str] | None = None, **options: Any
    ) -> httpx.Response:
        """more: headers."""
        headers = {"host": "rekindle.example"} | ({} if key is None else {"x-api-key": key}) | (more or {})
        return await self.http.request(method, path, headers=headers, **options)

    async def furnish(self) -> CheckpointEntry:
        """A session, a run with a checkpoint, a sampler, a dataset and a function of Anne's; her checkpoint."""
        records, lora = self.edge.records, LoraShape(rank=4, seed=1)
        model = ModelRecord(
            name=BASE,
            source=BASE,
            arch="llama",
            context_length=64,
            vocab_size=32,
            trainable=True,
            sampleable=True,
        )
        await records.replace(EVERYONE, BASE, model)
        await records.create("anne", self.session, SessionRecord(session_id=self.session, created=WHEN))
        run = RunRecord(run_id=self.run_id, session_id=self.session, base=BASE, lora=lora, created=WHEN)
        await records.create("anne", self.run_id, run)
        sampler = SamplerRecord(
            sampler_id=self.sampler, session_id=self.session, base=BASE, path=None, created=WHEN
        )
        await records.create("anne", self.sampler, sampler)
        await records.replace("anne", "secrets", DatasetRecord(name="secrets"))
        entry = CheckpointEntry(
            run_id=self.run_id,
            base=BASE,
            kind="sampler_weights",
            name="final",
            number=3,
            step=3,
            lora=lora,
            blob="nowhere",
            size_bytes=10,
            created=WHEN,
        )
        await self.edge.bus.ensure_run_stream(BASE)
        subject = names.checkpoint_subject(BASE, "anne", self.run_id, entry.kind, entry.name)
        await self.edge.bus.append(subject, entry_event("anne", "train", entry))
        return entry


@contextlib.asynccontextmanager
async def house(nats: NatsProcess, folder: Path, **settings: Any) -> AsyncIterator[House]:
    told = {"NATS_URL": nats.url, "blobs": str(folder / "blobs"), "poll_seconds": 0.1, **settings}
    app = build(EdgeSettings.model_validate(told))
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://rekindle.example") as http,
    ):
        yield House(app, http)


def routes(app: FastAPI) -> list[tuple[str, str]]:
    """Every method of every route."""
    return [
        (method, route.path)
        for route in app.routes
        if isinstance(route, APIRoute) and route.path not in OPEN | {SIGNED}
        for method in sorted(route.methods)
    ]


def filled(path: str, values: dict[str, str]) -> str:
    """The path with Anne's names in the places of its parameters."""
    return re.sub(r"\{(\w+)(?::path)?\}", lambda found: values.get(found[1], "secrets"), path)


async def test_no_route_answers_without_a_key(nats: NatsProcess, tmp_path: Path, keys_file: Path) -> None:
    async with house(nats, tmp_path, keys_file=keys_file, host="0.0.0.0") as home:
        walked = routes(home.app)
        assert len(walked) > 50, "the gateway mounts the edges of all services"
        for method, path in walked:
            for key in (None, "tml-guess", key_digest(ANNE), ""):
                answer = await home.ask(method, filled(path, {}), key)
                assert answer.status_code == 401, f"{method} {path} with {key!r}"
                assert answer.json() == {"detail": "X-API-Key: missing or not known"}
        assert (await home.ask("GET", "/api/v1/healthz", None)).status_code == 200
        assert (await home.ask("GET", "/metrics", None)).status_code == 401
        assert (await home.ask("GET", "/api/v1/downloads/1/forged/anne/file", None)).status_code in (400, 403)


async def test_no_route_tells_one_tenant_of_anothers_things(
    nats: NatsProcess, tmp_path: Path, keys_file: Path
) -> None:
    async with house(nats, tmp_path, keys_file=keys_file) as home:
        entry = await home.furnish()
        named = {
            "run_id": home.run_id,
            "session_id": home.session,
            "sampler_id": home.sampler,
            "kind": entry.kind,
            "version": "1",
            "part": "0",
            "name": entry.name,
        }
        bodies: dict[str, Any] = {
            "model_id": home.run_id,
            "session_id": home.session,
            "sampling_session_id": home.sampler,
            "seq_id": 1,
            "model_seq_id": 0,
            "sampling_session_seq_id": 0,
            "request_id": ids.future_id(home.run_id, 1),
            "path": entry.path,
            "model_path": entry.path,
            "tinker_path": entry.path,
            "base_model": BASE,
        }
        for method, path in routes(home.app):
            if path.endswith(("/facts/live", "/events")):
                continue  # goes on for ever; its subjects are the tenant's
            options: dict[str, Any] = {} if method in ("GET", "DELETE") else {"json": bodies}
            mine = await home.ask(method, filled(path, named), BERT, **options)
            assert mine.status_code < 500, f"{method} {path}: {mine.text}"
            for secret in (home.run_id, home.sampler, entry.path, "secrets"):
                if secret in mine.text:  # what was asked for may be named, nothing else
                    assert mine.status_code in (400, 404) or "does not exist" in mine.text, (
                        f"{method} {path}: {mine.text}"
                    )
        still = await home.ask("GET", f"/api/v1/training_runs/{home.run_id}/checkpoints", ANNE)
        assert [one["tinker_path"] for one in still.json()["checkpoints"]] == [entry.path]
        assert (await home.ask("GET", f"/api/v1/samplers/{home.sampler}", ANNE)).status_code == 200


async def test_a_published_checkpoint_is_read_by_others_until_it_is_withdrawn(
    nats: NatsProcess, tmp_path: Path, keys_file: Path
) -> None:
    async with house(nats, tmp_path, keys_file=keys_file) as home:
        entry = await home.furnish()
        asked = {"tinker_path": entry.path}
        place = f"/api/v1/training_runs/{home.run_id}/checkpoints/{entry.kind}/{entry.name}"

        async def read(key: str) -> int:
            return (await home.ask("POST", "/api/v1/weights_info", key, json=asked)).status_code

        assert (await read(ANNE), await read(BERT)) == (200, 404)
        assert (await home.ask("POST", f"{place}/publish", BERT)).status_code == 404
        assert (await home.ask("POST", f"{place}/publish", ANNE)).status_code == 204
        assert (await read(ANNE), await read(BERT)) == (200, 200)
        session = (await home.ask("POST", "/api/v1/create_session", BERT, json={})).json()["session_id"]
        sampler = {"session_id": session, "sampling_session_seq_id": 0, "model_path": entry.path}
        opened = await home.ask("POST", "/api/v1/create_sampling_session", BERT, json=sampler)
        assert opened.status_code == 200, opened.text
        for method, path in (("DELETE", place), ("PUT", f"{place}/ttl"), ("DELETE", f"{place}/publish")):
            mistake = await home.ask(method, path, BERT, json={"ttl_seconds": 1} if method == "PUT" else None)
            assert mistake.status_code == 404, "to read is not to own"
        assert (await home.ask("GET", f"/api/v1/training_runs/{home.run_id}", BERT)).status_code == 404
        assert (await home.ask("DELETE", f"{place}/publish", ANNE)).status_code == 204
        assert (await read(ANNE), await read(BERT)) == (200, 404)
        await home.ask("POST", f"{place}/publish", ANNE)
        assert (await home.ask("DELETE", place, ANNE)).status_code == 204
        assert (await read(ANNE), await read(BERT)) == (404, 404)


async def test_keys_are_given_and_taken_back_without_a_restart(
    nats: NatsProcess, tmp_path: Path, keys_file: Path
) -> None:
    async with house(nats, tmp_path, keys_file=keys_file) as home:

        async def enters(key: str) -> bool:
            return (await home.ask("GET", "/api/v1/training_runs", key)).status_code == 200

        assert await enters(ANNE) and not await enters("tml-carl-key")
        replace(keys_file, json.dumps([holder("carl", "tml-carl-key")]))
        assert await enters("tml-carl-key") and not await enters(ANNE)
        replace(keys_file, "half a fi")
        assert await enters("tml-carl-key"), "a file that cannot be read changes nothing"
        os.unlink(keys_file)
        assert await enters("tml-carl-key")
        replace(keys_file, "[]")
        assert not await enters("tml-carl-key"), "no key in the file: nobody"


def replace(path: Path, text: str) -> None:
    """As a mounted Secret changes: at once."""
    aside = path.with_suffix(".new")
    aside.write_text(text)
    os.replace(aside, path)


async def test_only_the_systems_key_activates_and_it_opens_nothing_else(
    nats: NatsProcess, tmp_path: Path, keys_file: Path
) -> None:
    system = [key_digest(ACTIVATOR)]
    async with house(nats, tmp_path, keys_file=keys_file, system_keys=system) as home:
        assert (await home.ask("POST", "/activate", ANNE)).status_code == 401
        assert (await home.ask("POST", "/activate", ACTIVATOR)).status_code == 404, (
            "a gateway is not activated"
        )
        assert (await home.ask("GET", "/api/v1/training_runs", ACTIVATOR)).status_code == 401


async def test_a_stream_of_facts_ends_when_its_key_is_taken_back_or_the_process_ends(
    nats: NatsProcess, tmp_path: Path, keys_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(futures, "PAUSE_SECONDS", 0.05)
    async with house(nats, tmp_path, keys_file=keys_file) as home, asyncio.timeout(60):

        async def open_stream(key: str, tenant: str) -> "asyncio.Task[httpx.Response]":
            stream = asyncio.create_task(home.ask("GET", "/api/v1/events", key))
            while not home.edge.live[tenant]:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            return stream

        annes, berts = await open_stream(ANNE, "anne"), await open_stream(BERT, "bert")
        leave_keys(keys_file, holder("bert", BERT))
        assert (await annes).text.startswith(": facts follow\n\n")
        assert not home.edge.live["anne"] and not berts.done()
        home.edge.futures.release()
        assert (await berts).status_code == 200


async def test_quotas_answer_429_and_let_others_in(
    nats: NatsProcess, tmp_path: Path, keys_file: Path
) -> None:
    quotas = {
        "bert": Quota(sessions=1, training_runs=1, queued=2, dataset_bytes=100),
        "*": Quota(sessions=5),
    }
    async with house(nats, tmp_path, keys_file=keys_file, quotas=quotas) as home:
        await home.furnish()

        async def post(path: str, body: dict[str, Any], key: str = BERT) -> httpx.Response:
            return await home.ask("POST", f"/api/v1/{path}", key, json=body)

        def refused(answer: httpx.Response, what: str) -> bool:
            said = answer.json()["detail"]
            return answer.status_code == 429 and answer.headers["retry-after"] == "10" and what in said

        session = (await post("create_session", {})).json()["session_id"]
        assert refused(await post("create_session", {}), "quota sessions: the limit is 1; 1 are there")
        assert (await post("create_session", {}, ANNE)).status_code == 200

        def model(number: int) -> dict[str, Any]:
            return {
                "session_id": session,
                "model_seq_id": number,
                "base_model": BASE,
                "lora_config": {"rank": 4},
            }

        assert (await post("create_model", model(0))).status_code == 200
        assert refused(await post("create_model", model(1)), "training_runs")
        assert (await post("create_model", model(0))).status_code == 200, "asked again, it is the same run"

        sampler = {"session_id": session, "sampling_session_seq_id": 0, "base_model": BASE}
        sampler_id = (await post("create_sampling_session", sampler)).json()["sampling_session_id"]

        def sample(number: int) -> dict[str, Any]:
            prompt = {"chunks": [{"type": "encoded_text", "tokens": [5]}]}
            limits = {"max_tokens": 1}
            return {
                "sampling_session_id": sampler_id,
                "seq_id": number,
                "prompt": prompt,
                "sampling_params": limits,
            }

        assert [(await post("asample", sample(n))).status_code for n in range(3)] == [200, 200, 429]
        assert (await post("asample", sample(1))).status_code == 200, "asked again, it is the same command"

        upload = {"name": "d", "format": "csv", "size_bytes": 101, "sha256": "0" * 64}
        assert refused(await post("datasets", upload), "dataset_bytes")
        assert (await post("datasets", upload | {"size_bytes": 100})).status_code == 200


async def test_a_full_store_of_checkpoints_fails_the_save_under_its_number(
    nats: NatsProcess, tmp_path: Path, keys_file: Path
) -> None:
    async with house(
        nats, tmp_path, keys_file=keys_file, quotas={"anne": Quota(checkpoint_bytes=10)}
    ) as home:
        await home.furnish()
        saved = {"model_id": home.run_id, "seq_id": 1, "path": "more"}
        answer = await home.ask("POST", "/api/v1/save_weights", ANNE, json=saved)
        assert answer.status_code == 200, "the commands behind it must not wait"
        future = {"request_id": answer.json()["request_id"]}
        found = (await home.ask("POST", "/api/v1/retrieve_future", ANNE, json=future)).json()
        assert found["category"] == "user" and "quota checkpoint_bytes" in found["error"]


@pytest.mark.parametrize("tenant", ["", "Anne", "a.b", "-a", "a" * 41, EVERYONE, "a/b"])
def test_a_tenant_has_a_plain_name(tenant: str) -> None:
    with pytest.raises(ValidationError, match="expected 1 to 40"):
        ApiKey(hash="0" * 64, tenant=tenant)


def test_a_file_of_keys_that_is_wrong_is_refused_at_the_start(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    with pytest.raises(OSError, match=r"keys\.json"):
        Keyring([], path)
    path.write_text('[{"hash": "ANNE", "tenant": "anne"}]')
    with pytest.raises(ValueError, match=r"keys.json: 0.hash: .*64 hex digits"):
        Keyring([], path)


async def test_two_tenants_runs_of_one_name_are_two(
    nats: NatsProcess, tmp_path: Path, keys_file: Path
) -> None:
    async with house(nats, tmp_path, keys_file=keys_file) as home:
        await home.furnish()
        session = SessionRecord(session_id=home.session, created=WHEN)
        await home.edge.records.create("bert", home.session, session)
        body = {"session_id": home.session, "model_seq_id": 0, "base_model": BASE, "lora_config": {"rank": 2}}
        assert (await home.ask("POST", "/api/v1/create_model", BERT, json=body)).status_code == 200
        info = [
            (await home.ask("POST", "/api/v1/get_info", key, json={"model_id": home.run_id})).json()[
                "lora_rank"
            ]
            for key in (ANNE, BERT)
        ]
        assert info == [4, 2]


async def test_metrics_are_read_without_a_key_at_their_own_port_alone(
    nats: NatsProcess, tmp_path: Path, keys_file: Path
) -> None:
    port = free_port()
    async with house(nats, tmp_path, keys_file=keys_file, metrics_port=port) as home:
        assert (await home.ask("GET", "/api/v1/get_server_capabilities", ANNE)).status_code == 200
        assert (await home.ask("GET", "/metrics", None)).status_code == 401
        async with httpx.AsyncClient(trust_env=False, base_url=f"http://127.0.0.1:{port}") as http:
            said = (await http.get("/metrics")).text
            assert (await http.get("/api/v1/get_server_capabilities")).status_code == 404
    assert re.search(r'rekindle_http_answers_total\{status="200"\} [1-9]', said)

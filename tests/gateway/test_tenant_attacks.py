"""What one tenant tries against another, and around its quotas."""

import asyncio
import json
import os
import socket
import stat
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from cloudevents.core.v1.event import CloudEvent
from fastapi.responses import StreamingResponse
from structlog.testing import capture_logs

from events import blob_keys, catalog, facts, names
from events.blob_cache import BlobCache
from events.checkpoints import entry_event
from events.keys import Keyring
from events.outside import Guard
from events.quotas import QuotaExceeded
from events.records import DatasetRecord, RunRecord, StoredVersion, TriggerRecord
from events.sampling import SampleCommand
from events.serve import MAX_HEAD_BYTES, BoundedHttp
from events.settings import Quota
from events.triggers import Trigger
from rekindle.types import TinkerPath
from rekindle.types.datasets import DatasetVersion
from rekindle.types.keys import key_digest
from services.data.rl.create import create
from services.data.rl.fires import fire
from services.data.rl.triggers import Triggers
from services.data.rl.webhook import Webhooks
from services.gateway.futures import MAX_LIVE, live_facts
from services.sample.worker import weights_of
from tests.events.nats_process import NatsProcess
from tests.gateway import test_tenants
from tests.gateway.test_tenants import ANNE, BASE, BERT, WHEN, House, holder, house

nats, keys_file = test_tenants.nats, test_tenants.keys_file

SPEC: dict[str, Any] = {
    "base_model": BASE,
    "dataset": {"name": "sums"},
    "prompt": "{question}",
    "grader": {"type": "numeric", "params": {"column": "answer"}},
    "steps": 1,
    "sampling": {"max_tokens": 2},
}


async def give_rows(home: House, *tenants: str, size: int = 60) -> None:
    """A dataset of one version to each."""
    for tenant in tenants:
        about = DatasetVersion.model_validate(
            {
                "name": "sums",
                "version": 1,
                "sha256": "0" * 64,
                "rows": 4,
                "bytes": size,
                "columns": [
                    {"name": "question", "type": "string", "nulls": 0},
                    {"name": "answer", "type": "int", "nulls": 0},
                ],
                "created": WHEN,
                "how": {"op": "upload"},
            }
        )
        version = StoredVersion(about=about, blob=f"{names.token(tenant)}/datasets/x", made_by="data:0:1")
        await home.edge.records.replace(
            tenant, "sums", DatasetRecord(name="sums", versions=(version,), last=1)
        )


async def test_what_two_tenants_name_alike_has_ids_of_its_own(
    nats: NatsProcess, tmp_path: Path, keys_file: Path
) -> None:
    async with house(nats, tmp_path, keys_file=keys_file) as home:
        await home.furnish()
        await give_rows(home, "anne", "bert")
        same = {"x-idempotency-key": "nightly"}

        async def ids(key: str) -> tuple[str, str]:
            run = await home.ask("POST", "/api/v1/rl_runs", key, json=SPEC, more=same)
            made = await home.ask(
                "POST", "/api/v1/datasets/sums/versions/1/derive", key, json={"op": "dedupe"}, more=same
            )
            assert (run.status_code, made.status_code) == (200, 200), (run.text, made.text)
            return run.json()["id"], made.json()["request_id"]

        hers, his = await ids(ANNE), await ids(BERT)
        assert await ids(ANNE) == hers, "asked again, they are the same"
        assert not set(hers) & set(his), "files, weights and published paths go by these ids"


async def test_nobody_puts_his_weights_in_the_place_of_anothers(
    nats: NatsProcess, tmp_path: Path, keys_file: Path
) -> None:
    async with house(nats, tmp_path, keys_file=keys_file) as home:
        entry = await home.furnish()
        records = home.edge.records
        run = await records.get(RunRecord, "anne", home.run_id)
        await records.create("bert", home.run_id, run)  # a run of his by the name of hers
        subject = names.checkpoint_subject(BASE, "bert", home.run_id, entry.kind, entry.name)
        await home.edge.bus.append(subject, entry_event("bert", "train", entry))
        place = f"/api/v1/training_runs/{home.run_id}/checkpoints/{entry.kind}/{entry.name}"

        async def owner() -> str:
            return await home.edge.checkpoints.owner("carl", TinkerPath.parse(entry.path))

        assert (await home.ask("POST", f"{place}/publish", ANNE)).status_code == 204
        assert await owner() == "anne"
        assert (await home.ask("POST", f"{place}/publish", BERT)).status_code == 400
        assert await owner() == "anne", "whoever was first stays the owner"
        assert (await home.ask("DELETE", f"{place}/publish", BERT)).status_code == 204
        assert (await home.ask("DELETE", place, BERT)).status_code == 204
        assert await owner() == "anne", "what he withdraws or deletes is his"
        assert (await home.ask("POST", f"{place}/publish", ANNE)).status_code == 204, "said again"
        assert (await home.ask("DELETE", f"{place}/publish", ANNE)).status_code == 204
        assert await owner() == "carl"


def test_weights_in_memory_are_of_one_tenant_whatever_their_path() -> None:
    def command(tenant: str) -> SampleCommand:
        return SampleCommand.model_validate(
            {
                "tenant": tenant,
                "sampler_id": "s1:sample:0",
                "base": BASE,
                "run_id": "s1:train:0",
                "number": 0,
                "version": "tinker://s1:train:0/sampler_weights/final@3",
                "blob": blob_keys.checkpoint_key(BASE, tenant, "s1:train:0", "sampler_weights", "final@3", 1),
                "seed": 0,
                "request": {
                    "sampling_session_id": "s1:sample:0",
                    "seq_id": 0,
                    "prompt": {"chunks": []},
                    "sampling_params": {},
                },
            }
        )

    hers, his = weights_of(command("anne")), weights_of(command("bert"))
    assert hers != his and hers == weights_of(command("anne"))
    assert "anne" not in hers, "who samples from what she has published may read it in an error"


async def test_no_way_leads_around_the_quotas(nats: NatsProcess, tmp_path: Path, keys_file: Path) -> None:
    quotas = {"bert": Quota(rl_runs=1, dataset_bytes=100)}
    async with house(nats, tmp_path, keys_file=keys_file, quotas=quotas) as home:
        await home.furnish()
        await give_rows(home, "anne", "bert", size=60)

        async def post(path: str, body: dict[str, Any], again: str, key: str = BERT) -> tuple[int, str]:
            answer = await home.ask(
                "POST", f"/api/v1/{path}", key, json=body, more={"x-idempotency-key": again}
            )
            return answer.status_code, answer.text

        def refused(answer: tuple[int, str], what: str) -> bool:
            return answer[0] == 429 and f"quota {what}: the limit is" in answer[1]

        assert (await post("rl_runs", SPEC, "1"))[0] == 200
        assert refused(await post("rl_runs", SPEC, "2"), "rl_runs")
        assert (await post("rl_runs", SPEC, "1"))[0] == 200, "asked again, it is the same run"
        assert (await post("rl_runs", SPEC, "2", ANNE))[0] == 200

        derive, dedupe = "datasets/sums/versions/1/derive", {"op": "dedupe"}
        assert refused(await post(derive, dedupe, "1"), "dataset_bytes"), "60 more beside 60"
        await give_rows(home, "bert", size=40)
        assert (await post(derive, dedupe, "1"))[0] == 200
        file = {"name": "d", "format": "csv", "size_bytes": 60, "sha256": "0" * 64}
        assert (await post("datasets", file, ""))[0] == 200
        assert (await post("datasets", file, ""))[0] == 200, "announced again, it is the same file"
        assert refused(await post("datasets", file | {"sha256": "1" * 64}, ""), "dataset_bytes")
        assert refused(await post(derive, dedupe, "2"), "dataset_bytes"), "files on their way count"
        assert (await post(derive, dedupe, "1"))[0] == 200, "it was admitted before"


async def test_no_queue_takes_more_of_a_tenant_than_its_quota(
    nats: NatsProcess, tmp_path: Path, keys_file: Path
) -> None:
    async with house(nats, tmp_path, keys_file=keys_file, quotas={"*": Quota(queued=2)}) as home:
        await home.furnish()
        await give_rows(home, "anne")

        async def posted(path: str, body: dict[str, Any]) -> int:
            return (await home.ask("POST", f"/api/v1/{path}", ANNE, json=body)).status_code

        derive, dedupe = "datasets/sums/versions/1/derive", {"op": "dedupe"}
        assert [await posted(derive, dedupe) for _ in range(3)] == [200, 200, 429]
        source = "def f(completions):\n    return [1.0 for _ in completions]\n"
        function = {"name": "f", "source": source, "examples": [{"prompt": "", "completion": "x"}]}
        assert [await posted("rewards/functions", function) for _ in range(3)] == [200, 200, 429]


async def test_no_spelling_of_a_path_leads_past_the_keys(
    nats: NatsProcess, tmp_path: Path, keys_file: Path
) -> None:
    async with house(nats, tmp_path, keys_file=keys_file, host="0.0.0.0") as home:
        runs = "/api/v1/training_runs"
        for path in (
            *(
                "/docs",
                "/docs/",
                "/openapi.json",
                "/docs/oauth2-redirect",
                "/",
                "//",
                "/metrics/",
                "/activate/",
            ),
            *(
                f"{runs}/",
                f"/{runs}",
                runs.upper(),
                "/api/v1/%74raining_runs",
                "/api/v1/healthz/",
                "/api/v1/livez/x",
            ),
            *(f"/api/v1/healthz/..{runs}", "/api/v1/downloads"),
            *(
                "/api/v1/healthz;/training_runs",
                "/api/v1//downloads/x",
                "/API/V1/downloads/x",
                "/api/v1/healthz%00",
            ),
        ):
            for method in ("GET", "HEAD", "OPTIONS", "POST"):
                answer = await home.ask(method, path, None)
                assert answer.status_code in (401, 403, 404), (
                    f"{method} {path}: {answer.status_code} {answer.text}"
                )
        for path in (
            "..",
            "%2e%2e%2ftraining_runs/",
            "1%2f2%2f..%2f..%2f..%2ftraining_runs",
            "1/2/3",
            f"{9**999}/2/3",
        ):
            answer = await home.ask("GET", f"/api/v1/downloads/{path}", None)
            assert answer.status_code in (400, 401, 403, 404), f"{path}: {answer.status_code} {answer.text}"
            assert 'training_runs":' not in answer.text
        for host in ("[", "a]b", "x:y:z", "", "evil\\@x"):
            answer = await home.ask("POST", "/api/v1/downloads/1/2/3", None, more={"host": host})
            assert answer.status_code < 500, f"Host {host!r}: {answer.text}"


@pytest.mark.parametrize("kind", ["address", "one header", "headers", "trailers"])
async def test_a_request_without_an_end_is_not_listened_to(kind: str) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        body = await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": str(len(body["body"])).encode()})

    head = b"POST / HTTP/1.1\r\nhost: x\r\n"
    begin, more = {
        "address": (b"GET /", b"x" * 65536),
        "one header": (head + b"a: ", b"x" * 65536),
        "headers": (head, (b"a: " + b"x" * 1019 + b"\r\n") * 64),
        "trailers": (
            head + b"transfer-encoding: chunked\r\n\r\n0\r\n",
            (b"a: " + b"x" * 1019 + b"\r\n") * 64,
        ),
    }[kind]
    with socket.create_server(("127.0.0.1", 0)) as held:
        config = uvicorn.Config(app, http=BoundedHttp, lifespan="off", log_level="critical")
        server = uvicorn.Server(config)
        serving = asyncio.ensure_future(server.serve([held]))
        reader, writer = await asyncio.open_connection(*held.getsockname())
        whole = head + b"content-length: 8388608\r\n\r\n" + b"x" * 8388608
        writer.write(whole * 2)  # large bodies are none of it
        for _ in range(2):
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
            await reader.readuntil(b"\r\n\r\n")
            await reader.readuntil(b"\r\n0\r\n\r\n")
        writer.write(begin)
        sent = 0
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            async with asyncio.timeout(60):
                while sent < 64 * MAX_HEAD_BYTES:
                    writer.write(more)
                    await writer.drain()
                    sent += len(more)
                await reader.readexactly(2**20)
        writer.close()
        server.should_exit = True
        await serving
    assert sent < 64 * MAX_HEAD_BYTES


def test_an_empty_key_opens_nothing() -> None:
    assert Keyring([key_digest("")], None).tenant_of("") is None, "the sum of a variable that was not set"


def test_a_cache_does_not_follow_a_link_of_somebody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = tmp_path / "home"
    (mine / "papers").mkdir(parents=True)
    link = tmp_path / "cache"
    link.symlink_to(mine)
    seen = os.lstat
    monkeypatch.setattr(
        Path, "lstat", lambda path: _of_a_stranger(seen(path)) if path == link else seen(path)
    )
    with pytest.raises(PermissionError, match="somebody else"):
        BlobCache(link, 10)
    assert (mine / "papers").is_dir(), "what a cache finds beside its own, it clears away"


def _of_a_stranger(found: os.stat_result) -> os.stat_result:
    fields = list(found)
    fields[stat.ST_UID] = os.getuid() + 4242
    return os.stat_result(fields)


def test_guesses_do_not_fill_the_log_while_the_keys_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_text("[]")
    keyring = Keyring([], path)
    for spoil in (lambda: path.write_text("half a fi"), path.unlink):
        spoil()
        with capture_logs() as said:
            assert {keyring.tenant_of(f"tml-guess-{n}") for n in range(50)} == {None}
        assert [one["event"] for one in said] == ["keys.unreadable"]
    path.write_text(json.dumps([holder("anne", ANNE)]))
    assert keyring.tenant_of(ANNE) == "anne"
    found = path.stat()
    path.write_text(json.dumps([holder("anne", BERT)]))
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    assert keyring.tenant_of(ANNE) is None, "taken back, though size and date say nothing"


async def test_streams_of_facts_that_nobody_reads_are_few_and_small(
    nats: NatsProcess, tmp_path: Path, keys_file: Path
) -> None:
    async with house(nats, tmp_path, keys_file=keys_file) as home:
        edge = home.edge

        async def opened(tenant: str) -> Any:
            answer = await live_facts(edge, tenant, lambda: True)
            assert isinstance(answer, StreamingResponse)
            stream = aiter(answer.body_iterator)
            await anext(stream)
            return stream

        streams = [await opened("bert") for _ in range(MAX_LIVE)]
        with pytest.raises(QuotaExceeded, match="the limit is 100"):
            await live_facts(edge, "bert", lambda: True)
        hers = await opened("anne")
        await streams.pop().aclose()
        streams.append(await opened("bert"))
        with pytest.raises(QuotaExceeded):
            await live_facts(edge, "bert", lambda: True)

        said = asyncio.ensure_future(anext(hers))
        subject = names.fact_subject("anne", catalog.CHECKPOINT_DELETED)
        while not said.done():  # who follows is heard of by the server a moment later
            await edge.bus.append(subject, fact("anne"))
            await asyncio.wait([said], timeout=0.05)
        assert b"tinker" in said.result()
        for stream in (hers, *streams):
            await stream.aclose()
        assert edge.live.total() == 0


def fact(tenant: str) -> CloudEvent:
    return facts.make_fact(
        catalog.CHECKPOINT_DELETED,
        tenant=tenant,
        service="test",
        subject="s1",
        id="1",
        data={"path": "tinker"},
    )


async def test_a_trigger_starts_no_more_runs_than_its_tenant_may_have(
    nats: NatsProcess, tmp_path: Path, keys_file: Path
) -> None:
    async with house(nats, tmp_path, keys_file=keys_file, quotas={"*": Quota(rl_runs=0)}) as home:
        await home.furnish()
        await give_rows(home, "bert")
        wanted = {"name": "again", "on": "checkpoint.deleted", "start": SPEC}
        made = await home.ask("POST", "/api/v1/triggers", BERT, json=wanted)
        assert made.status_code == 200, made.text
        record = await home.edge.records.get(TriggerRecord, "bert", "again")
        async with Webhooks(Guard()) as webhooks:
            seen = Triggers(home.edge, create, webhooks)
            await seen.fire("bert", fire(Trigger("bert", record), fact("bert")))
        (fired,) = (await home.ask("GET", "/api/v1/triggers/again/firings", BERT)).json()["firings"]
        assert fired["outcome"] == "failed" and "quota rl_runs: the limit is 0" in fired["reason"]

"""A spec is checked against what there is, and its mistakes name their fields; nobody sees a stranger's run."""

import asyncio
import json
import uuid
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from events.bus import Bus
from events.record_store import Records
from events.records import LoraShape, ModelRecord
from rekindle.types import InvalidField
from rekindle.types.keys import EVERYONE
from rekindle.types.rl import RlRunSpec
from services.data.rl import create as create_module
from tests.data.lab import Lab, wait_until

Json = dict[str, Any]
BASE = "rl-test-model"
ROWS = [{"question": f"{n} + 1?", "answer": n + 1, "hint": None if n else "one"} for n in range(8)]


async def serve(nats_url: str, *models: ModelRecord) -> None:
    bus = await Bus.connect(nats_url, name="register")
    try:
        for model in models:
            await Records(bus).replace(EVERYONE, model.name, model)
    finally:
        await bus.close()


@pytest.fixture(scope="module")
def dataset(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Rows to learn from, for a model that nobody trains."""
    from tests.tiny_model import make_tokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    make_tokenizer().save_pretrained(folder)
    model = ModelRecord(name=BASE, source=str(folder), arch="qwen3", vocab_size=512, context_length=512)
    fixed = model.model_copy(update={"name": f"{BASE}-fixed", "trainable": False})
    asyncio.run(serve(lab.nats_url, model, fixed))
    name = f"rl-{uuid.uuid4().hex[:8]}"
    lab.upload("".join(json.dumps(row) + "\n" for row in ROWS).encode(), name)
    yield name


def spec(dataset: str, /, **changed: Any) -> Json:
    base: Json = {
        "base_model": BASE,
        "dataset": {"name": dataset},
        "prompt": "{question}",
        "grader": {"type": "numeric", "params": {"column": "answer"}},
        "steps": 3,
    }
    return {field: value for field, value in (base | changed).items() if value is not None}


def messages(content: str) -> Json:
    return {"prompt": None, "messages": [{"role": "user", "content": content}]}


UNKNOWN = {"type": "function", "params": {"name": "nobodys"}}


def graded(type_: str, **params: Any) -> Json:
    return {"grader": {"type": type_, "params": params}}


MISTAKES: list[tuple[Json, str]] = [
    ({"steps": None}, "steps: expected steps, epochs or both"),
    ({"step": 3}, "step"),
    ({"base_model": "unknown"}, "base_model: 'unknown' is not served"),
    ({"base_model": f"{BASE}-fixed"}, "base_model: 'rl-test-model-fixed' is served, but cannot be trained"),
    ({"base_model": None, "checkpoint": "tinker://x:train:0/weights/a"}, "checkpoint: "),
    ({"base_model": None, "checkpoint": "tinker://x:train:0/external_weights/a"}, "checkpoint: "),
    ({"dataset": {"name": "nowhere"}}, "dataset.name: dataset 'nowhere' does not exist"),
    ({"prompt": "{quest}"}, "prompt: version 1 of dataset"),
    ({"prompt": "{hint}"}, "prompt: column 'hint'"),
    (messages("{quest}"), "messages[0].content: version 1 of dataset"),
    ({"prompt": "{"}, "prompt: "),
    ({"grader": {"type": "numeric", "params": {"column": "result"}}}, "grader: version 1 of dataset"),
    ({"grader": UNKNOWN}, "grader.params.name: "),
    ({"grader": {"type": "regex", "params": {"pattern": "("}}}, "grader.regex.params.pattern: "),
    ({"grader": {"type": "taste"}}, "grader: "),
    (graded("json_schema", schema={"type": "thing"}), "grader.params.schema: no JSON schema: $.type"),
    (
        {
            "grader": {
                "type": "weighted",
                "params": {"graders": [{"weight": 1, **graded("json_schema", schema={"$schema": 5})}]},
            }
        },
        "grader.params.graders[0].grader.params.schema: no JSON schema",
    ),
    (
        {"evaluation": {"split": "test", **graded("json_schema", schema={"type": "thing"})}},
        "evaluation.grader.params.schema: no JSON schema",
    ),
    ({"sampling": {"max_tokens": 512}}, "sampling.max_tokens: 512, but the context"),
    ({"sampling": {"temperature": 0}}, "sampling.temperature: "),
    ({"evaluation": {"split": "test"}}, "evaluation.split: no version of"),
    ({"evaluation": {"dataset": {"name": "nowhere"}}}, "evaluation.dataset.name: dataset 'nowhere'"),
    ({"evaluation": {"split": "test", "grader": UNKNOWN}}, "evaluation.grader.params.name: "),
]


@pytest.mark.parametrize(("changed", "said"), MISTAKES, ids=[said for _, said in MISTAKES])
def test_a_mistake_in_a_spec_names_its_field(lab: Lab, dataset: str, changed: Json, said: str):
    answer = lab.http.post("rl_runs", json=spec(dataset, **changed))
    assert (answer.status_code, answer.json()["detail"][: len(said)]) == (400, said)


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"version": 7}, "dataset.version: "),
        ({"split": "train"}, "dataset.split: "),
        ({"version": 1, "split": "a"}, "dataset.split: "),
    ],
)
def test_a_version_that_is_not_there_is_a_mistake(lab: Lab, dataset: str, wanted: Json, said: str):
    answer = lab.http.post("rl_runs", json=spec(dataset, dataset={"name": dataset} | wanted))
    assert answer.status_code == 400 and answer.json()["detail"].startswith(said), answer.text


def test_what_is_open_in_a_spec_is_fixed_when_the_run_begins(lab: Lab, dataset: str):
    held_out = {"dataset": {"name": dataset}, "rows": 100}
    run = lab.http.post("rl_runs", json=spec(dataset, seed=5, evaluation=held_out)).json()
    try:
        assert (run["dataset_version"], run["phase"], run["steps"]) == (1, "running", 3)
        fixed = run["spec"]
        assert fixed["dataset"]["version"] == fixed["evaluation"]["dataset"]["version"] == 1
        assert fixed["sampling"]["seed"] == fixed["lora"]["seed"] == 5
        assert fixed["lora"]["rank"] == 32
    finally:
        delete(lab, run["id"])


@pytest.mark.parametrize("rank", [None, 8, 32])
async def test_a_rank_is_the_checkpoints_or_refused_with_both(rank: int | None):
    adapter = LoraShape(rank=8, seed=3, train_mlp=False)
    model = ModelRecord(name=BASE, source="", arch="qwen3", vocab_size=512, context_length=512)

    async def readable(*_: object) -> Any:
        return SimpleNamespace(base=BASE, lora=adapter)

    async def served(*_: object) -> ModelRecord:
        return model

    edge: Any = SimpleNamespace(
        checkpoints=SimpleNamespace(readable=readable), records=SimpleNamespace(get=served)
    )
    path = "tinker://x:train:0/weights/a"
    wanted = RlRunSpec.of(spec("sums", base_model=None, checkpoint=path, lora={"rank": rank}))
    if rank == 32:
        with pytest.raises(InvalidField) as refused:
            await create_module._weights(edge, "local", wanted)
        assert str(refused.value) == f"lora.rank: 32, but the adapter of {path} has rank 8"
    else:
        assert await create_module._weights(edge, "local", wanted) == (model, adapter)


def delete(lab: Lab, run_id: str) -> None:
    assert lab.http.delete(f"rl_runs/{run_id}").status_code == 204


def test_a_key_stands_for_one_run(lab: Lab, dataset: str):
    headers = {"X-Idempotency-Key": uuid.uuid4().hex}
    first, again = (lab.http.post("rl_runs", json=spec(dataset), headers=headers).json() for _ in range(2))
    assert first["id"] == again["id"]
    other = lab.http.post("rl_runs", json=spec(dataset, steps=4), headers=headers)
    assert other.status_code == 400 and other.json()["detail"].startswith("X-Idempotency-Key")
    delete(lab, first["id"])


def test_a_run_goes_on_with_no_other_rows_than_those_it_began_with(lab: Lab, dataset: str):
    name, headers = f"{dataset}-{uuid.uuid4().hex[:8]}", {"X-Idempotency-Key": uuid.uuid4().hex}
    for rows in (ROWS, ROWS[1:]):
        lab.upload("".join(json.dumps(row) + "\n" for row in rows).encode(), name)

    def start(version: int) -> httpx.Response:
        wanted = spec(dataset, dataset={"name": name, "version": version})
        return lab.http.post("rl_runs", json=wanted, headers=headers)

    run_id = start(1).json()["id"]
    refused = start(2)
    assert refused.status_code == 400
    assert refused.json()["detail"] == (
        f"dataset: version 2 of {name!r}, but {run_id} began with version 1 of {name!r} and goes on with no other"
    )
    lab.http.post(f"rl_runs/{run_id}/pause")
    wait_until(lambda: lab.http.get(f"rl_runs/{run_id}").json()["phase"] == "paused", "not paused")
    assert lab.http.delete(f"datasets/{name}/versions/1").status_code == 204
    refused = lab.http.post(f"rl_runs/{run_id}/resume")
    assert refused.status_code == 400
    assert refused.json()["detail"].startswith(
        f"dataset: dataset {name!r} has no version 1, but {run_id} began"
    )
    assert lab.http.get(f"rl_runs/{run_id}").json()["phase"] == "paused"
    delete(lab, run_id)


def test_a_run_that_waits_for_a_trainer_can_be_paused_resumed_and_cancelled(lab: Lab, dataset: str):
    run_id = lab.http.post("rl_runs", json=spec(dataset)).json()["id"]

    def phase() -> str:
        return str(lab.http.get(f"rl_runs/{run_id}").json()["phase"])

    for word, expected in (
        ("pause", "paused"),
        ("resume", "running"),
        ("pause", "paused"),
        ("cancel", "cancelled"),
    ):
        assert lab.http.post(f"rl_runs/{run_id}/{word}").status_code == 200
        wait_until(lambda expected=expected: phase() == expected, f"not {expected}")
    assert lab.http.post(f"rl_runs/{run_id}/pause").json()["phase"] == "cancelled"
    refused = lab.http.post(f"rl_runs/{run_id}/resume")
    assert refused.status_code == 400 and "is cancelled" in refused.json()["detail"]
    assert lab.http.get(f"rl_runs/{run_id}/metrics").json() == {"rows": [], "next": -1}
    assert run_id in [run["id"] for run in lab.http.get("rl_runs").json()["runs"]]
    delete(lab, run_id)
    assert lab.http.get(f"rl_runs/{run_id}").status_code == 404


def test_what_nobody_started_is_not_there(lab: Lab):
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/metrics"), ("POST", "/pause")):
        answer = lab.http.request(method, f"rl_runs/rl-0123456789abcdef{path}")
        assert (answer.status_code, "does not exist" in answer.text) == (404, True)
    assert lab.http.post("rl_runs/rl-0123456789abcdef/stop").status_code in (400, 404)


def test_another_tenant_sees_nothing(lab: Lab, dataset: str):
    run_id = lab.http.post("rl_runs", json=spec(dataset)).json()["id"]

    async def looked() -> tuple[int, int]:
        from events.records import RlRunRecord

        bus = await Bus.connect(lab.nats_url, name="look")
        try:
            found = [await Records(bus).all(RlRunRecord, tenant) for tenant in ("local", "stranger")]
        finally:
            await bus.close()
        return len([one for one in found[0] if one.run_id == run_id]), len(found[1])

    assert asyncio.run(looked()) == (1, 0)
    delete(lab, run_id)


def test_the_schema_of_a_spec_is_served(lab: Lab):
    schema = lab.http.get("schemas/rl_run").json()
    assert {"dataset", "grader", "algorithm", "evaluation"} <= schema["properties"].keys()

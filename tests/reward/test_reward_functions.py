"""Reward functions of users and programs on tests, through the service over HTTP."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from events import catalog
from events.bus import Bus
from events.failure import NotFound
from events.record_store import Records
from rekindle.types.rewards import FunctionInfo, RegisterResponse
from services.reward.functions import Functions
from tests.reward.rig import Rig, item, running_rig

LENGTH = "def length(completions, **columns):\n    return [float(len(one)) for one in completions]\n"
SHORTER = "def length(completions, **columns):\n    return [-float(len(one)) for one in completions]\n"
STRICT = "def strict(completions, limit):\n    return [one if one else None for one in limit]\n"
FRAGILE = "def fragile(completions):\n    return [1 / float(one) for one in completions]\n"


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with running_rig(tmp_path_factory.mktemp("functions"), replicas=1) as running:
        yield running


@pytest.fixture
def key(request: pytest.FixtureRequest) -> str:
    return str(request.node.name)


def post(rig: Rig, name: str, source: str, *examples: dict[str, Any], **more: Any) -> httpx.Response:
    body = {"name": name, "source": source, "examples": examples or [item("a")], **more}
    return rig.http.post("/rewards/functions", json=body)


def register(rig: Rig, name: str, source: str, *examples: dict[str, Any], **more: Any) -> FunctionInfo:
    answer = post(rig, name, source, *examples, **more)
    assert answer.status_code == 200, answer.text
    return RegisterResponse.model_validate_json(rig.answer(answer.json()["request_id"])).function


def function(name: str, **params: Any) -> dict[str, Any]:
    return {"type": "function", "params": {"name": name, **params}}


def score(rig: Rig, key: str, grader: dict[str, Any], *items: dict[str, Any], **more: Any) -> list[Any]:
    return list(rig.result(rig.submit(grader=grader, items=items, idempotency_key=key, **more)).scores)


def test_a_registered_function_scores(rig: Rig, key: str):
    info = register(rig, "length", LENGTH)
    assert (info.function, info.columns, info.pure) == ("length", (), False)
    found = score(rig, key, function("length"), item("abc"), item(""))
    assert [(one.outcome, one.value) for one in found] == [("scored", 3.0), ("scored", 0.0)]
    assert found[0].grader_version.startswith("function-1+")


def test_a_request_that_is_sent_again_means_the_version_that_was_newest_when_it_came_first(
    rig: Rig, key: str
):
    first = register(rig, "changing", LENGTH)
    body = {"grader": function("changing"), "items": [item("abc")]}
    early = rig.submit(**body, idempotency_key=key)
    second = register(rig, "changing", SHORTER)
    assert rig.submit(**body, idempotency_key=key) == early
    assert rig.result(early).scores[0].value == 3.0
    assert score(rig, f"{key}-2", body["grader"], item("abc"))[0].value == -3.0
    old = function("changing", version=first.version)
    assert score(rig, f"{key}-3", old, item("abc"))[0].value == 3.0
    listed = rig.http.get("/rewards/functions/changing").json()["functions"]
    assert [one["version"] for one in listed] == [second.version, first.version]


def test_to_register_the_same_again_changes_nothing_and_an_old_one_is_the_newest_again(rig: Rig):
    first = register(rig, "again", LENGTH)
    assert register(rig, "again", LENGTH) == first
    register(rig, "again", SHORTER)
    assert register(rig, "again", LENGTH, pure=True).created == first.created
    listed = rig.http.get("/rewards/functions/again").json()["functions"]
    assert [(one["version"] == first.version, one["pure"]) for one in listed] == [
        (True, True),
        (False, False),
    ]


def test_a_function_that_fails_on_an_example_is_refused(rig: Rig):
    answer = post(rig, "fragile", FRAGILE, item("1"), item("none"))
    failed = json.loads(rig.answer(answer.json()["request_id"]))
    assert failed["category"] == "user"
    assert failed["error"].startswith("examples[1]: error: ValueError: could not convert string to float")
    assert rig.http.get("/rewards/functions/fragile").status_code == 404


@pytest.mark.parametrize(
    ("name", "source", "reason"),
    [
        ("Bad Name", LENGTH, "name: "),
        ("bad", "def (", "source: not Python"),
        ("bad", "x = 1", "source: expected one public function"),
        ("bad", STRICT, "examples[0].columns: column 'limit' is missing, which function 'strict' takes"),
    ],
)
def test_what_can_be_seen_at_once_is_refused_at_once(rig: Rig, name: str, source: str, reason: str):
    answer = post(rig, name, source)
    assert answer.status_code == 400 and answer.json()["detail"].startswith(reason), answer.text


def test_a_request_for_what_is_not_there_is_refused_with_its_field(rig: Rig, key: str):
    register(rig, "strict", STRICT, item("a", limit=1))

    def refused(grader: dict[str, Any]) -> str:
        answer = rig.post(grader=grader, items=[item("a", limit=1), item("b")], idempotency_key=key)
        assert answer.status_code == 400
        return str(answer.json()["detail"])

    missing = "column 'limit' is missing, which function 'strict' takes"
    assert refused(function("strict")) == f"items[1].columns: {missing}"
    assert refused(function("other")) == "grader.params.name: function 'other' does not exist"
    assert "has no version" in refused(function("strict", version="0" * 16))
    parts = [
        {"grader": {"type": "exact_match", "params": {"column": "limit"}}, "weight": 1},
        {"grader": function("other"), "weight": 1},
    ]
    both = {"type": "weighted", "params": {"graders": parts}}
    answer = rig.post(grader=both, items=[item("a", limit="a")], idempotency_key=key)
    assert answer.json()["detail"].startswith("grader.params.graders[1].grader.params.name: ")


def test_a_function_in_a_combination_and_where_it_does_not_apply(rig: Rig, key: str):
    register(rig, "strict", STRICT, item("a", limit=1))
    parts = [
        {"grader": {"type": "exact_match"}, "weight": 1},
        {"grader": function("strict"), "weight": 10},
    ]
    both = {"type": "weighted", "params": {"graders": parts}}
    found = score(rig, key, both, item("a", limit=2, answer="a"), item("a", limit=0, answer="a"))
    assert [(one.outcome, one.value) for one in found] == [("scored", 21.0), ("scored", 1.0)]


def test_a_function_that_is_unregistered_is_gone_and_another_tenant_s_never_was(rig: Rig, key: str):
    register(rig, "gone", LENGTH)

    async def of_another() -> None:
        bus = await Bus.connect(rig.nats_url, name="test")
        try:
            functions = Functions(Records(bus))
            assert "gone" in [one.name for one in await functions.all("local")]
            assert await functions.all("another") == []
            with pytest.raises(NotFound):
                await functions.version("another", "gone", None)
            with pytest.raises(NotFound):
                await functions.remove("another", "gone")
        finally:
            await bus.close()

    asyncio.run(of_another())
    assert rig.http.delete("/rewards/functions/gone").status_code == 200
    assert rig.http.delete("/rewards/functions/gone").status_code == 404
    assert "gone" not in [one["name"] for one in rig.http.get("/rewards/functions").json()["functions"]]
    answer = rig.post(grader=function("gone"), items=[item("a")], idempotency_key=key)
    assert answer.json()["detail"] == "grader.params.name: function 'gone' does not exist"


def test_what_is_queued_for_a_function_that_is_unregistered_fails_wherever_its_source_is_remembered(rig: Rig):
    version = register(rig, "fleeting", LENGTH).version

    async def of_a_replica() -> None:
        bus = await Bus.connect(rig.nats_url, name="test")
        try:
            functions = Functions(Records(bus))
            assert (await functions.code("local", "fleeting", version)).source == LENGTH
            assert rig.http.delete("/rewards/functions/fleeting").status_code == 200
            with pytest.raises(NotFound):
                await functions.code("local", "fleeting", version)
        finally:
            await bus.close()

    asyncio.run(of_a_replica())


def test_every_exclusion_is_a_fact_and_no_other_score_is(rig: Rig, key: str):
    register(rig, "fragile", FRAGILE, item("1"))
    items = [item("2" if number % 10 else "none", sequence=f"s:{number}") for number in range(40)]
    request_id = rig.submit(grader=function("fragile"), items=items, idempotency_key=key)
    response = rig.result(request_id)
    assert response.excluded == 4
    assert [one.value for one in response.scores] == [0.5 if n % 10 else None for n in range(40)]
    facts = rig.facts(request_id, catalog.ROLLOUT_EXCLUDED)
    told = {fact["item"]: (fact["sequence_id"], fact["outcome"], fact["attempts"]) for fact in facts}
    assert told == {n: (f"s:{n}", "error", 3) for n in (0, 10, 20, 30)} and len(facts) == 4
    assert all("could not convert" in fact["reason"] for fact in facts)


def test_programs_are_scored_by_their_tests(rig: Rig, key: str):
    tests = ["assert add(1, 2) == 3", {"stdin": "", "stdout": ""}]
    good = item("```python\ndef add(a, b):\n    return a + b\n```", tests=tests)
    bad = item("import os; os._exit(0)", tests=tests[:1])
    found = score(rig, key, {"type": "python"}, good, bad)
    assert [(one.outcome, one.value) for one in found] == [("scored", 1.0), ("invalid", 0.0)]


def test_what_holds_the_code_is_told_to_people_and_to_the_metrics(rig: Rig):
    found = rig.http.get("/rewards/sandbox").json()
    layers = {layer["name"]: layer["in_force"] for layer in found["layers"]}
    assert found["refused"] is None and found["floor"] == "confined" and layers["seccomp network"] is True
    metrics = httpx.get(f"{rig.urls[0]}/metrics", trust_env=False).text
    assert 'rekindle_sandbox_layer{layer="seccomp network"} 1.0' in metrics

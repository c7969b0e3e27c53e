"""The reward service over HTTP, against a real NATS server: a gateway and two replicas as processes of their own."""

import asyncio
import json
import signal
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psutil
import pytest

from events import blob_keys, claims, ids
from events.bus import Bus
from services.reward import versions
from tests.reward.rig import Rig, item, running_rig, wait_for

ENDLESS = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT COUNT(*) FROM n"
SLOW = {"type": "sql", "params": {"rows_column": "rows", "seconds": 0.05}, "invalid_value": -1.0}
SLOW_COLUMNS = {"schema": "CREATE TABLE t (a)", "rows": []}


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with running_rig(tmp_path_factory.mktemp("reward")) as running:
        yield running


@pytest.fixture
def key(request: pytest.FixtureRequest) -> str:
    return str(request.node.name)


def test_a_batch_is_scored_in_the_order_of_its_items(rig: Rig, key: str):
    items = [item(f"it is {number}", answer=number // 2 * 2) for number in range(100)]
    request_id = rig.submit(grader={"type": "numeric"}, items=items, idempotency_key=key)
    response = rig.result(request_id)
    assert [score.value for score in response.scores] == [1.0, 0.0] * 50 and response.excluded == 0
    facts = rig.facts(request_id)
    assert sorted(fact["shard"] for fact in facts) == [1, 2, 3, 4]
    recorded = [score for fact in sorted(facts, key=lambda fact: fact["shard"]) for score in fact["scores"]]
    assert [score["sequence_id"] for score in recorded] == [one["sequence_id"] for one in items]
    assert [score["value"] for score in recorded] == [score.value for score in response.scores]


def test_what_failed_in_the_grader_is_excluded_and_is_no_number(rig: Rig, key: str):
    grader = {"type": "regex", "params": {"pattern": "(a+)+$", "column": "answer", "seconds": 0.1}}
    items = [
        item("a" * 40 + "b", answer="a"),
        item("aaa", answer="aaa"),
        item("ccc", answer="a"),
        item("a", answer=1),
    ]
    response = rig.result(rig.submit(grader=grader, items=items, idempotency_key=key))
    assert [(score.outcome, score.value, score.attempts) for score in response.scores] == [
        ("timeout", None, 3),
        ("scored", 1.0, 1),
        ("invalid", 0.0, 1),
        ("error", None, 3),
    ]
    assert response.excluded == 2


def test_a_repeated_request_has_the_same_result_and_is_scored_once(rig: Rig, key: str):
    items = [item(f"{ENDLESS} -- {number}") for number in range(3)]
    body = {"grader": SLOW, "items": items, "columns": SLOW_COLUMNS, "idempotency_key": key}
    early = [rig.submit(**body) for _ in range(3)]
    first = rig.result(early[0])
    assert set(early) == {rig.submit(**body)} and rig.result(early[0]) == first
    assert [score.outcome for score in first.scores] == ["invalid"] * 3
    assert len(rig.facts(early[0])) == 1 and rig.queued() == []


def test_a_key_that_was_used_for_another_request_is_refused(rig: Rig, key: str):
    body = {"grader": {"type": "numeric"}, "items": [item("1", answer=1)], "idempotency_key": key}
    first = rig.submit(**body)
    answer = rig.post(**{**body, "items": [item("2", answer=1)]})
    assert answer.status_code == 400
    assert answer.json()["detail"].startswith(
        "idempotency_key: was used before, for a request with other content"
    )
    assert rig.result(first).scores[0].value == 1.0


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"grader": {"type": "broken"}}, "grader: Input tag 'broken'"),
        ({"grader": {"type": "math", "params": {"colum": "x"}}}, "grader.math.params.colum: "),
        (
            {"grader": {"type": "json_schema", "params": {"schema": {"type": "x"}}}},
            "grader.params.schema: no JSON",
        ),
        ({"items": []}, "items: "),
        ({"items": [{"prompt": "", "completion": "1"}]}, "items[0].columns: column 'answer' is missing"),
        ({"idempotency_key": None}, "idempotency_key: "),
        ({"surprise": 1}, "surprise: "),
    ],
)
def test_a_wrong_request_is_refused_with_its_field(rig: Rig, key: str, change: dict[str, Any], reason: str):
    body = {"grader": {"type": "numeric"}, "items": [item("1", answer=1)], "idempotency_key": key, **change}
    answer = rig.post(**body)
    assert answer.status_code == 400 and answer.json()["detail"].startswith(reason), answer.text


def test_an_unknown_request_is_gone(rig: Rig):
    answer = rig.http.post("/retrieve_future", json={"request_id": f"{ids.score_id('never used')}:0"})
    assert answer.status_code == 410


def test_the_graders_are_listed_with_their_parameters(rig: Rig):
    listed = {grader["type"]: grader for grader in rig.http.get("/rewards/graders").json()["graders"]}
    assert listed.keys() == versions.SPECS.keys()
    assert listed["sql"]["version"] == "sql-1" and "partial" in listed["sql"]["params"]["properties"]


def test_large_shared_columns_go_through_the_blob_store(rig: Rig, key: str):
    rows = ", ".join(f"('{'x' * 90}', {number})" for number in range(9000))
    columns = {
        "schema": f"CREATE TABLE t (a, b); INSERT INTO t VALUES {rows};",
        "gold": "SELECT COUNT(*) FROM t",
    }
    assert len(json.dumps(columns)) > 512 * 1024
    grader = {"type": "sql", "params": {"query_column": "gold"}}
    items = [item("SELECT 9000"), item("SELECT 1")] * 20
    response = rig.result(rig.submit(grader=grader, items=items, columns=columns, idempotency_key=key))
    assert [score.value for score in response.scores] == [1.0, 0.0] * 20
    assert [one.name for one in (rig.folder / "nothing").iterdir()] == ["aside"], "it reached no other store"


def test_payloads_of_its_own_go_when_their_day_has_come(rig: Rig):
    day = datetime.now(UTC).date() - timedelta(days=1)
    folder = rig.folder / "reward-blobs" / blob_keys.claims_of_day("local", day, confined=True)
    folder.mkdir(parents=True)
    (folder / "payload").write_bytes(b"x")

    async def plan() -> None:
        bus = await Bus.connect(rig.nats_url, name="writer")
        await claims.plan_expiry(bus, "local", day, confined=True)
        await bus.close()

    asyncio.run(plan())
    wait_for(lambda: not folder.exists() and rig.queued() == [])


def test_two_workers_share_one_batch_and_one_that_is_killed_costs_no_item_and_doubles_none(
    rig: Rig, key: str
):
    items = [item(f"{ENDLESS} -- {number}", sequence=f"{key}:{number}") for number in range(192)]
    children = [child for replica in rig.replicas for child in psutil.Process(replica.pid).children()]
    grading = [child for child in children if "services.reward.child" in child.cmdline()]
    assert len(grading) == 2
    before = [process.cpu_times().user for process in grading]
    request_id = rig.submit(grader=SLOW, items=items, columns=SLOW_COLUMNS, idempotency_key=key)
    wait_for(lambda: all(p.cpu_times().user > b + 0.3 for p, b in zip(grading, before, strict=True)))
    assert len(rig.queued()) > 2, "the batch is under way"
    rig.replicas[0].send_signal(signal.SIGKILL)
    rig.replicas[0].wait(60)
    _, alive = psutil.wait_procs(grading[:1], timeout=60)
    assert not alive, "a grading process outlived its service"
    rig.replicas[0] = rig.start("reward", REKINDLE_GRADERS="1")[0]
    response = rig.result(request_id)
    assert [(score.outcome, score.value) for score in response.scores] == [("invalid", -1.0)] * len(items)
    facts = rig.facts(request_id)
    assert sorted(fact["shard"] for fact in facts) == list(range(1, 7))
    recorded = [score["sequence_id"] for fact in facts for score in fact["scores"]]
    assert sorted(recorded) == sorted(one["sequence_id"] for one in items)
    wait_for(lambda: rig.queued() == [])

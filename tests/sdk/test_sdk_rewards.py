"""Scores: one request a call, however often it is sent, and in the order of the items."""

from typing import Any

import httpx
import pytest

from rekindle import InvalidField, RequestFailed, ServiceClient, rewards
from rekindle.types.rewards import ExactMatch, ScoreItem
from tests.sdk.fake_server import FakeServer, always

GRADER = {"type": "exact_match", "params": {"column": "answer"}, "invalid_value": None}
ITEMS = [{"prompt": "6 * 7?", "completion": said, "columns": {"answer": "42"}} for said in ("42", "41", "")]


class RewardServer(FakeServer):
    """Scores once by key, each item by whether it says 42; an empty one times out."""

    def __init__(self) -> None:
        super().__init__()
        self.scored: dict[str, int] = {}

    def answer(self, method: str, path: str, body: Any) -> httpx.Response:
        if path == "/rewards/graders":
            info = {"type": "exact_match", "version": "exact_match-1", "params": {}}
            return httpx.Response(200, json={"graders": [info]})
        if path != "/rewards/score":
            return super().answer(method, path, body)
        key = body["idempotency_key"]
        if key not in self.scored:
            self.scored[key] = len(body["items"])
        return self.accept(f"reward:{key}", response([item["completion"] for item in body["items"]]))


def response(said: list[str]) -> dict[str, Any]:
    version: dict[str, Any] = {"grader_version": "exact_match-1+0", "seconds": 0.1, "attempts": 1}
    late = {"outcome": "timeout", "value": None, "reason": "10 s", **version}
    scores = [
        {"outcome": "scored", "value": float(text == "42"), "reason": None, **version} if text else late
        for text in said
    ]
    return {"scores": scores, "excluded": said.count("")}


@pytest.fixture
def fake() -> RewardServer:
    return RewardServer()


def test_scores_come_in_order_and_a_failed_grader_gives_no_number(
    fake: RewardServer, faked: ServiceClient
) -> None:
    found = faked.rewards.score(GRADER, ITEMS, max_excluded=0.5).result(10)
    assert [(score.outcome, score.value) for score in found.scores] == [
        ("scored", 1.0),
        ("scored", 0.0),
        ("timeout", None),
    ]
    assert found.excluded == 1
    (body,) = fake.bodies("/rewards/score")
    assert body["grader"]["invalid_value"] is None and body["items"][0]["columns"] == {"answer": "42"}


def test_typed_graders_and_items_are_the_same_as_mappings(fake: RewardServer, faked: ServiceClient) -> None:
    items = [ScoreItem(prompt="6 * 7?", completion="42", columns={"answer": "42"})]
    faked.rewards.score(ExactMatch(invalid_value=None), items, idempotency_key="a").result(10)
    faked.rewards.score(GRADER, ITEMS[:1], idempotency_key="a").result(10)
    first, second = fake.bodies("/rewards/score")
    assert first == second and fake.scored == {"a": 1}


def test_a_lost_answer_scores_nothing_twice_and_two_calls_score_twice(
    fake: RewardServer, faked: ServiceClient
) -> None:
    fake.lose["/rewards/score"] = 1
    fake.trouble["/retrieve_future"] = always(503)
    faked.rewards.score(GRADER, ITEMS[:2]).result(10)
    assert len(fake.bodies("/rewards/score")) == 2 and list(fake.scored.values()) == [2]
    faked.rewards.score(GRADER, ITEMS[:2]).result(10)
    assert len(fake.scored) == 2


def test_more_items_than_fit_go_in_parts_and_come_back_in_order(
    fake: RewardServer, faked: ServiceClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rewards, "MAX_ITEMS", 2)
    found = faked.rewards.score(GRADER, ITEMS + ITEMS, idempotency_key="k", max_excluded=None).result(10)
    assert [score.value for score in found.scores] == [1.0, 0.0, None, 1.0, 0.0, None]
    assert found.excluded == 2 and fake.scored == {"k.0": 2, "k.1": 2, "k.2": 2}


def test_items_that_are_large_go_in_several_requests(
    fake: RewardServer, faked: ServiceClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rewards, "PAGE_BYTES", 200)
    items = [{**ITEMS[0], "prompt": "?" * size} for size in (10, 500, 10, 10)]
    faked.rewards.score(GRADER, items, idempotency_key="k").result(10)
    assert fake.scored == {"k.0": 1, "k.1": 1, "k.2": 2}


@pytest.mark.parametrize(
    ("grader", "items", "field"),
    [
        ({"type": "vibes"}, ITEMS, "grader"),
        (GRADER, [], "items"),
        (GRADER, [{"prompt": "x"}], r"items\[0\].completion"),
        (GRADER, [{"prompt": "x", "completion": "y"}], "column 'answer' is missing"),
        ({"type": "regex", "params": {"pattern": "("}}, ITEMS, "pattern"),
    ],
)
def test_a_wrong_grader_or_item_is_named_at_once(
    faked: ServiceClient, grader: dict[str, Any], items: list[Any], field: str
) -> None:
    with pytest.raises(InvalidField, match=field):
        faked.rewards.score(grader, items)


def test_what_the_server_refuses_comes_out_of_the_future(fake: RewardServer, faked: ServiceClient) -> None:
    failure = {"error": "no workers", "category": "server"}
    fake.trouble["/retrieve_future"] = lambda _: httpx.Response(200, json=failure)
    with pytest.raises(RequestFailed, match="no workers"):
        faked.rewards.score(GRADER, ITEMS).result(10)


def test_graders_are_listed(faked: ServiceClient) -> None:
    assert [info.type for info in faked.rewards.graders().result(10)] == ["exact_match"]

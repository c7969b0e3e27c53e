"""Functions of one's own through the SDK, and an error instead of scores where the grader failed on too many."""

import pickle
from pathlib import Path
from typing import Any

import httpx
import pytest

from rekindle import BadRequest, InvalidField, NotFound, RequestFailed, ServiceClient, TooManyExcluded
from rekindle.types.rewards import ScoreResponse
from tests.sdk.fake_server import FakeServer

SOURCE = "def brevity(completions, **columns):\n    return [-len(one) / 100 for one in completions]\n"
ITEM = {"prompt": "Say it.", "completion": "Yes.", "columns": {}}
INFO = {
    "name": "brevity",
    "version": "0123456789abcdef",
    "function": "brevity",
    "columns": [],
    "requirements": [],
    "pure": False,
    "created": "2026-05-04T03:02:01Z",
}
SCORE: dict[str, Any] = {"grader_version": "function-1+0", "seconds": 0.1, "attempts": 1}
GOOD = {"outcome": "scored", "value": -0.04, "reason": None, **SCORE}
LATE = {"outcome": "timeout", "value": None, "reason": "took longer than 10 s", **SCORE}
GRADER = {"type": "function", "params": {"name": "brevity"}}


class FunctionServer(FakeServer):
    """Accepts every function, and scores an empty completion too late."""

    def answer(self, method: str, path: str, body: Any) -> httpx.Response:
        match method, path.split("/")[1:]:
            case "POST", ["rewards", "functions"]:
                return self.accept("register", {"function": INFO, "scores": [GOOD]})
            case "GET", ["rewards", "functions", *_]:
                return httpx.Response(200, json={"functions": [INFO]})
            case "DELETE", ["rewards", "functions", "brevity"]:
                return httpx.Response(200, json={})
            case "DELETE", ["rewards", "functions", name]:
                return httpx.Response(404, json={"detail": f"function {name!r} does not exist"})
            case "POST", ["rewards", "score"]:
                scores = [GOOD if item["completion"] else LATE for item in body["items"]]
                return self.accept(
                    body["idempotency_key"], {"scores": scores, "excluded": scores.count(LATE)}
                )
        return super().answer(method, path, body)


@pytest.fixture
def fake() -> FunctionServer:
    return FunctionServer()


def test_a_file_is_registered_under_its_name(
    fake: FunctionServer, faked: ServiceClient, tmp_path: Path
) -> None:
    file = tmp_path / "Brevity.py"
    file.write_text(SOURCE)
    for function in (file, str(file)):
        found = faked.rewards.register(function, examples=[ITEM], pure=True).result(10)
        assert found.function.version == INFO["version"] and found.scores[0].value == -0.04
        body = fake.bodies("/rewards/functions")[-1]
        assert (body["name"], body["source"], body["pure"]) == ("brevity", SOURCE, True)
        assert body["examples"] == [{**ITEM, "sequence_id": None}]


def test_a_source_needs_a_name(fake: FunctionServer, faked: ServiceClient) -> None:
    faked.rewards.register(SOURCE, "short", examples=[ITEM]).result(10)
    assert fake.bodies("/rewards/functions")[-1]["name"] == "short"
    with pytest.raises(InvalidField, match="name"):
        faked.rewards.register(SOURCE, examples=[ITEM])


@pytest.mark.parametrize(
    ("name", "examples", "field"),
    [("No Name", [ITEM], "name"), ("short", [], "examples"), ("short", [{"prompt": ""}], r"examples\[0\]")],
)
def test_what_no_server_would_take_is_named_at_once(
    faked: ServiceClient, name: str, examples: list[Any], field: str
) -> None:
    with pytest.raises(InvalidField, match=field):
        faked.rewards.register(SOURCE, name, examples=examples)


def test_why_a_function_is_refused_comes_out_of_the_future(
    fake: FunctionServer, faked: ServiceClient
) -> None:
    failure = {"error": "examples[0]: error: KeyError: 'limit' (line 2)", "category": "user"}
    fake.trouble["/retrieve_future"] = lambda _: httpx.Response(200, json=failure)
    with pytest.raises(RequestFailed, match=r"examples\[0\]: error: KeyError"):
        faked.rewards.register(SOURCE, "short", examples=[ITEM]).result(10)
    fake.trouble["/rewards/functions"] = lambda _: httpx.Response(400, json={"detail": "source: not Python"})
    with pytest.raises(BadRequest, match="source: not Python"):
        faked.rewards.register("def (", "short", examples=[ITEM]).result(10)


def test_functions_are_listed_and_forgotten(faked: ServiceClient) -> None:
    assert [one.name for one in faked.rewards.functions().result(10)] == ["brevity"]
    assert [one.version for one in faked.rewards.functions("brevity").result(10)] == [INFO["version"]]
    faked.rewards.unregister("brevity").result(10)
    with pytest.raises(NotFound, match="'other' does not exist"):
        faked.rewards.unregister("other").result(10)


def items(good: int, late: int) -> list[dict[str, Any]]:
    return [ITEM] * good + [{**ITEM, "completion": ""}] * late


def test_more_exclusions_than_one_bears_are_an_error_that_holds_the_scores(faked: ServiceClient) -> None:
    with pytest.raises(
        TooManyExcluded, match=r"2 of 7 items excluded, more than 25%.*longer than 10 s"
    ) as told:
        faked.rewards.score(GRADER, items(5, 2)).result(10)
    assert [one.value for one in told.value.response.scores if not one.excluded] == [-0.04] * 5
    assert told.value.category == "server"


@pytest.mark.parametrize(
    ("good", "late", "share"),
    [(3, 1, 0.25), (9, 1, 0.1), (71, 29, 0.29), (0, 2, None), (0, 2, 1.0), (2, 0, 0.0)],
)
def test_up_to_the_share_that_one_bears_there_are_scores(
    faked: ServiceClient, good: int, late: int, share: float | None
) -> None:
    found = faked.rewards.score(GRADER, items(good, late), max_excluded=share).result(10)
    assert found.excluded == late


def test_a_share_is_from_0_to_1(faked: ServiceClient) -> None:
    with pytest.raises(InvalidField, match="max_excluded"):
        faked.rewards.score(GRADER, [ITEM], max_excluded=25)


def test_the_error_survives_pickling_with_its_scores() -> None:
    error = TooManyExcluded(ScoreResponse.model_validate({"scores": [LATE], "excluded": 1}), 0.1)
    copy = pickle.loads(pickle.dumps(error))
    assert str(copy) == str(error) and copy.response == error.response and copy.max_excluded == 0.1

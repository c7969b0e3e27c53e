"""A service of the user's scores, and what it says that is no number never is one."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent

from events.outside import Guard
from rekindle.types import rewards
from rekindle.types.rewards import Score, ScoreItem
from services.reward import runner
from services.reward.outside.client import Client
from services.reward.outside.keys import Keys
from services.reward.outside.remote import RemoteRunner
from tests.reward.outside.http_server import Answer, Asked, Server, answer, server

__all__ = ["server"]

ITEMS = [
    ScoreItem(prompt="p", completion="a", columns={"answer": 1}),
    ScoreItem(prompt="p", completion="bb", columns={"level": "x"}),
    ScoreItem(prompt="q", completion="ccc"),
]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(runner, "BACKOFF", 0.001)


@pytest.fixture
async def remote() -> AsyncIterator[RemoteRunner]:
    async with Client(Guard(["127.0.0.0/8"]), Keys({}, {}), calls=8) as client:
        yield RemoteRunner(client)


async def score(remote: RemoteRunner, url: str, **params: Any) -> list[Score]:
    spec = rewards.Remote(params=rewards.RemoteParams(url=url, **params))
    return await remote.score("local", spec, ITEMS, {"shared": 7})


def outcomes(scores: list[Score]) -> list[tuple[str, float | None, int]]:
    return [(one.outcome, one.value, one.attempts) for one in scores]


async def by_length(asked: Asked) -> Answer:
    return answer({"rewards": [len(text) / 2 for text in asked.json["completions"]]})


async def test_items_go_in_lists_and_numbers_come_back(remote: RemoteRunner, server: Server):
    server.handler = by_length
    scores = await score(remote, server.url)
    assert outcomes(scores) == [("scored", 0.5, 1), ("scored", 1.0, 1), ("scored", 1.5, 1)]
    assert scores[0].grader_version.startswith("remote-1+")
    (asked,) = server.asked
    assert asked.json == {
        "prompts": ["p", "p", "q"],
        "completions": ["a", "bb", "ccc"],
        "columns": {"shared": [7, 7, 7], "answer": [1, None, None], "level": [None, "x", None]},
    }
    assert asked.headers["content-type"] == "application/json"


async def test_null_does_not_apply_and_what_is_no_number_is_asked_again_alone(
    remote: RemoteRunner, server: Server
):
    server.says(
        answer(b'{"rewards": [null, NaN, 2]}'),
        answer(b'{"rewards": ["0.5"]}'),
        answer(b'{"rewards": [true]}'),
    )
    scores = await score(remote, server.url)
    assert outcomes(scores) == [("invalid", None, 1), ("error", None, 3), ("scored", 2.0, 1)]
    assert (scores[0].reason, scores[1].reason) == ("does not apply", "a bool is not a reward")
    assert [asked.json["completions"] for asked in server.asked] == [["a", "bb", "ccc"], ["bb"], ["bb"]]


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (answer({"rewards": [1, 2]}), "2 rewards for 3 items"),
        (answer({"rewards": {"a": 1}}), "no list of rewards"),
        (answer([1, 2, 3]), "no list of rewards"),
        (answer(b""), "not JSON"),
        (answer(b"[" * 100_000), "not JSON"),
        (answer({"rewards": [1e999, -1e999, 10**400]}), "not finite"),
        (answer({"rewards": [1e308, -1e300, 10**308]}), "not below 1e+300"),  # a weight may be 1e6
        (answer({"rewards": [[1], {}, ""]}), "is not a reward"),
        (answer(status=500), "HTTP 500"),
    ],
)
async def test_a_bad_answer_is_an_error_of_every_item_and_tried_again(
    remote: RemoteRunner, server: Server, said: bytes, reason: str
):
    server.says(said)
    scores = await score(remote, server.url)
    assert outcomes(scores) == [("error", None, 3)] * 3 and len(server.asked) == 3
    assert all(reason in (one.reason or "") for one in scores)


async def test_a_service_that_fails_first_is_asked_again_with_the_same_key(
    remote: RemoteRunner, server: Server
):
    server.says(answer(status=500), b"", answer({"rewards": [1, 2, 3]}))
    scores = await score(remote, server.url)
    assert outcomes(scores) == [("scored", 1.0, 3), ("scored", 2.0, 3), ("scored", 3.0, 3)]
    assert len({asked.headers["idempotency-key"] for asked in server.asked}) == 1
    assert len({asked.body for asked in server.asked}) == 1 and len(server.asked) == 3


@pytest.mark.parametrize("status", [301, 400, 401, 403, 404, 422])
async def test_a_refusal_is_final(remote: RemoteRunner, server: Server, status: int):
    server.says(answer(status=status, location=server.url))
    assert outcomes(await score(remote, server.url)) == [("error", None, 1)] * 3
    assert len(server.asked) == 1


async def test_silence_is_a_timeout(remote: RemoteRunner, server: Server):
    async def silent(_: Asked) -> bytes:
        await asyncio.Event().wait()
        raise AssertionError

    server.handler = silent
    assert outcomes(await score(remote, server.url, seconds=0.1)) == [("timeout", None, 3)] * 3


async def test_an_address_that_is_not_public_is_an_error_at_once(remote: RemoteRunner):
    scores = await score(remote, "http://169.254.169.254/latest/meta-data")
    assert outcomes(scores) == [("error", None, 1)] * 3 and "not public" in (scores[0].reason or "")


@pytest.mark.parametrize("structured", [True, False])
async def test_a_cloudevents_sink_answers_with_an_event(
    remote: RemoteRunner, server: Server, structured: bool
):
    async def sink(asked: Asked) -> Answer:
        event = JSONFormat().read(CloudEvent, asked.body)
        assert (event.get_type(), event.get_source()) == (
            "dev.rekindle.reward.requested",
            "/rekindle/local/reward",
        )
        assert event.get_id() == asked.headers["idempotency-key"]
        found = {"rewards": [float(len(text)) for text in event.get_data()["completions"]]}
        if structured:
            said = CloudEvent({"id": "1", "source": "/s", "type": "scored"}, found)
            return answer(JSONFormat().write(said), content_type="application/cloudevents+json")
        return answer(
            json.dumps(found).encode(), ce_specversion="1.0", ce_id="1", ce_source="/s", ce_type="scored"
        )

    server.handler = sink
    scores = await score(remote, server.url, mode="cloudevents")
    assert outcomes(scores) == [("scored", 1.0, 1), ("scored", 2.0, 1), ("scored", 3.0, 1)]
    assert server.asked[0].headers["content-type"] == "application/cloudevents+json"


@pytest.mark.parametrize(
    "said", [answer(b"", status=202), answer({"rewards": [1, 2, 3]}), answer(b"{}", ce_specversion="1.0")]
)
async def test_an_answer_that_is_no_event_is_an_error(remote: RemoteRunner, server: Server, said: bytes):
    server.says(said)
    scores = await score(remote, server.url, mode="cloudevents")
    assert outcomes(scores) == [("error", None, 3)] * 3
    assert "CloudEvent" in (scores[0].reason or "")


@pytest.mark.parametrize(
    "url",
    [
        "ftp://x.example/",
        "http://",
        "http:///path",
        "http://user:password@x.example/",
        "http://x.example:99999/",
        "http://x.example:port/",
        "http://x.example/a b",
        "http://x.example\\@127.0.0.1/",
        "http://x.example/\r\nHost: y",
        "http://bücher.example/",
        "http://x.example/#part",
        "http://[::1/",
    ],
)
def test_what_is_no_plain_url_is_refused_at_once(url: str):
    with pytest.raises(ValueError, match="url"):
        rewards.RemoteParams(url=url)

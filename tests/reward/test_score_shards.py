"""How a request is cut, and joined when a part of it is lost for good."""

from events.failure import Failure
from events.scoring import MAX_COPIED_BYTES, SHARD_ITEMS, cut
from rekindle.types.rewards import MAX_ITEMS, Numeric, Score, ScoreItem, ScoreRequest
from services.reward import versions
from services.reward.worker import LIST, whole


def request(count: int, **columns: str) -> ScoreRequest:
    items = [ScoreItem(prompt="", completion=str(number)) for number in range(count)]
    return ScoreRequest(
        grader=Numeric(), items=tuple(items), columns={"answer": 1, **columns}, idempotency_key="k"
    )


def test_every_item_is_in_one_shard_in_its_order():
    for count in (1, SHARD_ITEMS, SHARD_ITEMS + 1, 100, MAX_ITEMS):
        asked = request(count)
        shards = cut(asked)
        assert tuple(item for shard in shards for item in shard.items) == asked.items
        assert [len(shard.items) for shard in shards] == list(shards[0].sizes)
        assert max(shards[0].sizes) <= SHARD_ITEMS


def test_large_shared_columns_make_fewer_shards():
    asked = request(MAX_ITEMS, schema="x" * 2**22)
    shards = cut(asked)
    assert 1 < len(shards) * 2**22 <= MAX_COPIED_BYTES
    assert tuple(item for shard in shards for item in shard.items) == asked.items


def test_a_shard_that_was_given_up_is_errors_and_no_zeros():
    shard = cut(request(SHARD_ITEMS + 2))[0]
    good = Score(
        outcome="scored",
        value=1.0,
        grader_version=versions.version(shard.grader),
        seconds=0.1,
        attempts=1,
    )
    lost = Failure(message="5 workers died over this command", category="server")
    response = whole(shard, [lost, LIST.dump_json([good, good])])
    assert response.excluded == SHARD_ITEMS and len(response.scores) == SHARD_ITEMS + 2
    assert {(one.outcome, one.value, one.reason) for one in response.scores[:SHARD_ITEMS]} == {
        ("error", None, "5 workers died over this command")
    }
    assert response.scores[SHARD_ITEMS:] == (good, good)

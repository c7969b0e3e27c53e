"""Datasets and rewards through the SDK, on the real stack."""

import asyncio
from pathlib import Path

import httpx
import pytest

from rekindle import InvalidField, NotFound, RequestFailed, ServiceClient

WAIT = 120.0
ROWS = [{"n": number, "level": number % 5, "text": f"row {number % 40}"} for number in range(2500)]


def test_rows_go_up_come_back_and_become_new_versions(rekindled: ServiceClient, tmp_path: Path) -> None:
    datasets, name = rekindled.datasets, "sdk/rows"
    made = datasets.upload(ROWS, name, description="counting").result(WAIT)
    assert (made.name, made.version, made.rows) == (name, 1, len(ROWS))
    assert {column.name: column.type for column in made.columns} == {
        "n": "int",
        "level": "int",
        "text": "string",
    }
    assert datasets.get(name).result(WAIT) == made
    assert name in [found.name for found in datasets.list().result(WAIT)]

    assert list(datasets.rows(name)) == ROWS
    assert datasets.preview(name, rows=3).result(WAIT) == ROWS[:3]

    high = datasets.filter(name, [("level", ">=", 3), ("text", "contains", "1")]).result(WAIT)
    expected = [row for row in ROWS if row["level"] >= 3 and "1" in str(row["text"])]
    assert list(datasets.rows(name, high.version)) == expected and high.parent == 1
    unique = datasets.dedupe(name, ["text"], version=1).result(WAIT)
    assert unique.rows == 40
    parts = datasets.split(name, {"train": 0.8, "test": 0.2}, version=1).result(WAIT)
    rows = [list(datasets.rows(name, part.version)) for part in (parts["train"], parts["test"])]
    assert sorted(row["n"] for part in rows for row in part) == list(range(len(ROWS)))
    assert [found.version for found in datasets.versions(name).result(WAIT)] == [5, 4, 3, 2, 1]

    file = datasets.download(name, tmp_path / "rows.parquet", version=1).result(WAIT)
    again = datasets.upload(file, "sdk/again").result(WAIT)
    assert again.sha256 == made.sha256 and again.format == "parquet"

    datasets.delete(name, 2).result(WAIT)
    with pytest.raises(NotFound):
        datasets.get(name, 2).result(WAIT)
    datasets.delete(name).result(WAIT)
    with pytest.raises(NotFound):
        list(datasets.rows(name))


def test_a_derivation_that_is_sent_again_is_made_once(rekindled: ServiceClient) -> None:
    rekindled.datasets.upload(ROWS[:9], "sdk/once").result(WAIT)
    url = f"{rekindled.base_url}/api/v1/datasets/sdk/once/versions/1/derive"
    options = {"json": {"op": "dedupe", "columns": ["level"]}, "headers": {"X-Idempotency-Key": "sdk-once"}}
    ids = {httpx.post(url, trust_env=False, **options).json()["request_id"] for _ in range(3)}  # type: ignore[arg-type]
    other = httpx.post(url, trust_env=False, json=options["json"]).json()["request_id"]
    assert len(ids) == 1 and other not in ids


def test_a_broken_file_is_refused_with_the_row(rekindled: ServiceClient, tmp_path: Path) -> None:
    path = tmp_path / "broken.jsonl"
    path.write_text('{"a": 1}\n{"a": \n')
    with pytest.raises(RequestFailed, match="2") as failed:
        rekindled.datasets.upload(path, "sdk/broken").result(WAIT)
    assert failed.value.category == "user"
    with pytest.raises(NotFound):
        rekindled.datasets.get("sdk/broken").result(WAIT)


def test_rows_are_read_in_an_asynchronous_loop(rekindled: ServiceClient) -> None:
    async def use() -> list[object]:
        await rekindled.datasets.upload(ROWS[:30], "sdk/async")
        return [row["n"] async for row in rekindled.datasets.rows("sdk/async", limit=7)]

    assert asyncio.run(use()) == list(range(7))


def test_completions_are_scored_in_order(rekindled: ServiceClient) -> None:
    said = ["The answer is 42.", "41", "no idea"]
    items = [{"prompt": "6 * 7?", "completion": text, "columns": {"answer": 42}} for text in said]
    found = rekindled.rewards.score({"type": "numeric", "invalid_value": -1.0}, items).result(WAIT)
    assert [(score.outcome, score.value) for score in found.scores] == [
        ("scored", 1.0),
        ("scored", 0.0),
        ("invalid", -1.0),
    ]
    assert found.excluded == 0 and found.scores[2].reason
    assert "sql" in [info.type for info in rekindled.rewards.graders().result(WAIT)]


def test_a_key_stands_for_one_request(rekindled: ServiceClient) -> None:
    item = {"prompt": "", "completion": "yes", "columns": {"answer": "yes"}}
    grader = {"type": "exact_match"}
    first = rekindled.rewards.score(grader, [item], idempotency_key="sdk-once").result(WAIT)
    assert rekindled.rewards.score(grader, [item], idempotency_key="sdk-once").result(WAIT) == first
    with pytest.raises(Exception, match="idempotency_key"):
        rekindled.rewards.score(grader, [item, item], idempotency_key="sdk-once").result(WAIT)
    with pytest.raises(InvalidField, match="column 'answer' is missing"):
        rekindled.rewards.score(grader, [{"prompt": "", "completion": ""}])

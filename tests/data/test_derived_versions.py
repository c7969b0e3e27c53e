"""Versions from versions and from a run's rollouts, over HTTP."""

import asyncio
import uuid
from datetime import UTC, datetime
from typing import Any

import pytest

from events import catalog, claims, facts
from events.blobs import FolderBlobs
from events.bus import Bus
from events.record_store import Records
from events.records import LoraShape, RunRecord
from events.streams import FACT_DAYS, FACTS
from tests.data.files import ROWS, jsonl
from tests.data.lab import Failed, Json, Lab

MANY = [{"n": n, "kind": f"k{n % 7}", "even": n % 2 == 0} for n in range(5000)]


def test_a_filter_gives_the_next_version_and_again_the_same(lab: Lab, name: str) -> None:
    lab.upload(jsonl(MANY), name)
    where = [
        {"column": "even", "op": "==", "value": True},
        {"column": "kind", "op": "in", "value": ["k0", "k3"]},
    ]
    found = lab.derive(name, 1, op="filter", where=where)
    assert (found["version"], found["parent"], found["format"]) == (2, 1, None)
    assert found["how"] == {"op": "filter", "where": where}
    kept = [row for row in MANY if row["even"] and row["kind"] in ("k0", "k3")]
    assert lab.rows(name, 2) == kept and found["rows"] == len(kept)
    assert lab.derive(name, 1, op="filter", where=where) == found
    assert lab.derive(name, "latest", op="filter", where=where)["version"] == 3  # of another parent


def test_a_split_gives_a_version_for_each_part(lab: Lab, name: str) -> None:
    lab.upload(jsonl(MANY), name)
    before = lab.at_rest()[0]
    split = {"op": "split", "parts": {"train": 0.75, "test": 0.25}, "seed": 3}
    found = lab.derive(name, 1, **split)["versions"]
    assert [(one["version"], one["split"], one["parent"]) for one in found] == [
        (2, "train", 1),
        (3, "test", 1),
    ]
    rows = lab.rows(name, 2) + lab.rows(name, 3)
    assert sorted(rows, key=lambda row: row["n"]) == MANY
    assert lab.derive(name, 1, **split)["versions"] == found
    assert len(lab.at_rest()[0]) == len(before) + 4


def test_a_split_of_which_a_part_was_deleted_is_made_anew_once(lab: Lab, name: str) -> None:
    lab.upload(jsonl(MANY), name)
    split = {"op": "split", "parts": {"a": 0.5, "b": 0.5}}
    lab.derive(name, 1, **split)
    assert lab.http.delete(f"datasets/{name}/versions/2").status_code == 204
    for _ in range(2):
        assert [one["version"] for one in lab.derive(name, 1, **split)["versions"]] == [4, 5]


def test_duplicates_go(lab: Lab, name: str) -> None:
    lab.upload(jsonl(ROWS + ROWS), name)
    assert lab.derive(name, "latest", op="dedupe")["rows"] == 3
    assert lab.rows(name) == ROWS
    assert lab.derive(name, 1, op="dedupe", columns=["ok"])["how"] == {"op": "dedupe", "columns": ["ok"]}


@pytest.mark.parametrize(
    ("derivation", "said"),
    [
        ({"op": "dedupe", "columns": ["no"]}, "user: columns[0]: no column 'no'"),
        ({"op": "filter", "where": [{"column": "n", "op": ">", "value": "x"}]}, "user: where[0].value: 'x' cannot"),
        ({"op": "filter", "where": [{"column": "n", "op": ">", "value": 9999}]}, "user: where: the version would"),
    ],
)  # fmt: skip
def test_a_derivation_that_does_not_fit_leaves_nothing(
    lab: Lab, name: str, derivation: Json, said: str
) -> None:
    lab.upload(jsonl(MANY), name)
    before = lab.at_rest()
    with pytest.raises(Failed) as raised:
        lab.derive(name, 1, **derivation)
    assert str(raised.value).startswith(said)
    lab.settled(before)


def test_derivations_that_are_none_are_refused_at_once(lab: Lab, name: str) -> None:
    lab.upload(jsonl(ROWS), name)
    route = f"datasets/{name}/versions/1/derive"
    assert lab.http.post(route, json={"op": "sort"}).status_code == 400
    assert lab.http.post(route, json={"op": "split", "parts": {"a": 1}}).status_code == 400
    assert lab.http.post(f"datasets/{name}/versions/9/derive", json={"op": "dedupe"}).status_code == 404


def test_what_was_derived_before_is_made_again_once_it_is_deleted(lab: Lab, name: str) -> None:
    lab.upload(jsonl(ROWS + ROWS), name)
    assert lab.derive(name, 1, op="dedupe")["version"] == 2
    assert lab.http.delete(f"datasets/{name}/versions/2").status_code == 204
    assert lab.derive(name, 1, op="dedupe")["version"] == 3


# Rollouts


class Run:
    """A training run whose facts a test writes as the sampler and the graders do."""

    def __init__(self, lab: Lab) -> None:
        self.id = f"{uuid.uuid4().hex[:8]}:train:0"
        self._lab = lab
        self._said: list[tuple[str, str, Json]] = []

    def sampled(self, number: int, tokens: list[list[int]], run: str | None = None, prompt: int = 2) -> None:
        sequences = [
            {
                "sequence_id": f"{self.id}/s:{number}:{i}",
                "tokens": one,
                "logprobs": [-0.5] * len(one),
                "stop_reason": "stop",
            }
            for i, one in enumerate(tokens)
        ]
        self._said.append((catalog.ROLLOUT_COMPLETED, run or self.id, {
            "run": run or self.id, "sampler": "s", "number": number, "version": f"v{number}",
            "prompt_tokens": list(range(prompt)), "sequences": sequences,
        }))  # fmt: skip

    def scored(self, number: int, sequence: int, outcome: str, value: float | None) -> None:
        score = {
            "sequence_id": f"{self.id}/s:{number}:{sequence}", "outcome": outcome, "value": value,
            "reason": None if outcome == "scored" else "it raised", "grader_version": "exact@1",
            "seconds": 0.1, "attempts": 1,
        }  # fmt: skip
        self._said.append(
            (catalog.ROLLOUT_SCORED, "score:1", {"request": "score:1", "shard": 1, "scores": [score]})
        )

    def publish(self) -> None:
        asyncio.run(self._publish())

    async def _publish(self) -> None:
        bus = await Bus.connect(self._lab.nats_url, name="test")
        blobs = FolderBlobs(self._lab.blobs)
        shape = LoraShape(rank=2, seed=1)
        record = RunRecord(run_id=self.id, session_id="s", base="b", lora=shape, created=datetime.now(UTC))
        try:
            await Records(bus).create("local", self.id, record)
            for type_, subject, said in self._said:
                fact = facts.make_fact(
                    type_, tenant="local", service="test", subject=subject, id=uuid.uuid4().hex, data=said
                )
                await facts.publish(
                    bus, "local", await claims.lend(bus, blobs, "local", fact, FACT_DAYS, on="facts.t")
                )
            assert await bus.subjects(FACTS, "facts.>")
        finally:
            await bus.close()
        self._said = []

    def export(self, name: str) -> Json:
        answer = self._lab.http.post(f"training_runs/{self.id}/rollouts", json={"name": name})
        assert answer.status_code == 200, answer.text
        return self._lab.result(answer.json()["request_id"])


def test_rollouts_of_a_run_become_rows_with_their_scores(lab: Lab, name: str) -> None:
    run = Run(lab)
    run.sampled(0, [[1, 2], [3]])
    run.sampled(1, [[4]], run="another:train:0")
    run.sampled(0, [[1, 2], [3]])  # said twice
    run.sampled(2, [[5]], prompt=200_000)  # too large for an event
    run.scored(0, 0, "scored", 0.25)
    run.scored(0, 0, "scored", 1.0)
    run.scored(0, 1, "error", None)
    run.publish()
    version = run.export(name)
    assert (version["rows"], version["how"]) == (3, {"op": "rollouts", "run_id": run.id})
    first, second, third = lab.rows(name)
    assert first == {
        "run": run.id,
        "sampler": "s",
        "version": "v0",
        "prompt_tokens": [0, 1],
        "sequence_id": f"{run.id}/s:0:0",
        "tokens": [1, 2],
        "logprobs": [-0.5, -0.5],
        "stop_reason": "stop",
        "outcome": "scored",
        "value": 1.0,
        "reason": None,
        "grader_version": "exact@1",
    }
    assert (second["outcome"], second["value"], second["reason"]) == ("error", None, "it raised")
    assert (third["outcome"], len(third["prompt_tokens"])) == (None, 200_000)
    assert run.export(name) == version


def test_an_export_sent_again_is_the_same_export_whatever_came_since(lab: Lab, name: str) -> None:
    run = Run(lab)
    run.sampled(0, [[1]])
    run.publish()
    body, key = {"name": name}, {"X-Idempotency-Key": uuid.uuid4().hex}
    route = f"training_runs/{run.id}/rollouts"
    first = lab.http.post(route, json=body, headers=key).json()["request_id"]
    version = lab.result(first)
    lab.at_rest()
    run.sampled(1, [[2]])
    run.publish()
    assert lab.http.post(route, json=body, headers=key).json()["request_id"] == first
    lab.at_rest()
    assert lab.http.get(f"datasets/{name}").json()["versions"] == [version]
    assert run.export(name)["rows"] == 2


def test_a_run_that_sampled_nothing_has_no_rollouts(lab: Lab, name: str) -> None:
    run = Run(lab)
    run.publish()
    before = lab.at_rest()
    with pytest.raises(Failed, match=r"user: run .* has sampled nothing"):
        run.export(name)
    lab.settled(before)


@pytest.mark.parametrize(("body", "status"), [({"name": "../x"}, 400), ({}, 400), ({"name": "a"}, 404)])
def test_exports_of_no_run_are_refused(lab: Lab, body: Json, status: int) -> None:
    answer: Any = lab.http.post("training_runs/none:train:9/rollouts", json=body)
    assert answer.status_code == status

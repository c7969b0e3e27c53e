"""Runs that no client drives: they learn, and whoever dies, nothing changes."""

import asyncio
import json
import signal
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from events import catalog, envelope, names, trace
from events.bus import Bus
from events.streams import FACTS, RECORDS, RESULTS
from services.data.rl import ids
from tests.data.lab import wait_until
from tests.data.rl.rl_rig import BASE, QUESTIONS, Rig, opened, spec
from tests.events.collector import Collector, Seen, collecting

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


STEP = {
    ("data", "rl.step"),
    ("data", "rl.sample"),
    ("sample", "sample.generate"),
    ("data", "rl.score"),
    ("reward", "reward.score"),
    ("data", "rl.train"),
    ("train", "train.pass"),
    ("train", "train.forward_backward"),
    ("train", "train.optim_step"),
    ("data", "rl.publish"),
    ("train", "train.save_weights_for_sampler"),
    ("train", "train.save"),
}
"""Services and what they do in every step."""


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    """Where the services' spans go."""
    with collecting() as found:
        yield found


@pytest.fixture(scope="module")
def rig(
    tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory, collector: Collector
) -> Iterator[Rig]:
    told = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "200"}
    with opened(tmp_path_factory.mktemp("rl"), tiny_model_dir, **told) as running:
        yield running


@pytest.fixture(scope="module")
def dataset(rig: Rig) -> str:
    return rig.dataset()


@pytest.fixture(scope="module")
def undisturbed(rig: Rig, dataset: str) -> str:
    """A run that nothing happens to."""
    run = rig.start(spec(dataset, evaluation={"every": 5, "dataset": {"name": dataset}, "rows": 8}))
    assert rig.until_over(run["id"])["phase"] == "completed"
    return str(run["id"])


def test_a_run_learns_and_says_how(rig: Rig, undisturbed: str):
    info, rows = rig.info(undisturbed), rig.rows_of(undisturbed)
    assert (info["step"], info["version"], info["cursor"]) == (5, 5, 20)
    assert info["checkpoint"].endswith("/weights/step-000005")
    assert [row["step"] for row in rows] == [0, 1, 2, 3, 4, None]
    assert rows[4]["reward"] > rows[0]["reward"]
    measured = [tuple(one) for row in rows for one in row["evaluations"]]
    assert [version for version, _ in measured] == [0, 5]
    assert measured[1][1] >= measured[0][1]
    for row in rows[:5]:
        assert row["ratio"] == pytest.approx(1.0, abs=1e-4)
        assert row["tokens_sampled"] <= 4 * 8 * 2
        assert row["staleness"] == 0


def test_a_step_is_one_trace_across_services(rig: Rig, collector: Collector, undisturbed: str):
    def of_step(spans: list[Seen], step: int) -> list[Seen]:
        id = trace.trace_id(ids.step_trace(undisturbed, step))
        return [span for span in spans if span.trace == id]

    def is_whole(spans: list[Seen], step: int) -> bool:
        found = of_step(spans, step)
        parents = {span.parent for span in found if span.name != "rl.step"}
        return {(span.service, span.name) for span in found} >= STEP and parents <= {
            span.id for span in found
        }

    spans = collector.until(lambda spans: all(is_whole(spans, step) for step in range(5)))
    for step in range(5):
        found = of_step(spans, step)
        (root,) = (span for span in found if not span.parent)
        assert root.name == "rl.step" and root.about["rekindle.step"] == step
        assert f"{root.trace}-{root.id}" == ids.step_trace(undisturbed, step)[3:52]
        assert root.seconds >= max(span.seconds for span in found if span.name == "rl.sample")
        assert len([span for span in found if span.name == "sample.generate"]) >= 4


def test_what_a_run_takes_is_counted(rig: Rig, undisturbed: str):
    rows = rig.rows_of(undisturbed)[:5]
    assert rig.counted("data", "rekindle_rl_steps_total") >= 5
    assert rig.counted("data", "rekindle_rl_staleness_steps_count") >= 5
    assert rig.counted("sample", "rekindle_sampled_tokens_total") >= sum(
        row["tokens_sampled"] for row in rows
    )
    assert rig.counted("sample", "rekindle_adapters_loaded_total") >= 5
    assert rig.counted("reward", "rekindle_scores_total") >= 5 * 4 * 8
    assert rig.counted("train", "rekindle_trained_tokens_total") > 0
    assert rig.counted("train", "rekindle_pass_runs_count") >= 5
    for kind in ("sample", "reward", "train"):
        commands = rig.counted(kind, "rekindle_commands_total")
        assert 0 < commands <= rig.counted(kind, "rekindle_command_seconds_count"), kind
    assert commands >= 1 + 6 + 2 * 5  # create, publish, and two for each step
    assert rig.counted("gateway", "rekindle_http_answers_total") >= 2


def test_killing_the_service_that_drives_it_changes_nothing(rig: Rig, dataset: str, undisturbed: str):
    run_id = rig.start(spec(dataset))["id"]
    for row in (-1, 0, 1, 3):
        rig.until(
            run_id, lambda info, row=row: info["step"] > row or (info["version"] is not None and row < 0)
        )
        rig.data.end(signal.SIGKILL)
        rig.data.start()
    assert rig.until_over(run_id)["phase"] == "completed"
    assert rig.info(run_id)["cursor"] == rig.info(undisturbed)["cursor"]
    assert [row["reward"] for row in rig.rows_of(run_id)[:5]] == [
        row["reward"] for row in rig.rows_of(undisturbed)[:5]
    ]
    assert rig.adapter(run_id) == rig.adapter(undisturbed)


def test_a_paused_run_needs_nobody_and_goes_on_when_it_is_resumed(rig: Rig, dataset: str, undisturbed: str):
    run_id = rig.start(spec(dataset))["id"]
    rig.until(run_id, lambda info: info["step"] >= 1)
    rig.say(run_id, "pause")
    paused = rig.until(run_id, lambda info: info["phase"] == "paused")
    wait_until(lambda: not [one for one in rig.left()[1] if one.startswith("data.")], "still driven")
    rig.data.end()
    assert rig.say(run_id, "resume")["phase"] == "paused"  # nobody is there to hear it
    rig.data.start()
    assert rig.until_over(run_id)["phase"] == "completed"
    assert paused["step"] < 5
    assert rig.adapter(run_id) == rig.adapter(undisturbed)


def test_rollouts_that_expired_in_a_long_pause_are_drawn_again(rig: Rig, dataset: str):
    run_id = rig.start(spec(dataset, max_staleness=1, steps=8))["id"]
    rig.until(run_id, lambda info: info["step"] >= 2)
    rig.say(run_id, "pause")
    paused = rig.until(run_id, lambda info: info["phase"] == "paused")
    assert paused["step"] < 8
    rig.expire_results()
    rig.say(run_id, "resume")
    over = rig.until_over(run_id)
    assert (over["phase"], over["step"], over["cursor"]) == ("completed", 8, 32), over["reason"]


def test_a_run_is_handed_over_when_its_replica_ends(rig: Rig, dataset: str, undisturbed: str):
    run_id = rig.start(spec(dataset))["id"]
    rig.until(run_id, lambda info: info["step"] >= 1)
    rig.data.end(signal.SIGTERM)
    rig.data.start()
    assert rig.until_over(run_id)["phase"] == "completed"
    assert rig.adapter(run_id) == rig.adapter(undisturbed)


def test_runs_pipeline_and_keep_near_the_base_model(rig: Rig, dataset: str):
    run_id = rig.start(spec(dataset, max_staleness=1, kl={"coefficient": 0.05}, checkpoints=None))["id"]
    assert rig.until_over(run_id)["phase"] == "completed"
    rows = rig.rows_of(run_id)[:5]
    assert max(row["staleness_max"] for row in rows) == 1
    assert rows[0]["kl_base"] == pytest.approx(0.0, abs=1e-5)
    assert all(row["kl_base"] is not None for row in rows)


def test_two_runs_with_other_graders_algorithms_and_rows_share_sampler_and_trainer_and_both_learn(rig: Rig):
    rows = [{"question": f"Add {x} to {y}:", "near": 2} for x in range(10) for y in range(4)]
    rig.upload("".join(json.dumps(row) + "\n" for row in rows).encode(), "additions")
    quick = {"steps": 6, "checkpoints": None}
    low_numbers = {"type": "numeric", "params": {"column": "near", "abs": 2.5}}
    letters = {"type": "regex", "params": {"pattern": "[a-z]"}}
    runs = [
        rig.start(spec("additions", grader=low_numbers, algorithm={"type": "dr_grpo"}) | quick)["id"],
        rig.start(spec(rig.dataset(), grader=letters, algorithm={"type": "dapo"}) | quick)["id"],
    ]
    assert [rig.until_over(run)["phase"] for run in runs] == ["completed"] * 2
    steps = [[row for row in rig.rows_of(run) if row["step"] is not None] for run in runs]
    for rows in steps:
        assert sum(row["reward"] for row in rows[-3:]) / 3 > rows[0]["reward"] + 0.25
    first, last = (max(rows[0]["time"] for rows in steps), min(rows[-1]["time"] for rows in steps))
    assert first < last, "one after the other"


def test_a_row_that_cannot_be_asked_is_skipped_counted_and_said(rig: Rig):
    rows = [{"question": question} for question in QUESTIONS[:7]]
    rows.insert(3, {"question": "What is 1 + 1? " * 200})
    name = f"long-{uuid.uuid4().hex[:8]}"
    rig.upload("".join(json.dumps(row) + "\n" for row in rows).encode(), name)
    evaluation = {"every": 2, "dataset": {"name": name}, "rows": 8}
    wanted = spec(name, steps=None, epochs=1, evaluation=evaluation, checkpoints=None)
    run_id = rig.start(wanted)["id"]
    over = rig.until_over(run_id)
    assert (over["phase"], over["step"], over["cursor"], over["skipped"]) == ("completed", 2, 8, 1), over
    steps = [row for row in rig.rows_of(run_id) if row["step"] is not None]
    assert sum(row["skipped"] for row in steps) == 1
    assert len([one for row in rig.rows_of(run_id) for one in row["evaluations"]]) == 2
    (said,) = asyncio.run(facts_about(rig, catalog.ROW_SKIPPED, run_id))
    assert (said["dataset"], said["version"], said["row"]) == (name, 1, 3)
    assert "expected 1 to 512" in said["reason"]


async def facts_about(rig: Rig, type_: str, run_id: str) -> list[dict[str, Any]]:
    bus = await Bus.connect(rig.nats_url, name="facts")
    try:
        walk = bus.walk(FACTS, names.fact_subject("local", type_))
        return [envelope.json_of(one.event) async for one in walk if one.event.get_subject() == run_id]
    finally:
        await bus.close()


def test_a_dataset_of_which_no_row_can_be_asked_pauses_the_run_with_the_reason(rig: Rig):
    name = f"long-{uuid.uuid4().hex[:8]}"
    rig.upload((json.dumps({"question": "What is 1 + 1? " * 200}) + "\n").encode(), name)
    run_id = rig.start(spec(name, steps=2))["id"]
    paused = rig.until(run_id, lambda info: info["phase"] != "running")
    assert paused["phase"] == "paused", paused
    assert paused["reason"].startswith("no row of batch 0 can be asked; the first of them: prompt: ")
    assert rig.http.delete(f"rl_runs/{run_id}").status_code == 204


def test_what_is_kept_of_a_run_does_not_grow_with_its_steps(rig: Rig, dataset: str):
    """The log is cleared up to a snapshot, for which a checkpoint is a moment."""
    wanted = spec(dataset, steps=1000, max_staleness=1, checkpoints={"every": 2}, groups=2, group_size=4)
    run = rig.start(wanted)
    try:
        kept = []
        for step in (12, 36):
            rig.until(run["id"], lambda info, step=step: info["step"] >= step)
            kept.append(asyncio.run(what_is_kept(rig, run["training_run"])))
    finally:
        rig.http.delete(f"rl_runs/{run['id']}")
    before, after = kept
    assert min(after.values()) > 0, "looked at the wrong place"
    assert max(after[part] - before[part] for part in before) < 20, kept


async def what_is_kept(rig: Rig, training_run: str) -> dict[str, int]:
    """Entries by kind, of which a run that kept all would have at least one a step more."""
    bus = await Bus.connect(rig.nats_url, name="look")
    session = training_run.partition(":")[0]
    try:
        root = names.run_root(BASE, "local", training_run)
        log = await bus.subjects(names.run_stream(BASE), f"{root}.>")
        parts = Counter(subject.removeprefix(root).split(".")[1] for subject in log)
        drawn = await bus.subjects(RESULTS, "result.sample.>")
        samplers = await bus.subjects(RECORDS, "record.sampler.>")
        return {"results": parts["result"], "checkpoints": parts["checkpoint"]} | {
            "drawn": sum(session in subject for subject in drawn),
            "samplers": sum(session in subject for subject in samplers),
        }
    finally:
        await bus.close()


def test_a_deleted_run_leaves_nothing(rig: Rig, dataset: str):
    wait_until(lambda: not rig.samplers(), "what is over keeps its samplers")
    before = rig.at_rest()
    run_id = rig.start(spec(dataset, steps=1000))["id"]
    rig.until(run_id, lambda info: info["step"] >= 1)
    assert rig.http.delete(f"rl_runs/{run_id}").status_code == 204
    assert rig.http.get(f"rl_runs/{run_id}").status_code == 404
    assert run_id not in [run["id"] for run in rig.http.get("rl_runs").json()["runs"]]
    rig.settled(before)

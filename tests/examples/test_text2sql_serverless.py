"""The lesson without a loop: an upload starts one run, and whoever dies meanwhile, it is the run that it would be."""

import os
import random
import signal
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from events import blob_keys
from examples.text2sql import loop, serverless
from examples.text2sql.experiment import Experiment, Options, prepare
from examples.text2sql.prompts import MAX_SQL_TOKENS, prompt_text
from examples.text2sql.questions import HELD_OUT_SIZE, Task, Tasks
from examples.text2sql.reward_judge import GRADER
from rekindle import ServiceClient
from rekindle.types.rewards import SqlParams
from rekindle.types.rl import MetricsRow, RlRunInfo, RlRunSpec, fill_event, read_yaml
from tests.chaos import killer as chaos
from tests.chaos import mortal
from tests.chaos.hands import OpenRequests
from tests.chaos.killer import Kill, Killer
from tests.chaos.trial import killing
from tests.examples.demo_base import SEED
from tests.stack import ROOT, Stack, running_stack

NAME = "text2sql"
STEPS, GROUPS, GROUP_SIZE = 12, 4, 4
POOL, HELD_OUT, EVERY = 20, 8, 6
Rollout = dict[str, Any]
VICTIMS = ("data", "sample", "reward", "train", "nats", "gateway", "dispatcher")
IDLE_SECONDS = 1.0
"""After which a victim that has nothing in hand is killed all the same."""


def test_the_spec_says_what_the_loop_does():
    spec = read_yaml(serverless.SPEC.read_text())
    event = {"name": "questions", "version": 3}
    run = RlRunSpec.model_validate(fill_event(spec, event))
    assert (run.groups, run.group_size, run.steps) == (loop.GROUPS, loop.GROUP_SIZE, Options().steps)
    assert (run.lora.rank, run.lora.train_unembed) == (loop.RANK, False)
    assert (run.optimizer.learning_rate, run.optimizer.schedule) == (loop.LEARNING_RATE, "constant")
    assert (run.sampling.max_tokens, run.sampling.temperature) == (MAX_SQL_TOKENS, 1.0)
    assert (run.dataset.name, run.dataset.version) == ("questions", 3)
    assert run.prompt is not None
    assert run.prompt.format(schema="s", question="q") == prompt_text("s", "q")
    assert run.evaluation is not None and run.evaluation.grader is not None
    assert (run.evaluation.every, run.evaluation.rows) == (loop.EVALUATE_EVERY, HELD_OUT_SIZE)
    params = SqlParams.model_validate(GRADER["params"]).model_copy(update={"pattern": None})
    assert (run.grader.params, run.grader.invalid_value) == (params, GRADER["invalid_value"])
    assert run.evaluation.grader == run.grader.model_copy(
        update={"params": params.model_copy(update={"partial": 0})}
    )


@dataclass(frozen=True)
class Lesson:
    """A run that is over, and what the facts say of it."""

    run: RlRunInfo
    rows: list[MetricsRow]
    rollouts: list[Rollout]
    """Of questions that it learned from and of held-out ones, with their scores."""
    adapter: bytes


@dataclass(frozen=True)
class Lessons:
    """The same lesson twice."""

    calm: Lesson
    hurt: Lesson
    kills: list[Kill]
    runs: list[RlRunInfo]
    """All that the trigger of the second has started."""
    fired: int


@pytest.fixture(scope="module")
def experiment(base: tuple[Path, Path]) -> Experiment:
    """Few enough questions that the run passes over them more than once."""
    folder, cache = base
    whole = prepare(Options(seed=SEED, base_model=f"{NAME}={folder}", cache=cache))
    tasks = Tasks(whole.tasks.pool[:POOL], whole.tasks.held_out[:HELD_OUT], [])
    return replace(whole, base_model=NAME, tasks=tasks)


@pytest.fixture(scope="module")
def lessons(experiment: Experiment, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lessons]:
    """An undisturbed run, and one while everything is killed that has a part in it."""
    data_dir = tmp_path_factory.mktemp("serverless") / "data"
    with (
        running_stack(experiment.served, data_dir, ["--deterministic"], module=mortal.MODULE) as stack,
        ServiceClient(stack.url) as service,
        pytest.MonkeyPatch.context() as patch,
    ):
        calm = lesson(service, stack, begin(service, experiment, "calm"))
        patch.setattr(chaos, "SHARES", dict.fromkeys(VICTIMS, 1))
        patch.setattr(chaos, "PATIENCE", IDLE_SECONDS)
        killer = Killer(stack, OpenRequests(), len(VICTIMS), random.Random(SEED))
        run_id = begin(service, experiment, "hurt")
        kill_the_watch(stack, run_id)
        with killing(killer):
            for _, rows in service.rl_runs.watch(run_id):
                killer.due += len(rows) + (killer.due == 0)  # one at once, and one for each step
        hurt = lesson(service, stack, run_id)
        runs = [run for run in service.rl_runs.list().result(60) if run.trigger == "hurt"]
        fired = service.triggers.get("hurt").result(60).fired
        yield Lessons(calm, hurt, killer.kills, runs, fired)


def begin(service: ServiceClient, experiment: Experiment, name: str) -> str:
    """Start the run as the demo does, by an upload; its id."""
    spec = serverless.wanted_run(Options(seed=SEED, steps=STEPS), experiment)
    spec |= {"groups": GROUPS, "group_size": GROUP_SIZE, "max_staleness": 0}
    spec["evaluation"] |= {"every": EVERY, "rows": HELD_OUT}
    serverless.await_upload(service, name, f"{NAME}/{name}", spec)
    serverless.upload(service, f"{NAME}/{name}", experiment.tasks)
    return serverless.started_run(service, name)


def kill_the_watch(stack: Stack, run_id: str) -> None:
    """Once it has said something."""
    command = [sys.executable, "-m", "rekindle.cli", *serverless.watch_command(stack.url, run_id)[1:]]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None
        assert watching.stdout.readline().startswith((run_id, "step 1/"))
        os.kill(watching.pid, signal.SIGKILL)


def lesson(service: ServiceClient, stack: Stack, run_id: str) -> Lesson:
    """What came of a run, once it is over."""
    run = serverless.watch(service, serverless.watch_command(stack.url, run_id), run_id)
    rows = service.rl_runs.metrics(run_id).result(60)
    service.datasets.export_rollouts(run.training_run, f"rollouts/{run_id}").result(60)
    rollouts = list(service.datasets.rows(f"rollouts/{run_id}"))
    assert run.checkpoint is not None
    kind, name = run.checkpoint.split("/")[-2:]
    blobs = stack.data_dir / "blobs" / blob_keys.run_folder(NAME, "local", run.training_run) / kind
    (adapter,) = blobs.glob(f"{name}-*/*/adapter_model.safetensors")
    return Lesson(run, rows, rollouts, adapter.read_bytes())


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_whoever_is_killed_the_run_is_what_it_would_be(lessons: Lessons):
    assert {kill.kind for kill in lessons.kills} == set(VICTIMS)
    assert all(kill.in_hand for kill in lessons.kills if kill.kind in ("data", "dispatcher"))
    calm, hurt = lessons.calm, lessons.hurt
    assert (hurt.run.phase, hurt.run.step) == ("completed", STEPS)
    assert [learned(row) for row in hurt.rows[:STEPS]] == [learned(row) for row in calm.rows[:STEPS]]
    assert measured(hurt) == measured(calm)
    assert hurt.adapter == calm.adapter


def learned(row: MetricsRow) -> dict[str, Any]:
    """What does not depend on the clock, as the row does in which an evaluation is told."""
    told = row.model_dump(exclude={"time", "tokens_per_second", "evaluations"})
    return {name: value for name, value in told.items() if not name.startswith("seconds")}


def measured(lesson: Lesson) -> dict[int, float]:
    """Match by version."""
    return dict(pair for row in lesson.rows for pair in row.evaluations)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_prompt_is_used_as_often_as_spec_and_seed_say(lessons: Lessons, experiment: Experiment):
    steps, answers = by_step(lessons.hurt, experiment)
    order = [task for epoch in range(3) for task in permuted(experiment.tasks.pool, epoch)]
    for step in range(STEPS):
        due = order[step * GROUPS : (step + 1) * GROUPS]
        assert Counter(prompts_of(steps[step])) == Counter(
            {prompt_text(task.schema, task.question): GROUP_SIZE for task in due}
        )
    assert set(steps) == set(range(STEPS))
    held_out = {prompt_text(task.schema, task.question): 1 for task in experiment.tasks.held_out}
    assert set(answers) == set(range(0, STEPS + 1, EVERY))
    assert all(Counter(prompts_of(rollouts)) == held_out for rollouts in answers.values())


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_what_was_trained_are_the_rollouts_whose_group_is_not_all_alike(
    lessons: Lessons, experiment: Experiment
):
    steps, _ = by_step(lessons.hurt, experiment)
    for row in lessons.hurt.rows[:STEPS]:
        groups = defaultdict(list)
        for rollout in steps[row.row]:
            groups[rollout["prompt"]].append(rollout)
        taught = [group for group in groups.values() if len({rollout["value"] for rollout in group}) > 1]
        tokens = [len(one["prompt_tokens"]) + len(one["tokens"]) for group in taught for one in group]
        assert (row.groups, row.tokens_trained or 0) == (len(taught), sum(tokens))
        assert row.groups + row.uniform == GROUPS and row.dropped == row.overdue == 0
        rewards = [rollout["value"] for rollout in steps[row.row]]
        assert row.reward == pytest.approx(sum(rewards) / len(rewards))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_upload_starts_one_run(lessons: Lessons):
    assert [run.id for run in lessons.runs] == [lessons.hurt.run.id]
    assert lessons.fired == 1
    assert lessons.hurt.run.cursor == STEPS * GROUPS


def by_step(
    lesson: Lesson, experiment: Experiment
) -> tuple[dict[int, list[Rollout]], dict[int, list[Rollout]]]:
    """Rollouts that were learned from by step, and answers to held-out questions by version, with their prompts."""
    tokenizer = AutoTokenizer.from_pretrained(experiment.served.partition("=")[2])
    held_out = {prompt_text(task.schema, task.question) for task in experiment.tasks.held_out}
    learned_from, answers = defaultdict(list), defaultdict(list)
    for rollout in lesson.rollouts:
        prompt = tokenizer.decode(rollout["prompt_tokens"])
        version = int(rollout["version"].partition("@")[0].rpartition("-")[2])
        (answers if prompt in held_out else learned_from)[version].append(rollout | {"prompt": prompt})
    return learned_from, answers


def permuted(pool: list[Task], epoch: int) -> list[Task]:
    """The order of the rows in a pass over them."""
    order = list(pool)
    random.Random(f"{SEED}:{epoch}").shuffle(order)
    return order


def prompts_of(rollouts: list[Rollout]) -> list[str]:
    return [rollout["prompt"] for rollout in rollouts]

"""The demo's loop while graders crash, hang and die: what they fail on is left out and counted, and it learns."""

import asyncio
import itertools
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
from transformers import AutoTokenizer

from events import catalog, envelope, names
from events.bus import Bus
from events.streams import FACTS
from examples.text2sql import experiment, loop
from examples.text2sql.experiment import Experiment, Options
from examples.text2sql.judge import judge
from examples.text2sql.loop_judge import LoopJudge
from examples.text2sql.prompts import prompt_tokens, sql_of
from examples.text2sql.questions import Tasks, make_databases, make_tasks
from examples.text2sql.reward_judge import RewardJudge
from examples.text2sql.scoring import Answer, Scores
from rekindle import Future
from rekindle.rewards import GraderSpec, Rewards
from rekindle.types.rewards import Score, ScoreResponse
from services.local import nats_server
from services.reward.runner import ATTEMPTS
from tests.examples import fates, faulty_rewards
from tests.examples.demo_base import SEED
from tests.examples.fates import Injected
from tests.stack import Stack, running_stack

STEPS = 15
REASONS = {"raise": "RuntimeError: a fault", "kill": "died of SIGKILL", "hang": "took longer than 0.5 s"}


class Witness:
    """`client.rewards` that keeps what went through: for each request the names of its items, and the answer.

    A number in a column tells equal answers apart, so that the fates of rollouts do not hang together.
    """

    def __init__(self, rewards: Rewards) -> None:
        self._rewards = rewards
        self._numbers = itertools.count()
        self.requests: list[tuple[list[str], Future[ScoreResponse]]] = []

    def score(
        self,
        grader: GraderSpec,
        items: list[dict[str, Any]],
        columns: Mapping[str, Any],
        max_excluded: float | None,
    ) -> Future[ScoreResponse]:
        for item in items:
            item["columns"]["rollout"] = next(self._numbers)
        names = [
            fates.name_of(item["prompt"], item["completion"], {**columns, **item["columns"]})
            for item in items
        ]
        # The share of one small request says little.
        future = self._rewards.score(grader, items, columns=columns, max_excluded=max_excluded)
        self.requests.append((names, future))
        return self.requests[-1][1]

    def scores(self) -> list[tuple[str, Score]]:
        """Every rollout that was scored, by name."""
        return [
            pair
            for names, future in self.requests
            for pair in zip(names, future.result().scores, strict=True)
        ]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_loop_learns_while_graders_crash_hang_and_die_and_no_failed_score_enters_a_batch(
    base: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (folder, cache), faults = base, tmp_path / "faults"
    faults.mkdir()
    witnesses: list[Witness] = []
    batches: list[list[list[loop.Rollout]]] = []
    watch(monkeypatch, witnesses, batches)
    environment = {fates.FOLDER: str(faults)}
    with running_stack(
        f"text2sql={folder}", tmp_path / "data", module=faulty_rewards.MODULE, environment=environment
    ) as stack:
        options = Options(
            seed=SEED,
            steps=STEPS,
            client="rekindle",
            data="local",
            base_url=stack.url,
            out=tmp_path / "out",
            base_model=stack.base_model,
            cache=cache,
        )
        result = loop.run(options)
        facts = asyncio.run(exclusions(stack))
    (witness,) = witnesses
    rows = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]

    assert_excluded_as_fated(witness)
    assert_counts_agree(witness, rows, facts)
    assert_injected(witness, fates.injected(faults))
    kept = sum(not score.excluded for _, score in witness.scores())
    assert_opinions(batches, kept, folder, cache)
    rewards = [row["reward"] for row in rows[1:]]
    assert mean(rewards[-3:]) > mean(rewards[:3]) + 0.1
    assert result["after"] > result["before"] + 0.15


def watch(
    monkeypatch: pytest.MonkeyPatch, witnesses: list[Witness], batches: list[list[list[loop.Rollout]]]
) -> None:
    """Have the loop ask few questions, and keep what it asks of the reward service and what its batches are made of."""

    class WatchedJudge(RewardJudge):
        def __init__(self, rewards: Rewards) -> None:
            witnesses.append(Witness(rewards))
            super().__init__(witnesses[-1])  # type: ignore[arg-type]

        def score(self, answers: Sequence[Answer]) -> Scores:  # type: ignore[override]
            """Of an evaluation, which is none of the loop's rollouts, in the loop."""
            return super().score(answers) if len(answers) == loop.GROUP_SIZE else LoopJudge().score(answers)

    def watched_batch(sdk: Any, groups: Any, rewards: Any, to_batch: Any = loop.to_batch) -> Any:
        batches.append(groups)
        return to_batch(sdk, groups, rewards)

    def prepare_few(options: Options) -> Experiment:
        """The same questions in each step, so that rewards of steps compare."""
        found = experiment.prepare(options)
        few = found.tasks.pool[: loop.GROUPS]
        return replace(found, tasks=Tasks(pool=few, held_out=few, held_out_schema=[]))

    monkeypatch.setattr(loop, "prepare", prepare_few)
    monkeypatch.setattr(loop, "RewardJudge", WatchedJudge)
    monkeypatch.setattr(loop, "to_batch", watched_batch)


async def exclusions(stack: Stack) -> list[dict[str, Any]]:
    """The data of every `rollout.excluded`."""
    bus = await Bus.connect(nats_server.address(stack.data_dir).url, name="test")
    subject = names.fact_subject("local", catalog.ROLLOUT_EXCLUDED)
    found = [envelope.json_of(stored.event) async for stored in bus.walk(FACTS, subject)]
    await bus.close()
    return found


def assert_excluded_as_fated(witness: Witness) -> None:
    scores = witness.scores()
    assert len(scores) == STEPS * loop.GROUPS * loop.GROUP_SIZE
    for name, score in scores:
        fate = fates.fate_of(name)
        assert score.excluded == (fate.times == "always"), (fate, score)
        if score.excluded:
            assert (score.value, score.attempts) == (None, ATTEMPTS)
            assert REASONS[fate.kind] in (score.reason or ""), (fate, score)
    shares = Counter(fates.fate_of(name).times for name, _ in scores)
    assert shares["always"] / len(scores) == pytest.approx(fates.ALWAYS, abs=0.03)
    assert shares["first"] / len(scores) == pytest.approx(fates.FIRST, abs=0.03)


def assert_counts_agree(witness: Witness, rows: list[dict[str, Any]], facts: list[dict[str, Any]]) -> None:
    """The loop's own count, the client's, the facts'."""
    excluded = sum(future.result().excluded for _, future in witness.requests)
    assert excluded == sum(row["excluded"] for row in rows) == len(facts)
    assert len({(fact["request"], fact["item"]) for fact in facts}) == len(facts)
    told = Counter((fact["outcome"], fact["reason"], fact["attempts"]) for fact in facts)
    assert told == Counter((s.outcome, s.reason, s.attempts) for _, s in witness.scores() if s.excluded)


def assert_injected(witness: Witness, injected: list[Injected]) -> None:
    """As many faults as the fates say, and all kinds; what cost a process was tried again in another."""
    times = {"never": 0, "first": 1, "always": ATTEMPTS}
    expected = Counter({name: times[fates.fate_of(name).times] for name, _ in witness.scores()})
    assert Counter(fault.name for fault in injected) == expected
    assert {fault.kind for fault in injected} == set(REASONS)
    assert all(fault.kind == fates.fate_of(fault.name).kind for fault in injected)
    costly = [(fault.name, fault.pid) for fault in injected if fault.kind != "raise"]
    assert len(set(costly)) == len(costly)


def assert_opinions(batches: list[list[list[loop.Rollout]]], kept: int, folder: Path, cache: Path) -> None:
    """What batches were made of is what was not excluded, each with the reward that an undisturbed judge gives it."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    pool = make_tasks(make_databases(cache / f"databases-{SEED}", SEED), SEED).pool
    tasks = {tuple(prompt_tokens(tokenizer, task.schema, task.question)): task for task in pool}
    rollouts = [rollout for groups in batches for group in groups for rollout in group]
    assert len(rollouts) == kept
    for rollout in rollouts:
        task = tasks[tuple(rollout.prompt)]
        sql = sql_of(tokenizer, rollout.completion)
        assert rollout.reward == judge(sql, task.database, task.reference).value

"""Scored rollouts become datums whose numbers are worked by hand, and rows of metrics."""

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from rekindle.types import (
    ForwardBackwardOutput,
    SampledSequence,
    check_forward_backward,
    encode_forward_backward,
    parse_forward_backward,
)
from rekindle.types.rewards import Score as Verdict
from rekindle.types.rl import RlRunSpec
from services.data.rl import metrics
from services.data.rl.batch import make_batch
from services.data.rl.messages import Report, Sample, Score, Train
from services.data.rl.metrics import Step
from services.data.rl.results import Group

NOW = datetime(2026, 1, 2, tzinfo=UTC)


def spec(**changed: Any) -> RlRunSpec:
    base = {
        "base_model": "tiny",
        "dataset": {"name": "sums"},
        "prompt": "{question}",
        "grader": {"type": "math"},
        "algorithm": {"type": "rloo"},
        "steps": 5,
    }
    return RlRunSpec.of(base | changed)


def score(place: int, version: int = 0) -> Score:
    sample = Sample(batch=0, group=place, attempt=0, prompt=place, version=version)
    return Score(batch=0, group=place, attempt=0, sample=sample)


def verdict(value: float | None) -> Verdict:
    outcome, reason = ("scored", None) if value is not None else ("error", "it broke")
    return Verdict(outcome=outcome, value=value, reason=reason, grader_version="x", seconds=0, attempts=1)


def sequence(tokens: list[int], logprobs: list[float]) -> SampledSequence:
    return SampledSequence(np.array(tokens, np.int32), np.array(logprobs, np.float32), "length")


def group(place: int, rewards: list[float | None], base: bool = False, version: int = 0) -> Group:
    sequences = [sequence([10 + index, 20], [-1.0, -0.5]) for index in range(len(rewards))]
    logprobs = [np.array([-1.5, -0.5], np.float32) for _ in rewards] if base else None
    return Group(score(place, version), sequences, tuple(map(verdict, rewards)), logprobs)


def test_targets_are_shifted_and_the_prompt_teaches_nothing():
    batch = make_batch(spec(), [group(0, [1.0, 0.0, 0.0])], [[1, 2, 3]], None)
    first = batch.rollouts[0].datum()
    assert first.tokens.tolist() == [1, 2, 3, 10]
    assert first.inputs["target_tokens"].tolist() == [2, 3, 10, 20]
    assert first.inputs["logprobs"].tolist() == [0.0, 0.0, -1.0, -0.5]
    # leave-one-out: 1 - 0 = 1 and 0 - 1/2; a group of three, one group: weight 1/3
    assert first.inputs["advantages"] == pytest.approx([0, 0, 1 / 3, 1 / 3])
    assert batch.rollouts[1].datum().inputs["advantages"] == pytest.approx([0, 0, -1 / 6, -1 / 6])


def test_a_rollout_without_a_reward_is_left_out_before_anything_is_reckoned():
    batch = make_batch(spec(), [group(0, [1.0, None, 0.0])], [[1]], None)
    assert [one.sequence.tokens[0] for one in batch.rollouts] == [10, 12]
    assert [one.advantages_T[0] for one in batch.rollouts] == [1.0, -1.0]
    assert [one.weight for one in batch.rollouts] == [0.5, 0.5]


@pytest.mark.parametrize("algorithm", ["grpo", "dr_grpo", "rloo", "dapo"])
def test_a_group_that_was_drawn_again_and_has_too_few_rewards_is_left_out(algorithm: str):
    wanted, good = spec(algorithm={"type": algorithm}), group(1, [1.0, 0.0])
    both = make_batch(wanted, [group(0, [1.0, None]), good], [[1], [2]], None)
    assert [one.prompt_P for one in both.rollouts] == [[2], [2]]
    assert make_batch(wanted, [group(0, [None, None])], [[1]], None).rollouts == []


def test_a_group_left_out_because_it_teaches_nothing_makes_the_step_smaller():
    batch = make_batch(spec(), [group(0, [1.0, 0.0])], [[1]], None, uniform=3)
    assert [one.weight for one in batch.rollouts] == [1 / 8, 1 / 8]


def test_leaving_the_base_model_is_taken_off_the_advantage():
    batch = make_batch(spec(kl={"coefficient": 0.1}), [group(0, [1.0, 0.0], base=True)], [[1]], None)
    # log pi - log base is 0.5 at the first token and 0 at the second
    assert batch.rollouts[0].advantages_T == pytest.approx([1 - 0.05, 1.0])


@pytest.mark.parametrize("algorithm", ["grpo", "dr_grpo", "rloo", "reinforce", "dapo"])
def test_every_algorithm_makes_a_batch_that_the_trainer_takes(algorithm: str):
    wanted = spec(algorithm={"type": algorithm})
    groups = [group(0, [1.0, 0.0]), group(1, [0.0, 0.5, 1.0])]
    request = make_batch(wanted, groups, [[1, 2], [3]], 0.25).request("s:train:0", 7)
    parsed = parse_forward_backward(encode_forward_backward(request))
    check_forward_backward(parsed, vocab_size=64, context_length=32)
    assert (parsed.model_id, parsed.seq_id, len(parsed.data)) == ("s:train:0", 7, 5)


def test_a_rollout_is_independent_once_those_before_it_decide_that_its_group_is_trained():
    groups = [group(0, [1.0, 1.0, 0.0, 1.0, 0.0]), group(1, [0.0, None, 1.0, 0.0])]
    batch = make_batch(spec(), groups, [[1], [2]], None)
    expected = [False, False, False, True, True, False, False, True]
    assert [one.independent for one in batch.rollouts] == expected
    for everything in ({"algorithm": {"type": "reinforce"}}, {"kl": {"coefficient": 0.1}}):
        batch = make_batch(spec(**everything), [group(0, [1.0, 1.0], base=True)], [[1]], 0.0)
        assert all(one.independent for one in batch.rollouts), everything


def test_the_trainer_is_asked_for_entropies_as_long_as_there_is_an_alarm():
    for limit, asked in ((6.0, True), (None, False)):
        made = make_batch(spec(alarms={"entropy_errors": limit}), [group(0, [1.0, 0.0])], [[1]], None)
        assert ("entropy" in made.request("s:train:0", 2).loss_fn_config) is asked


# Metrics


def step(rewards: list[list[float | None]], logprobs: list[float], **changed: Any) -> Step:
    """A step whose trainer gives these logprobs to the two tokens of every completion."""
    groups = [group(place, values, version=changed.get("version", 0)) for place, values in enumerate(rewards)]
    train = Train(step=0, seq=2, groups=tuple(one.score for one in groups), learning_rate=0.1)
    batch = make_batch(spec(), groups, [[1, 2]] * len(groups), None)
    extra = changed.get("outputs", {})
    passed = ForwardBackwardOutput(
        [{"logprobs": np.array([0.0, *logprobs], np.float32)} | extra for _ in batch.rollouts],
        {"loss:sum": 1.5, "clipped_tokens:sum": 2.0},
    )
    report = Report(row=0, train=train, groups=train.groups, evaluations=((0, 0.5),))
    return Step(report, groups, batch, passed)


def test_a_row_says_what_a_step_was_like():
    made = step([[1.0, 0.0], [0.5, None, 0.5]], [-1.0, -0.6])
    row = metrics.row_of(made, spec(), {"seconds_train": 0.5}, NOW, NOW - timedelta(seconds=2))
    assert (row.row, row.step, row.version, row.groups) == (0, 0, 1, 2)
    assert row.reward == pytest.approx(0.5)
    assert row.excluded == 0.2
    assert row.entropy == pytest.approx(0.75)
    assert row.kl_sampler == pytest.approx(0.05, abs=1e-6)  # mean of 0 and 0.1
    assert row.ratio == pytest.approx((1 + np.exp(-0.1)) / 2)
    assert row.clipped == 2 / 8  # four rollouts of two tokens
    assert (row.length, row.length_max, row.stopped, row.tokens_sampled) == (2, 2, 0, 10)
    assert row.tokens_trained == 16
    assert (row.seconds, row.tokens_per_second, row.seconds_train) == (2.0, 5.0, 0.5)
    assert row.evaluations == ((0, 0.5),)


def test_nothing_is_known_of_a_step_whose_results_have_expired():
    made = step([[1.0, 0.0]], [-1.0, -0.5])
    row = metrics.row_of(Step(made.report, [], None, None), spec(), {}, NOW, None)
    assert (row.step, row.reward, row.ratio) == (0, None, None)
    assert metrics.alarm_of(Step(made.report, [], None, None), spec()) is None

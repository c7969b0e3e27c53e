"""The formulas, by numbers worked out by hand."""

import pytest

from rekindle.types.rl import Algorithm, Dapo, DrGrpo, Grpo, Kl, Reinforce, Rloo
from services.data.rl.algorithms import Loss, penalties, rule_of

REWARDS = [1.0, 0.0, 0.0, 3.0]
"""Mean 1, deviations 0, -1, -1, 2, variance 6 / 4."""
LENGTHS = [[2, 4], [1, 1, 2]]
ALL: list[Algorithm] = [Grpo(), DrGrpo(), Rloo(), Reinforce(), Dapo()]


def test_grpo_divides_deviations_by_the_std_of_the_group():
    std = 1.5**0.5
    assert rule_of(Grpo()).advantages(REWARDS) == pytest.approx([0, -1 / std, -1 / std, 2 / std])
    assert rule_of(Grpo()).advantages([0.0, 1.0]) == [-1.0, 1.0]


def test_grpo_has_no_advantage_where_all_are_alike():
    assert rule_of(Grpo()).advantages([0.1] * 3) == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("scale", [1e-323, 1e-200, 1e200])
def test_grpo_does_not_depend_on_the_size_of_rewards(scale: float):
    assert rule_of(Grpo()).advantages([0.0, 0.0, scale, scale]) == pytest.approx([-1, -1, 1, 1])


def test_grpo_averages_over_tokens_then_rollouts_then_groups():
    weights = rule_of(Grpo()).weights(LENGTHS, 10)
    assert weights[0] == pytest.approx([1 / 8, 1 / 16])
    assert weights[1] == pytest.approx([1 / 6, 1 / 6, 1 / 12])
    assert sum(
        w * n for ws, ns in zip(weights, LENGTHS, strict=True) for w, n in zip(ws, ns, strict=True)
    ) == (pytest.approx(1))


def test_dr_grpo_only_centres_and_divides_by_the_token_limit():
    rule = rule_of(DrGrpo())
    assert rule.advantages(REWARDS) == [0, -1, -1, 2]
    weights = rule.weights(LENGTHS, 10)
    assert weights[0] == pytest.approx([1 / 40] * 2) and weights[1] == pytest.approx([1 / 60] * 3)


def test_rloo_compares_with_the_mean_of_the_others():
    # the others of 1 are 0, 0, 3: mean 1; of a 0: 1, 0, 3: mean 4/3; of 3: 1, 0, 0: mean 1/3
    assert rule_of(Rloo()).advantages(REWARDS) == pytest.approx([0, -4 / 3, -4 / 3, 8 / 3])


def test_rloo_weighs_every_token_of_a_rollout_fully():
    weights = rule_of(Rloo()).weights(LENGTHS, 10)
    assert weights[0] == pytest.approx([1 / 4] * 2) and weights[1] == pytest.approx([1 / 6] * 3)


def test_reinforce_compares_with_the_mean_of_the_past():
    rule = rule_of(Reinforce(decay=0.75))
    assert rule.advantages([1.0, 0.0], 0.25) == [0.75, -0.25]
    assert rule.next_baseline(None, 0.4) == 0.4
    assert rule.next_baseline(0.4, 0.8) == pytest.approx(0.3 + 0.2)
    assert rule.least == 1 and rule.uniform_teaches


@pytest.mark.parametrize("algorithm", [Grpo(), DrGrpo(), Rloo()], ids=lambda algorithm: algorithm.type)
def test_groups_that_teach_nothing_count_in_a_mean_over_groups(algorithm: Algorithm):
    alone, beside = (rule_of(algorithm).weights(LENGTHS, 10, uniform) for uniform in (0, 6))
    # two groups of eight instead of two of two
    for weights_G, alone_G in zip(beside, alone, strict=True):
        assert weights_G == pytest.approx([weight / 4 for weight in alone_G])


def test_dapo_weighs_every_token_of_the_batch_the_same():
    rule = rule_of(Dapo())
    assert rule.advantages([0.0, 1.0]) == [-1.0, 1.0]
    assert rule.weights(LENGTHS, 10) == rule.weights(LENGTHS, 10, 6) == [[1 / 10] * 2, [1 / 10] * 3]
    assert rule.refills == 3 and rule_of(Dapo(refills=5)).refills == 5


@pytest.mark.parametrize(
    ("algorithm", "loss"),
    [
        (Grpo(), Loss("ppo", {"clip_low_threshold": 0.8, "clip_high_threshold": 1.2})),
        (DrGrpo(clip_high=0.5), Loss("ppo", {"clip_low_threshold": 0.8, "clip_high_threshold": 1.5})),
        (Dapo(), Loss("ppo", {"clip_low_threshold": 0.8, "clip_high_threshold": 1.28})),
        (Rloo(), Loss("importance_sampling")),
        (Reinforce(), Loss("importance_sampling")),
    ],
)
def test_clipping_algorithms_clip_and_the_others_do_not(algorithm: Algorithm, loss: Loss):
    assert rule_of(algorithm).loss() == loss


@pytest.mark.parametrize("algorithm", ALL, ids=lambda algorithm: algorithm.type)
def test_a_reward_above_the_rest_is_reinforced(algorithm: Algorithm):
    low, high = rule_of(algorithm).advantages([0.0, 1.0], 0.5)
    assert low < 0 < high


@pytest.mark.parametrize(
    "algorithm", [Grpo(), DrGrpo(), Rloo(), Dapo()], ids=lambda algorithm: algorithm.type
)
def test_advantages_of_a_group_cancel_and_do_not_depend_on_an_offset(algorithm: Algorithm):
    rule = rule_of(algorithm)
    assert sum(rule.advantages(REWARDS)) == pytest.approx(0)
    assert rule.advantages([reward + 5 for reward in REWARDS]) == pytest.approx(rule.advantages(REWARDS))


def test_a_token_above_the_base_model_is_made_dearer():
    ours, base = [-1.0, -2.0, -3.0], [-2.0, -1.0, -3.5]  # differences 1, -1, 0.5
    assert penalties(ours, base, Kl(coefficient=0.1)) == pytest.approx([0.1, -0.1, 0.05])


def test_a_token_can_answer_for_what_follows():
    ours, base = [-1.0, -2.0, -3.0], [-2.0, -1.0, -3.5]
    assert penalties(ours, base, Kl(coefficient=2, discount=1)) == pytest.approx([1.0, -1.0, 1.0])
    # 0.5; -1 + 0.25 = -0.75; 1 - 0.375 = 0.625
    assert penalties(ours, base, Kl(coefficient=1, discount=0.5)) == pytest.approx([0.625, -0.75, 0.5])


def test_logprobs_that_do_not_belong_together_are_refused():
    with pytest.raises(ValueError):
        penalties([-1.0], [-1.0, -2.0], Kl(coefficient=1))

"""The arithmetic of the loop: advantages, the control with shuffled rewards, and what a datum holds."""

import random
from itertools import chain
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from examples.text2sql.clients import Client, Sdk, load_sdk
from examples.text2sql.loop import Rollout, centred, rewards_of, scored, to_batch, to_datum

REWARDS = [[1.0, 0.1, 0.0, 0.1], [0.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 0.0]]


def rollout(reward: float) -> Rollout:
    return Rollout(prompt=[11, 12, 13], completion=[21, 22], logprobs=[-0.5, -0.25], reward=reward)


def groups() -> list[list[Rollout]]:
    return [[rollout(reward) for reward in rewards] for rewards in REWARDS]


@pytest.fixture(params=["tinker", "rekindle"])
def sdk(request: pytest.FixtureRequest) -> Sdk:
    client: Client = request.param
    return load_sdk(client)


def array(datum: Any, field: str) -> np.ndarray:
    found = datum.loss_fn_inputs[field]
    return found if isinstance(found, np.ndarray) else found.to_numpy()


def test_advantages_are_rewards_less_the_mean_of_their_group():
    assert centred([1.0, 0.1, 0.0, 0.1]) == pytest.approx([0.7, -0.2, -0.3, -0.2])
    assert sum(centred([0.1, 1.0, 1.0])) == pytest.approx(0.0)


def test_true_rewards_stay_with_their_rollouts():
    assert rewards_of(groups(), shuffled=False, rng=random.Random(0)) == REWARDS


def test_shuffled_rewards_are_the_same_rewards_across_the_borders_of_groups():
    shuffled = rewards_of(groups(), shuffled=True, rng=random.Random(0))
    assert [len(group) for group in shuffled] == [4, 4, 4]
    assert shuffled != REWARDS
    assert sorted(chain(*shuffled)) == sorted(chain(*REWARDS))
    # A group of zeros got something: the permutation is over the batch and not within groups.
    assert any(
        rewards_of(groups(), shuffled=True, rng=random.Random(seed))[1] != REWARDS[1] for seed in range(5)
    )


def test_a_datum_predicts_each_token_from_those_before_it_and_trains_the_completion_alone(sdk: Sdk):
    datum = to_datum(sdk, rollout(1.0), advantage=0.7)
    assert datum.model_input.to_ints() == [11, 12, 13, 21]
    assert array(datum, "target_tokens").tolist() == [12, 13, 21, 22]
    assert array(datum, "logprobs").tolist() == [0.0, 0.0, -0.5, -0.25]
    np.testing.assert_allclose(array(datum, "advantages"), [0.0, 0.0, 0.7, 0.7], rtol=1e-6)
    assert {field: str(array(datum, field).dtype) for field in datum.loss_fn_inputs} == {
        "target_tokens": "int64",
        "logprobs": "float32",
        "advantages": "float32",
    }


def test_groups_whose_rewards_are_alike_are_dropped(sdk: Sdk):
    batch = to_batch(sdk, groups(), REWARDS)
    last = [array(datum, "advantages")[-1] for datum in batch]
    np.testing.assert_allclose(last, [0.7, -0.2, -0.3, -0.2, 0.25, 0.25, 0.25, -0.75], rtol=1e-6)


def test_a_batch_without_any_difference_is_empty(sdk: Sdk):
    assert to_batch(sdk, groups(), [[0.1] * 4] * 3) == []


def test_a_rollout_on_which_the_judge_failed_is_left_out_and_advantages_are_those_of_the_others(sdk: Sdk):
    sequences = [SimpleNamespace(tokens=[20 + n, 30 + n], logprobs=[-0.5, -0.25]) for n in range(4)]
    group = scored([11, 12, 13], sequences, [1.0, None, 0.0, None])
    assert [(rollout.completion, rollout.reward) for rollout in group] == [([20, 30], 1.0), ([22, 32], 0.0)]
    batch = to_batch(sdk, [group, []], rewards_of([group, []], shuffled=False, rng=random.Random(0)))
    assert [array(datum, "advantages")[-1] for datum in batch] == [0.5, -0.5]

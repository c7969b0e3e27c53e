"""Both statistics of the alarms: by hand, and drawn thousands of times where nothing is wrong, and where something is.

Axes: R rollouts, T tokens of each, V vocabulary.
"""

from typing import Any

import numpy as np
import pytest

from rekindle.types import ForwardBackwardOutput, SampledSequence
from rekindle.types.rl import RlRunSpec
from services.data.rl import alarms
from services.data.rl.algorithms import Loss
from services.data.rl.batch import Batch, Rollout


def spec(**changed: Any) -> RlRunSpec:
    base = {
        "base_model": "tiny",
        "dataset": {"name": "sums"},
        "prompt": "{question}",
        "grader": {"type": "math"},
        "steps": 5,
    }
    return RlRunSpec.of(base | changed)


def rollout(logprobs: list[float], version: int = 7, independent: bool = True) -> Rollout:
    """Of a prompt of two tokens."""
    tokens = np.zeros(len(logprobs), np.int32)
    sequence = SampledSequence(tokens, np.array(logprobs, np.float32), "length")
    return Rollout([1, 2], sequence, np.ones(len(logprobs)), 1.0, version, independent)


def passed(logprobs: list[list[float]], **others: list[list[float]]) -> ForwardBackwardOutput:
    """What the trainer says of completions; the last token of the prompt comes before them."""
    rows = {"logprobs": logprobs, **others}
    outputs = [
        {name: np.array([-9.0, *values[index]], np.float32) for name, values in rows.items()}
        for index in range(len(logprobs))
    ]
    return ForwardBackwardOutput(outputs, {})


def batch(*rollouts: Rollout) -> Batch:
    return Batch(list(rollouts), Loss("ppo"))


# By hand


def test_the_gap_is_that_of_the_tokens_that_the_same_weights_drew():
    made = batch(rollout([-1.0, -0.5]), rollout([-1.0], version=6))
    found = alarms.gap(made, passed([[-1.3, -0.4], [-5.0]]), step=7)
    assert found == pytest.approx(0.2)
    assert alarms.gap_alarm(found, spec(alarms={"gap": 0.3})) is None
    assert alarms.gap_alarm(found, spec(alarms={"gap": None})) is None
    alarm = alarms.gap_alarm(found, spec())
    assert alarm is not None and "differ by 0.2 nats" in alarm and "alarms.gap is 0.05" in alarm


def test_rollouts_of_older_weights_have_no_gap():
    assert alarms.gap(batch(rollout([-1.0], version=6)), passed([[-5.0]]), step=7) is None


def test_the_excess_is_weighted_by_the_ratio_and_counted_in_standard_errors():
    made = batch(rollout([-1.0, -2.0]), rollout([-9.0], independent=False))
    # ratios 1 and e; -log p - H is 0.5 and -0.5
    said = passed([[-1.0, -1.0], [-9.0]], entropy=[[0.5, 1.5], [0.0]], entropy_variance=[[0.4, 0.8], [50.0]])
    total = 0.5 - 0.5 * np.e
    variance = (0.25 + 0.25 * np.e**2 + 2 * 1.2) / 3
    assert alarms.excess(made, said, spec()) == pytest.approx(total / np.sqrt(variance), rel=1e-5)


def test_nothing_is_said_of_the_entropy_where_nothing_can_be_said():
    made, silent = batch(rollout([-1.0])), passed([[-1.0]])
    said = passed([[-1.0]], entropy=[[0.5]], entropy_variance=[[0.5]])
    assert alarms.excess(made, said, spec()) is not None
    assert alarms.excess(made, silent, spec()) is None
    assert alarms.excess(batch(rollout([-1.0], independent=False)), said, spec()) is None
    for sampling in ({"temperature": 0.5}, {"top_p": 0.9}, {"top_k": 5}):
        assert alarms.excess(made, said, spec(sampling=sampling)) is None, sampling


def test_the_entropy_alarm_says_in_which_direction():
    assert alarms.entropy_alarm(6.0, spec()) is None
    assert alarms.entropy_alarm(-60.0, spec(alarms={"entropy_errors": None})) is None
    for errors, word in ((6.1, "more"), (-6.1, "less")):
        alarm = alarms.entropy_alarm(errors, spec())
        assert alarm is not None and f"{word} surprising" in alarm and "6.1 standard errors" in alarm


# Drawn

V = 50


def policies(chance: np.random.Generator, shape: tuple[int, ...], sharpness: float) -> np.ndarray:
    """log p of random distributions, the sharper the more certain."""
    logits = chance.normal(size=(*shape, V)) * sharpness
    return np.asarray(logits - np.log(np.exp(logits).sum(-1, keepdims=True)))


def drawn(chance: np.random.Generator, logp: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """A token of each distribution."""
    noise = chance.gumbel(size=logp.shape)
    return np.asarray((logp / temperature + noise).argmax(-1))


def errors_of(logp: np.ndarray, logq: np.ndarray, tokens: np.ndarray) -> float:
    """The statistic for tokens drawn from q, with p the trainer's."""

    def of(array: np.ndarray) -> np.ndarray:
        return np.take_along_axis(array, tokens[..., None], -1).ravel()

    entropy = -(np.exp(logp) * logp).sum(-1)
    variance = (np.exp(logp) * (logp + entropy[..., None]) ** 2).sum(-1)
    return alarms.standard_errors(of(logp), np.exp(of(logp) - of(logq)), entropy.ravel(), variance.ravel())


def moved(chance: np.random.Generator, logp: np.ndarray, by: float) -> np.ndarray:
    """The policy of other weights."""
    logits = logp + chance.normal(size=logp.shape) * by
    return np.asarray(logits - np.log(np.exp(logits).sum(-1, keepdims=True)))


@pytest.mark.parametrize(
    ("sharpness", "staleness"), [(0.0, 0.0), (1.0, 0.3), (4.0, 0.0), (4.0, 0.3), (12.0, 0.3)]
)
def test_thousands_of_clean_steps_give_no_alarm(sharpness: float, staleness: float):
    """0.3 of noise on every logit is a KL of 0.045 nats a token, more than a step of any run that learns."""
    chance = np.random.default_rng(0)
    found = []
    for tokens in (1, 8, 64):
        logp = policies(chance, (tokens,), sharpness)
        logq = moved(chance, logp, staleness)
        found += [errors_of(logp, logq, drawn(chance, logq)) for _ in range(300)]
    assert max(map(abs, found)) < 5
    assert sharpness == 0 or abs(np.mean(found)) < 0.15


@pytest.mark.parametrize("staleness", [0.0, 0.3])
@pytest.mark.parametrize("temperature", [0.5, 0.7, 1.5])
def test_a_wrong_temperature_gives_alarm_in_one_step(temperature: float, staleness: float):
    chance = np.random.default_rng(1)
    for _ in range(5):
        logp = policies(chance, (64 * 16,), 2.0)  # 64 rollouts of 16 tokens
        logq = moved(chance, logp, staleness)
        errors = errors_of(logp, logq, drawn(chance, logq, temperature))
        assert abs(errors) > 6 and (errors > 0) == (temperature > 1)


def test_leaving_out_uniform_groups_biases_no_rollout_that_counts():
    """One token decides the reward, so the groups that are trained have more rare tokens than were drawn."""
    chance = np.random.default_rng(2)
    logp = np.log(np.array([0.9, 0.1]))
    entropy = float(-(np.exp(logp) * logp).sum())
    variance = float((np.exp(logp) * (logp + entropy) ** 2).sum())
    counted, biased = [], []
    for _ in range(300):  # steps of 64 groups of 8
        groups = (chance.random((64, 8)) < 0.1).astype(int)
        mixed = [one for one in groups if len(set(one)) > 1]
        chosen = [token for one in mixed for i, token in enumerate(one) if len(set(one[:i])) > 1]
        for tokens, into in ((chosen, counted), (np.concatenate(mixed), biased)):
            p = logp[np.array(tokens)]
            ones = np.ones(len(p))
            into.append(alarms.standard_errors(p, ones, entropy * ones, variance * ones))
    assert abs(np.mean(counted)) < 0.2 and max(map(abs, counted)) < 5
    assert np.mean(biased) > 2  # what would be seen without it

"""A batch for the trainer: scored groups of rollouts in, datums with advantages out. Pure.

A datum is the prompt and the completion less its last token; targets are shifted by one, and prompt positions have
zeros. What a token is trained with is its rollout's advantage, less its penalty for leaving the base model, times its
rollout's weight: the trainer sums, so the mean that the algorithm prescribes is in the weights.

Axes: N groups, G rollouts of a group that have a reward, P tokens of a prompt, T of a completion.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from rekindle.types import Datum, ForwardBackwardRequest, SampledSequence
from rekindle.types.losses import ENTROPY
from rekindle.types.rl import RlRunSpec
from services.data.rl.algorithms import Loss, Rule, penalties, rule_of, uniform_teaches
from services.data.rl.results import Group


@dataclass(frozen=True, slots=True, eq=False)
class Rollout:
    """One rollout that is learned from."""

    prompt_P: Sequence[int]
    sequence: SampledSequence
    advantages_T: np.ndarray
    """Before the weight."""
    weight: float
    version: int
    """Of the weights that drew it."""
    independent: bool
    """Whether what it drew has nothing to do with its being here."""

    def datum(self) -> Datum:
        """As every policy loss takes it."""
        tokens = np.concatenate([np.asarray(self.prompt_P, np.int64), self.sequence.tokens.astype(np.int64)])
        padding = np.zeros(len(self.prompt_P) - 1, np.float32)
        weighted_T = (self.advantages_T * self.weight).astype(np.float32)
        return Datum(
            tokens[:-1],
            {
                "target_tokens": tokens[1:],
                "logprobs": np.concatenate([padding, self.sequence.logprobs.astype(np.float32)]),
                "advantages": np.concatenate([padding, weighted_T]),
            },
        )


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """What one step learns from, in the order of the trainer's outputs."""

    rollouts: list[Rollout]
    loss: Loss

    def request(self, training_run: str, number: int) -> ForwardBackwardRequest:
        """The command of that number."""
        return ForwardBackwardRequest(
            model_id=training_run,
            seq_id=number,
            data=[rollout.datum() for rollout in self.rollouts],
            loss_fn=self.loss.name,
            loss_fn_config=dict(self.loss.config),
            forward_only=False,
        )


def make_batch(
    spec: RlRunSpec,
    groups_N: Sequence[Group],
    prompts_N: Sequence[Sequence[int]],
    baseline: float | None,
    uniform: int = 0,
) -> Batch:
    """The batch of these groups; rollouts without a reward are left out before anything is reckoned.

    Groups with too few rewards are left out too: rollouts that were drawn again may have others than were decided on.

    uniform: groups beside them that teach nothing, and count in a mean over groups.
    """
    rule = rule_of(spec.algorithm)
    enough = [index for index, group in enumerate(groups_N) if len(_scored(group)) >= rule.least]
    groups_N, prompts_N = [groups_N[index] for index in enough], [prompts_N[index] for index in enough]
    kept_N = [_scored(group) for group in groups_N]
    lengths_NG = [
        [len(group.sequences[index].tokens) for index in kept]
        for group, kept in zip(groups_N, kept_N, strict=True)
    ]
    weights_NG = rule.weights(lengths_NG, spec.sampling.max_tokens, uniform)
    rollouts: list[Rollout] = []
    for group, prompt_P, kept, weights_G in zip(groups_N, prompts_N, kept_N, weights_NG, strict=True):
        rewards_G = [_reward(group, index) for index in kept]
        advantages_G = rule.advantages(rewards_G, baseline)
        rollouts += [
            Rollout(
                prompt_P,
                group.sequences[index],
                _advantages(spec, group, index, advantage),
                weight,
                group.score.sample.version,
                independent,
            )
            for index, advantage, weight, independent in zip(
                kept, advantages_G, weights_G, _independent(spec, rewards_G), strict=True
            )
        ]
    return Batch(rollouts, _loss(spec, rule))


def _loss(spec: RlRunSpec, rule: Rule) -> Loss:
    """The algorithm's; the alarms want to know the trainer's entropies."""
    loss = rule.loss()
    return loss if spec.alarms.entropy_errors is None else replace(loss, config={**loss.config, ENTROPY: 1.0})


def _independent(spec: RlRunSpec, rewards_G: Sequence[float]) -> list[bool]:
    """Which rollouts of a group would be here whatever they had drawn.

    A group is left out when all its rewards are the same; so it is here, whatever a rollout drew, once those before
    it have different ones. That depends on these alone, so a sum over such rollouts, one after the other, is a
    martingale.
    """
    if uniform_teaches(spec):
        return [True] * len(rewards_G)
    return [len(set(rewards_G[:index])) > 1 for index in range(len(rewards_G))]


def _scored(group: Group) -> list[int]:
    """The rollouts that have a reward."""
    return [index for index, verdict in enumerate(group.verdicts) if verdict.value is not None]


def _reward(group: Group, index: int) -> float:
    value = group.verdicts[index].value
    assert value is not None, "rollouts without a reward were left out"
    return value


def _advantages(spec: RlRunSpec, group: Group, index: int, advantage: float) -> np.ndarray:
    """(T,) of one rollout, penalties for leaving the base model taken off."""
    sequence = group.sequences[index]
    advantages_T = np.full(len(sequence.tokens), advantage, np.float64)
    if group.base_logprobs is not None:
        advantages_T -= penalties(sequence.logprobs.tolist(), group.base_logprobs[index].tolist(), spec.kl)
    return advantages_T

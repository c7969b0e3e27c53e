"""REINFORCE with a baseline (Williams 1992, https://doi.org/10.1007/BF00992696).

    A_i     = r_i − b
    b_{k+1} = d·b_k + (1 − d)·mean reward of batch k                 b_0: the mean of the first batch itself
    ∇J      = 1/N Σ_groups 1/G Σ_i A_i ∇ log π(o_i)                  log π(o_i): the sum over the completion's tokens

The baseline comes from earlier batches, so a single rollout of a prompt says something, and so does a group whose
rewards are all the same. Stale samples are corrected by the token's probability ratio, unclipped.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from rekindle.types.rl import Reinforce
from services.data.rl.algorithms.rule import Loss, Rule, mean_over_rollouts


@dataclass(frozen=True)
class ReinforceRule(Rule):
    spec: Reinforce

    least = 1
    uniform_teaches = True

    def loss(self) -> Loss:
        return Loss("importance_sampling")

    def advantages(self, rewards_G: Sequence[float], baseline: float | None = None) -> list[float]:
        assert baseline is not None, "the baseline of a batch is known before its advantages"
        return [reward - baseline for reward in rewards_G]

    def weights(
        self, lengths_NG: Sequence[Sequence[int]], max_tokens: int, uniform: int = 0
    ) -> list[list[float]]:
        """1 / (N·G)."""
        return mean_over_rollouts(lengths_NG, uniform)

    def next_baseline(self, baseline: float | None, mean: float) -> float | None:
        return mean if baseline is None else self.spec.decay * baseline + (1 - self.spec.decay) * mean

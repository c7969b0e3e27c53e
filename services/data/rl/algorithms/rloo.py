"""REINFORCE leave-one-out (Ahmadian et al. 2024, https://arxiv.org/abs/2402.14740, section 3.2; Kool et al. 2019).

    A_i = r_i − 1/(G−1) Σ_{j≠i} r_j = G/(G−1) · (r_i − mean(r))
    ∇J  = 1/N Σ_groups 1/G Σ_i A_i ∇ log π(o_i)                      log π(o_i): the sum over the completion's tokens

The baseline does not depend on rollout i, so the gradient is unbiased. Stale samples are corrected by the token's
probability ratio, unclipped.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from rekindle.types.rl import Rloo
from services.data.rl.algorithms.rule import Loss, Rule, mean_over_rollouts


@dataclass(frozen=True)
class RlooRule(Rule):
    spec: Rloo

    def loss(self) -> Loss:
        return Loss("importance_sampling")

    def advantages(self, rewards_G: Sequence[float], baseline: float | None = None) -> list[float]:
        """Of at least two rewards."""
        total, others = sum(rewards_G), len(rewards_G) - 1
        return [reward - (total - reward) / others for reward in rewards_G]

    def weights(
        self, lengths_NG: Sequence[Sequence[int]], max_tokens: int, uniform: int = 0
    ) -> list[list[float]]:
        """1 / (N·G)."""
        return mean_over_rollouts(lengths_NG, uniform)

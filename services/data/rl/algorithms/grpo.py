"""Group relative policy optimization (Shao et al. 2024, https://arxiv.org/abs/2402.03300, equation 3).

    A_i = (r_i − mean(r)) / std(r)                                   mean and std over the group, std with divisor G
    J   = 1/N Σ_groups 1/G Σ_i 1/|o_i| Σ_t min(ρ·A_i, clip(ρ, 1−ε, 1+ε)·A_i)      ρ = π(o_t) / π_sampler(o_t)

A group whose rewards are all the same has std 0 and no advantage. The paper's KL term inside the loss is not here:
KL to the base is a penalty inside the advantages, see `kl`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import hypot, sqrt

from rekindle.types.rl import Grpo
from services.data.rl.algorithms.rule import Loss, Rule, clipped, mean_of


@dataclass(frozen=True)
class GrpoRule(Rule):
    spec: Grpo

    def loss(self) -> Loss:
        return clipped(self.spec.clip_low, self.spec.clip_high)

    def advantages(self, rewards_G: Sequence[float], baseline: float | None = None) -> list[float]:
        mean = mean_of(rewards_G)
        deviations_G = [reward - mean for reward in rewards_G]
        std = hypot(*deviations_G) / sqrt(
            len(rewards_G)
        )  # a square alone may be too small, or too large, for a float
        if len(set(rewards_G)) == 1 or std == 0:
            return [0.0] * len(rewards_G)
        return [deviation / std for deviation in deviations_G]

    def weights(
        self, lengths_NG: Sequence[Sequence[int]], max_tokens: int, uniform: int = 0
    ) -> list[list[float]]:
        """A mean over tokens, then over rollouts, then over groups: 1 / (N·G·|o_i|)."""
        groups = len(lengths_NG) + uniform
        return [[1 / (groups * len(lengths_G) * length) for length in lengths_G] for lengths_G in lengths_NG]

"""Group relative policy optimization (Shao et al. 2024, https://arxiv.org/abs/2402.03300, equation 3).

    A_i = (r_i − mean(r)) / std(r)                                   mean and std over the group, std with divisor G
    J   = 1/N Σ_groups 1/G Σ_i 1/|o_i| Σ_t min(ρ·A_i, clip(ρ, 1−ε, 1+ε)·A_i)      ρ = π(o_t) / π_sampler(o_t)

A group whose rewards are all the same has std 0 and no advantage. The paper's KL term inside the loss is not here:
KL to the base is a penalty inside the advantages, see `kl`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from rekindle.types.rl import Grpo
from services.data.rl.algorithms.rule import Loss, Rule, clipped, mean_of


@dataclass(frozen=True)
class GrpoRule(Rule):
    spec: Grpo

    def loss(self) -> Loss:
        return clipped(self.spec.clip_low, self.spec.clip_high)

    def advantages(self, rewards_G: Sequence[float], baseline: float | None = None) -> list[float]:
        if len(set(rewards_G)) == 1:
            return [0.0] * len(rewards_G)
        mean = mean_of(rewards_G)
        std = mean_of([(reward - mean) ** 2 for reward in rewards_G]) ** 0.5
        return [(reward - mean) / std for reward in rewards_G]

    def weights(self, lengths_NG: Sequence[Sequence[int]], max_tokens: int) -> list[list[float]]:
        """A mean over tokens, then over rollouts, then over groups: 1 / (N·G·|o_i|)."""
        groups = len(lengths_NG)
        return [[1 / (groups * len(lengths_G) * length) for length in lengths_G] for lengths_G in lengths_NG]

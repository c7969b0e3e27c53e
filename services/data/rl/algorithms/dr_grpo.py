"""GRPO done right (Liu et al. 2025, https://arxiv.org/abs/2503.20783, section 3.2).

    A_i = r_i − mean(r)
    J   = 1/N Σ_groups 1/G Σ_i 1/L Σ_t min(ρ·A_i, clip(ρ, 1−ε, 1+ε)·A_i)          L: the most tokens of a completion

Without std(r) easy and hard prompts weigh the same; with the constant L in place of |o_i|, as in the authors'
listing 1, a long wrong answer is not punished less for its length.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from rekindle.types.rl import DrGrpo
from services.data.rl.algorithms.rule import Loss, Rule, clipped, mean_of, mean_over_rollouts


@dataclass(frozen=True)
class DrGrpoRule(Rule):
    spec: DrGrpo

    def loss(self) -> Loss:
        return clipped(self.spec.clip_low, self.spec.clip_high)

    def advantages(self, rewards_G: Sequence[float], baseline: float | None = None) -> list[float]:
        mean = mean_of(rewards_G)
        return [reward - mean for reward in rewards_G]

    def weights(
        self, lengths_NG: Sequence[Sequence[int]], max_tokens: int, uniform: int = 0
    ) -> list[list[float]]:
        """1 / (N·G·L)."""
        mean_NG = mean_over_rollouts(lengths_NG, uniform)
        return [[weight / max_tokens for weight in weights_G] for weights_G in mean_NG]

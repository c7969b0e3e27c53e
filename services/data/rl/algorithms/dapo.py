"""Decoupled clip and dynamic sampling (Yu et al. 2025, https://arxiv.org/abs/2503.14476, section 3).

    A_i = (r_i − mean(r)) / std(r)
    J   = 1/Σ|o_i| Σ_groups Σ_i Σ_t min(ρ·A_i, clip(ρ, 1−ε_low, 1+ε_high)·A_i)

ε_high is above ε_low, so that unlikely tokens may become likely (clip-higher). Every token weighs the same: the mean
is over all tokens of the batch, as in the authors' code; their equation 8 takes it within each group. A group whose
rewards are all the same is replaced by a further prompt (dynamic sampling), which the state machine does.
Overlong completions are not punished here: that is a grader's matter.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from rekindle.types.rl import Dapo, Grpo
from services.data.rl.algorithms.grpo import GrpoRule
from services.data.rl.algorithms.rule import Loss, Rule, clipped


@dataclass(frozen=True)
class DapoRule(Rule):
    spec: Dapo

    @property
    def refills(self) -> int:
        return self.spec.refills

    def loss(self) -> Loss:
        return clipped(self.spec.clip_low, self.spec.clip_high)

    def advantages(self, rewards_G: Sequence[float], baseline: float | None = None) -> list[float]:
        return GrpoRule(Grpo()).advantages(rewards_G)

    def weights(
        self, lengths_NG: Sequence[Sequence[int]], max_tokens: int, uniform: int = 0
    ) -> list[list[float]]:
        """1 / (tokens of the batch); a group that teaches nothing is no part of it."""
        tokens = sum(map(sum, lengths_NG))
        return [[1 / tokens] * len(lengths_G) for lengths_G in lengths_NG]

"""What every algorithm answers: advantages of a group, weights of its tokens, and the loss that takes them.

The trainer sums over tokens and never divides, so the mean that an algorithm prescribes is in the weights: the
advantage that a token is trained with is its rollout's advantage times its rollout's weight.

A mean over groups is over all of a batch that have rewards enough, whether or not they teach anything: one whose
rewards are all the same has a gradient of zero, so it need not be trained, but it counts.

Axes: N groups that are trained, G rollouts of a group that have a reward.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Loss:
    """A loss of the trainer's. Example: Loss("ppo", {"clip_low_threshold": 0.8, "clip_high_threshold": 1.2})."""

    name: str
    config: dict[str, float] = field(default_factory=dict)


def clipped(low: float, high: float) -> Loss:
    """The clipped surrogate whose ratio pulls from 1 - low to 1 + high."""
    return Loss("ppo", {"clip_low_threshold": 1 - low, "clip_high_threshold": 1 + high})


class Rule(ABC):
    """One algorithm with its settings."""

    least = 2
    """Rollouts with a reward that a group needs to say anything."""
    uniform_teaches = False
    """Whether a group teaches something in which all rewards are the same."""

    @property
    def refills(self) -> int:
        """How often a place whose group teaches nothing is filled with a further prompt."""
        return 0

    @abstractmethod
    def loss(self) -> Loss:
        """What the trainer minimises."""

    @abstractmethod
    def advantages(self, rewards_G: Sequence[float], baseline: float | None = None) -> list[float]:
        """G advantages. `baseline` is that of `next_baseline`, for algorithms that keep one."""

    @abstractmethod
    def weights(
        self, lengths_NG: Sequence[Sequence[int]], max_tokens: int, uniform: int = 0
    ) -> list[list[float]]:
        """The weight of each token of each rollout, by group.

        `lengths_NG` are the tokens of the completions (at least 1) of the groups that are trained, `max_tokens` the
        most that one may have, `uniform` the groups beside them that teach nothing.
        """

    def next_baseline(self, baseline: float | None, mean: float) -> float | None:
        """The baseline after a batch with this mean reward; None: the algorithm keeps none."""
        return None


def mean_of(rewards_G: Sequence[float]) -> float:
    return sum(rewards_G) / len(rewards_G)


def mean_over_rollouts(lengths_NG: Sequence[Sequence[int]], uniform: int) -> list[list[float]]:
    """Every rollout's tokens are summed, and that averaged over its group and over groups: 1 / (N·G)."""
    groups = len(lengths_NG) + uniform
    return [[1 / (groups * len(lengths_G))] * len(lengths_G) for lengths_G in lengths_NG]

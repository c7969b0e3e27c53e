"""From the rewards of a group to what its tokens are trained with: one short file an algorithm.

`rule_of` gives the algorithm of a spec; `rule` says what every algorithm answers.
"""

from rekindle.types.rl import Algorithm, Dapo, DrGrpo, Grpo, Reinforce, Rloo, RlRunSpec
from services.data.rl.algorithms.dapo import DapoRule
from services.data.rl.algorithms.dr_grpo import DrGrpoRule
from services.data.rl.algorithms.grpo import GrpoRule
from services.data.rl.algorithms.kl import penalties
from services.data.rl.algorithms.reinforce import ReinforceRule
from services.data.rl.algorithms.rloo import RlooRule
from services.data.rl.algorithms.rule import Loss, Rule

__all__ = ["Loss", "Rule", "penalties", "rule_of", "uniform_teaches"]


def rule_of(algorithm: Algorithm) -> Rule:
    """The algorithm with its settings."""
    match algorithm:
        case Grpo():
            return GrpoRule(algorithm)
        case DrGrpo():
            return DrGrpoRule(algorithm)
        case Rloo():
            return RlooRule(algorithm)
        case Reinforce():
            return ReinforceRule(algorithm)
        case Dapo():
            return DapoRule(algorithm)


def uniform_teaches(spec: RlRunSpec) -> bool:
    """Whether a group is trained in which all rewards are the same."""
    return rule_of(spec.algorithm).uniform_teaches or spec.kl.coefficient > 0

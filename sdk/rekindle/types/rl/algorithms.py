"""Which algorithm turns rewards into updates, and its settings. The formulas stand with whoever computes them."""

from typing import Annotated, Literal

from pydantic import Field

from rekindle.types.rewards import Exact

ClipLow = Annotated[float, Field(ge=0, le=1)]
ClipHigh = Annotated[float, Field(ge=0, le=100)]


class Grpo(Exact):
    """Group relative policy optimization: rewards centred and scaled within a group, clipped ratios."""

    type: Literal["grpo"] = "grpo"
    clip_low: ClipLow = 0.2
    """How far below 1 the probability ratio may pull."""
    clip_high: ClipHigh = 0.2
    """How far above 1."""


class DrGrpo(Exact):
    """GRPO without its two biases: rewards are centred but not scaled, and every token weighs the same."""

    type: Literal["dr_grpo"] = "dr_grpo"
    clip_low: ClipLow = 0.2
    """How far below 1 the probability ratio may pull."""
    clip_high: ClipHigh = 0.2
    """How far above 1."""


class Rloo(Exact):
    """REINFORCE, whose baseline of a rollout is the mean of the others of its group."""

    type: Literal["rloo"] = "rloo"


class Reinforce(Exact):
    """REINFORCE, whose baseline is a running mean of the rewards of all batches before."""

    type: Literal["reinforce"] = "reinforce"
    decay: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Share of the old mean that stays when a batch comes in."""


class Dapo(Exact):
    """Clip-higher, a mean over tokens, and groups that teach nothing replaced by further prompts."""

    type: Literal["dapo"] = "dapo"
    clip_low: ClipLow = 0.2
    """How far below 1 the probability ratio may pull."""
    clip_high: ClipHigh = 0.28
    """How far above 1."""
    refills: Annotated[int, Field(ge=0, le=100)] = 3
    """How often one place of a batch is filled with a further prompt before it is left empty."""


Algorithm = Annotated[Grpo | DrGrpo | Rloo | Reinforce | Dapo, Field(discriminator="type")]

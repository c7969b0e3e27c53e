"""The losses and what each takes: one table that the checks at the edge and the trainer both read.

Formulas live with the trainer; here are names, defaults and bounds. Axes: N input tokens, K targets at one
position.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np

from rekindle.types.errors import InvalidField

TARGETS = "target_tokens"
"""The one integer input, taken by every loss: the token that position i predicts, already shifted."""
ENTROPY = "entropy"
"""The one configuration value that every loss takes: 1 asks for what the trainer's distribution is like at each
position, `entropy` and `entropy_variance` beside the logprobs; 0 does not."""


@dataclass(frozen=True, slots=True)
class Number:
    """A configuration value: its default and its closed bounds."""

    default: float
    minimum: float
    maximum: float


@dataclass(frozen=True, slots=True)
class LossSpec:
    """What one loss takes. All inputs have the shape of `target_tokens`."""

    inputs: tuple[str, ...]
    """Required inputs, float32 but for `target_tokens` (int64)."""
    optional_inputs: Mapping[str, float | None] = field(default_factory=dict)
    """Optional inputs, each with its value where it is absent; None: the configuration value of that name."""
    config: Mapping[str, Number] = field(default_factory=dict)
    """Configuration values."""
    ordered: tuple[str, str] | None = None
    """Two configuration values of which the first may not exceed the second."""
    many_targets: bool = False
    """Whether (N, K) targets are allowed beside (N,)."""

    @property
    def all_inputs(self) -> tuple[str, ...]:
        return (*self.inputs, *self.optional_inputs)

    def fill_config(self, config: Mapping[str, float | str]) -> dict[str, float]:
        """Every configuration value: the given one or the default. `config` must have been checked."""
        return {key: float(config.get(key, number.default)) for key, number in self.config.items()}

    def asks_entropy(self, config: Mapping[str, float | str]) -> bool:
        """Whether the outputs shall have it. `config` must have been checked."""
        return self.fill_config(config)[ENTROPY] > 0

    def fill_inputs(
        self, inputs: Mapping[str, np.ndarray], config: Mapping[str, float | str]
    ) -> dict[str, np.ndarray]:
        """Every input, absent ones filled with their value in the shape of `target_tokens` (float32)."""
        values = self.fill_config(config)
        shape = inputs[TARGETS].shape
        filled = {
            name: np.full(shape, values[name] if absent is None else absent, np.float32)
            for name, absent in self.optional_inputs.items()
            if name not in inputs
        }
        return {**inputs, **filled}


_ASKS = {ENTROPY: Number(0.0, 0.0, 1.0)}
_POLICY_INPUTS = (TARGETS, "logprobs", "advantages")
_RATIO = 1e6  # a bound that only catches nonsense: ratios this far from 1 overflow nothing and mean nothing

LOSSES: Mapping[str, LossSpec] = MappingProxyType(
    {
        "cross_entropy": LossSpec(
            (TARGETS,), optional_inputs={"weights": 1.0}, config=_ASKS, many_targets=True
        ),
        "importance_sampling": LossSpec(_POLICY_INPUTS, config=_ASKS),
        "ppo": LossSpec(
            _POLICY_INPUTS,
            optional_inputs={"clip_low_threshold": None, "clip_high_threshold": None},
            # absolute bounds of the probability ratio, not distances from 1
            config={
                "clip_low_threshold": Number(0.8, 0.0, _RATIO),
                "clip_high_threshold": Number(1.2, 0.0, _RATIO),
                **_ASKS,
            },
            ordered=("clip_low_threshold", "clip_high_threshold"),
        ),
    }
)
"""Every loss that the trainer computes."""


def find_loss(name: str) -> LossSpec:
    """The loss of this name. Raises `InvalidField` that lists what is supported."""
    if name not in LOSSES:
        raise InvalidField("loss_fn", f"{name!r} is not supported; supported: {', '.join(LOSSES)}")
    return LOSSES[name]

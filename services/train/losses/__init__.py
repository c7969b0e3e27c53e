"""The losses that `forward_backward` knows: one file each, with its formula and source.

A loss is a pure function of logprobs and of the inputs that came with the datums. It sees the cells
(token positions times target columns) of any number of datums as one flat row, and it sums: nothing is ever
divided by tokens, datums or chunks, callers normalise through weights and advantages. What each loss takes,
and what stands in for an absent input, is said by `rekindle.types.losses`; here all of it is present.

Axis: C cells.
"""

from collections.abc import Callable, Mapping

from torch import Tensor

from services.train.losses.cross_entropy import cross_entropy
from services.train.losses.importance_sampling import importance_sampling
from services.train.losses.ppo import ppo

Loss = Callable[[Tensor, Mapping[str, Tensor]], tuple[Tensor, dict[str, Tensor]]]
"""(logprobs_C, inputs by name, each (C,)) -> (summed loss, float64; metrics by `name:reduction`)."""

LOSSES: dict[str, Loss] = {
    "cross_entropy": cross_entropy,
    "importance_sampling": importance_sampling,
    "ppo": ppo,
}

__all__ = ["LOSSES", "Loss"]

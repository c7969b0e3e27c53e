"""Weighted cross-entropy: loss = -Σ w·p.

p is the logprob of a target under the current model, w its weight. With several target columns it is
soft-label distillation, w being the teacher's probabilities (Hinton et al. 2015,
https://arxiv.org/abs/1503.02531). The loss is linear in w, of either sign.
"""

from collections.abc import Mapping

import torch
from torch import Tensor


def cross_entropy(logprobs_C: Tensor, inputs: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """Reads `weights`."""
    return -(logprobs_C * inputs["weights"]).sum(dtype=torch.float64), {}

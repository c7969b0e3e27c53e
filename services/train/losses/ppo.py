"""Clipped surrogate objective: loss = -Σ min(r·A, clip(r, low, high)·A), r = exp(p - q).

Schulman et al. 2017, equation 7, https://arxiv.org/abs/1707.06347, as a loss. The thresholds are bounds of
the ratio itself, one pair for every token, not distances from 1.
"""

from collections.abc import Mapping

import torch
from torch import Tensor


def ppo(logprobs_C: Tensor, inputs: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """Reads `logprobs` (q), `advantages` (A), `clip_low_threshold` and `clip_high_threshold`.

    The metric `clipped_tokens:sum` counts the tokens that the clip keeps from changing the policy.
    """
    advantages_C = inputs["advantages"]
    ratio_C = torch.exp(logprobs_C - inputs["logprobs"])
    free_C = ratio_C * advantages_C
    clipped_C = ratio_C.clamp(inputs["clip_low_threshold"], inputs["clip_high_threshold"]) * advantages_C
    loss = -torch.minimum(free_C, clipped_C).sum(dtype=torch.float64)
    return loss, {"clipped_tokens:sum": (clipped_C < free_C).sum()}

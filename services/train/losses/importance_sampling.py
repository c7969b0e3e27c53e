"""Importance-weighted policy gradient: loss = -Σ r·A, r = exp(p - q).

p and q are the logprobs of the sampled token under the current model and under the one that sampled it, A its
advantage. The gradient flows through the ratio r, so at p = q it is REINFORCE's (Williams 1992,
https://doi.org/10.1007/BF00992696) and otherwise corrected for stale samples.
"""

from collections.abc import Mapping

import torch
from torch import Tensor


def importance_sampling(logprobs_C: Tensor, inputs: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """Reads `logprobs` (q) and `advantages` (A)."""
    ratio_C = torch.exp(logprobs_C - inputs["logprobs"])
    return -(ratio_C * inputs["advantages"]).sum(dtype=torch.float64), {}

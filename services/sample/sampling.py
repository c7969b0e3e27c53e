"""Draw one token for each row of a batch, every row under its own temperature, top-k and top-p.

A draw is the inverse of the cumulative distribution at one uniform number, so a row needs nothing but its own
logprobs and its own number. Order, as everywhere in the field: temperature, then top-k, then top-p on what
top-k left. Only rows that ask for top-k or top-p pay for sorting.

Axes: N rows, K draws of a row, M rows that restrict, V vocabulary, W kept candidates.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def invert(weight_N_V: Tensor, uniform_N_K: Tensor) -> Tensor:
    """(N, K) indices, K drawn from each row of non-negative weights; weight zero is never drawn.

    A row that holds NaN gives some index: its caller sees the NaN in the logprob.
    """
    cumulative_N_V = weight_N_V.cumsum(-1)
    index_N_K = torch.searchsorted(cumulative_N_V, uniform_N_K * cumulative_N_V[:, -1:], right=True)
    return index_N_K.clamp_max_(weight_N_V.shape[1] - 1)


class DrawPlan:
    """What the rows of a batch ask for, prepared once for as long as the rows stay the same."""

    def __init__(
        self,
        temperature_N: NDArray[np.float64],
        top_k_N: NDArray[np.int64],
        top_p_N: NDArray[np.float64],
        device: torch.device,
    ) -> None:
        greedy_N = temperature_N == 0
        self._all_greedy = bool(greedy_N.all())
        self._greedy_N = torch.from_numpy(greedy_N).to(device) if greedy_N.any() else None
        self._temperature_N_1: Tensor | None = None
        if not (temperature_N == 1).all():
            divisor_N = np.where(greedy_N, 1.0, temperature_N).astype(np.float32)
            self._temperature_N_1 = torch.from_numpy(divisor_N)[:, None].to(device)
        restricted_M = np.flatnonzero(~greedy_N & ((top_k_N > 0) | (top_p_N < 1)))
        self._restricted_M: Tensor | None = None
        if restricted_M.size:
            self._restricted_M = torch.from_numpy(restricted_M).to(device)
            self._top_p_M_1 = torch.from_numpy(top_p_N[restricted_M].astype(np.float32))[:, None].to(device)
            top_k_M = np.where(top_k_N[restricted_M] > 0, top_k_N[restricted_M], np.iinfo(np.int64).max)
            self._top_k_M_1 = torch.from_numpy(top_k_M)[:, None].to(device)
            self._widest = int(top_k_M.max())

    def draw(self, logprobs_N_V: Tensor, uniform_N: Tensor) -> Tensor:
        """(N,) token ids; `logprobs_N_V` are the raw model's, `uniform_N` is in [0, 1)."""
        if self._all_greedy:
            return logprobs_N_V.argmax(-1)
        scaled_N_V = logprobs_N_V
        if self._temperature_N_1 is not None:
            scaled_N_V = torch.log_softmax(logprobs_N_V / self._temperature_N_1, -1)
        token_N = invert(scaled_N_V.exp(), uniform_N[:, None]).squeeze(1)
        if self._restricted_M is not None:
            rows_M = self._restricted_M
            token_N[rows_M] = self._draw_restricted(scaled_N_V[rows_M], uniform_N[rows_M])
        if self._greedy_N is not None:
            token_N = torch.where(self._greedy_N, logprobs_N_V.argmax(-1), token_N)
        return token_N

    def _draw_restricted(self, scaled_M_V: Tensor, uniform_M: Tensor) -> Tensor:
        if self._widest < scaled_M_V.shape[1]:
            sorted_M_W, token_M_W = scaled_M_V.topk(self._widest)
        else:
            sorted_M_W, token_M_W = scaled_M_V.sort(dim=-1, descending=True, stable=True)
        rank_W = torch.arange(sorted_M_W.shape[1], device=sorted_M_W.device)
        weight_M_W = sorted_M_W.exp().masked_fill_(rank_W >= self._top_k_M_1, 0)
        # A candidate stays while the likelier ones have not reached top_p: the first always does.
        before_M_W = weight_M_W.cumsum(-1) - weight_M_W
        weight_M_W.masked_fill_(before_M_W >= self._top_p_M_1 * weight_M_W.sum(-1, keepdim=True), 0)
        return token_M_W.gather(1, invert(weight_M_W, uniform_M[:, None])).squeeze(1)

"""Logprobs of given tokens under the raw model, without holding the logits of a whole pass.

logp[t, k] = log softmax(logits[t])[target[t, k]] at temperature 1, in float32. Logits are made for a chunk of
tokens at a time and made again for the backward pass, so memory is bounded by one chunk. Where it is asked for, the
same chunk says what the whole distribution is like: mean and variance of -log p(token) over tokens drawn from p.

Axes: T tokens, E hidden, V vocabulary, K targets per token.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from services.model.base import BaseModel
from services.model.lora import Group, Groups

CHUNK_LOGITS = 1 << 24
"""Logits alive at once: 64 MiB in float32."""


def token_logprobs(
    base: BaseModel, hidden_T_E: Tensor, target_T_K: Tensor, groups: Groups, *, spread: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Logprobs (T, K) of the targets; `groups` are disjoint slices (or one group) that cover the row.

    With `spread`, also entropy and its variance (T, 2), in nats and without a gradient; otherwise None.
    """
    step = max(1, CHUNK_LOGITS // base.vocab_size)
    whole = hidden_T_E.shape[0] <= step
    parts: list[tuple[Tensor, Tensor | None]] = []
    for group in groups:
        rows = group.rows if isinstance(group.rows, slice) else slice(0, hidden_T_E.shape[0])
        for start in range(rows.start, rows.stop, step):
            chunk = slice(start, min(start + step, rows.stop))
            arguments = (base, hidden_T_E[chunk], target_T_K[chunk], Group(group.adapter), spread)
            keep = whole or not torch.is_grad_enabled()
            parts.append(_chunk(*arguments) if keep else checkpoint(_chunk, *arguments, use_reentrant=False))
    spreads = [found for _, found in parts if found is not None]
    return torch.cat([logprobs for logprobs, _ in parts]), torch.cat(spreads) if spreads else None


def _chunk(
    base: BaseModel, hidden_T_E: Tensor, target_T_K: Tensor, group: Group, spread: bool
) -> tuple[Tensor, Tensor | None]:
    logits_T_V = base.logits(hidden_T_E, [group])
    logprobs_T_K = _TargetLogprobs.apply(logits_T_V, target_T_K)
    # the last thing of a chunk, so that making it again for the backward pass ends before it
    return logprobs_T_K, _spread(logits_T_V) if spread else None


@torch.no_grad()
def _spread(logits_T_V: Tensor) -> Tensor:
    """(T, 2): entropy H = -Σ p·log p, and Σ p·(log p)² - H², the variance of -log p(token)."""
    logp_T_V = logits_T_V.log_softmax(1)
    p_T_V = logp_T_V.exp()
    entropy_T = -torch.linalg.vecdot(p_T_V, logp_T_V)
    variance_T = torch.linalg.vecdot(p_T_V.mul_(logp_T_V), logp_T_V) - entropy_T.square()
    return torch.stack([entropy_T, variance_T], 1).clamp_min_(0)


class _TargetLogprobs(torch.autograd.Function):
    """logits[target] - logsumexp(logits), with one (T, V) tensor in the backward pass rather than four.

    With g = dL/dlogp: dL/dlogits[v] = Σ_k g_k·[target_k = v] - softmax(logits)[v]·Σ_k g_k.
    """

    @staticmethod
    def forward(ctx: Any, logits_T_V: Tensor, target_T_K: Tensor) -> Tensor:
        total_T_1 = logits_T_V.logsumexp(1, keepdim=True)
        ctx.save_for_backward(logits_T_V, target_T_K, total_T_1)
        return logits_T_V.gather(1, target_T_K).sub_(total_T_1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (grad_T_K,) = grads
        logits_T_V, target_T_K, total_T_1 = ctx.saved_tensors
        grad_T_V = torch.sub(logits_T_V, total_T_1).exp_().mul_(-grad_T_K.sum(1, keepdim=True))
        return grad_T_V.scatter_add_(1, target_T_K, grad_T_K), None

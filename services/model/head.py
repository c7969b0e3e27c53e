"""Logprobs of given tokens under the raw model, without holding the logits of a whole pass.

logp[t, k] = log softmax(logits[t])[target[t, k]] at temperature 1, in float32. Logits are made for a chunk of
tokens at a time and made again for the backward pass, so memory is bounded by one chunk.

Axes: T tokens, E hidden, V vocabulary, K targets per token.
"""

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from services.model.base import BaseModel
from services.model.lora import Group, Groups

CHUNK_LOGITS = 1 << 24
"""Logits alive at once: 64 MiB in float32."""


def token_logprobs(base: BaseModel, hidden_T_E: Tensor, target_T_K: Tensor, groups: Groups) -> Tensor:
    """Logprobs (T, K) of the targets; `groups` are disjoint slices (or one group) that cover the row."""
    step = max(1, CHUNK_LOGITS // base.vocab_size)
    whole = hidden_T_E.shape[0] <= step
    parts: list[Tensor] = []
    for group in groups:
        rows = group.rows if isinstance(group.rows, slice) else slice(0, hidden_T_E.shape[0])
        for start in range(rows.start, rows.stop, step):
            chunk = slice(start, min(start + step, rows.stop))
            arguments = (base, hidden_T_E[chunk], target_T_K[chunk], Group(group.adapter))
            keep = whole or not torch.is_grad_enabled()
            parts.append(_chunk(*arguments) if keep else checkpoint(_chunk, *arguments, use_reentrant=False))
    return torch.cat(parts)


def _chunk(base: BaseModel, hidden_T_E: Tensor, target_T_K: Tensor, group: Group) -> Tensor:
    logits_T_V = base.logits(hidden_T_E, [group])
    return logits_T_V.gather(1, target_T_K) - logits_T_V.logsumexp(1, keepdim=True)

"""Attention over a packed row: the one operation in which tokens of a pass meet.

transformers calls our function for each layer with the queries, keys and values of the whole row; the pass
brings an `Attend` that knows which token may see which. `CausalSequences` (here) is for passes over whole
sequences; the sampler has its own with a key-value cache.

Axes: T tokens of the row, H heads, K key-value heads, D head dimension, N sequences of a bucket, L length.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface

ATTENTION_NAME = "rekindle_packed"


class Attend(Protocol):
    """How the tokens of one pass see each other."""

    def __call__(
        self,
        layer: int,
        query_H_T_D: Tensor,
        key_K_T_D: Tensor,
        value_K_T_D: Tensor,
        scale: float,
        window: int | None,
    ) -> Tensor:
        """Return the attention output (T, H, D). `window` is the sliding window in tokens, None = full."""
        ...


def packed_attention(
    module: nn.Module,
    query_B_H_T_D: Tensor,
    key_B_K_T_D: Tensor,
    value_B_K_T_D: Tensor,
    attention_mask: None,
    *,
    attend: Attend,
    scaling: float,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface; B is 1, masks are the business of `attend`."""
    assert attention_mask is None, "a packed row takes no mask"
    if softcap is not None:
        raise NotImplementedError("attention logit soft-capping (Gemma 2) is not supported")
    if s_aux is not None:
        raise NotImplementedError("attention sinks (gpt-oss) are not supported")
    if not getattr(module, "is_causal", True):
        raise NotImplementedError("attention in both directions (embedding models) is not supported")
    layer: int = module.layer_idx  # type: ignore[assignment]
    out_T_H_D = attend(layer, query_B_H_T_D[0], key_B_K_T_D[0], value_B_K_T_D[0], scaling, sliding_window)
    return out_T_H_D.unsqueeze(0), None


def register() -> None:
    """Make the function known to transformers; a name without a mask function gets no mask."""
    AttentionInterface.register(ATTENTION_NAME, packed_attention)


def band_mask(length: int, window: int, device: torch.device) -> Tensor:
    """(L, L) boolean: position i sees j when i - window < j <= i."""
    position_L = torch.arange(length, device=device)
    distance_L_L = position_L[:, None] - position_L[None, :]
    return (distance_L_L >= 0) & (distance_L_L < window)


@dataclass(frozen=True, slots=True)
class _Bucket:
    """Sequences of similar length, padded on the right to the longest of them."""

    token_N_L: Tensor
    """Position in the row of each cell; padding repeats the sequence's first token."""
    cell: Tensor
    """Flat positions of the cells that hold a token, in row-major order."""


class CausalSequences:
    """Each sequence of the row attends causally to itself.

    Sequences of similar length share one call, padded on the right: a causal query never looks at what
    comes after it, so the padding needs no mask. Lengths within a bucket differ by less than a factor of two.
    """

    def __init__(self, lengths: Sequence[int], device: torch.device) -> None:
        starts = [0]
        for length in lengths:
            starts.append(starts[-1] + length)
        self._tokens = starts[-1]
        self._equal = len(lengths) if len(set(lengths)) == 1 else 0
        self.position_T = torch.cat([torch.arange(length) for length in lengths]).to(device)
        self._buckets: list[_Bucket] = []
        if not self._equal:
            self._bucket(starts, lengths, device)

    def _bucket(self, starts: list[int], lengths: Sequence[int], device: torch.device) -> None:
        classes: dict[int, list[int]] = {}
        for index, length in enumerate(lengths):
            classes.setdefault(length.bit_length(), []).append(index)
        order: list[Tensor] = []
        for members in classes.values():
            length_N = torch.tensor([lengths[i] for i in members])
            start_N = torch.tensor([starts[i] for i in members])
            offset_L = torch.arange(int(length_N.max()))
            valid_N_L = offset_L[None] < length_N[:, None]
            token_N_L = start_N[:, None] + offset_L[None] * valid_N_L
            self._buckets.append(
                _Bucket(token_N_L.to(device), valid_N_L.flatten().nonzero().squeeze(1).to(device))
            )
            order.append(token_N_L[valid_N_L])
        self._inverse_T = torch.argsort(torch.cat(order)).to(device)

    def __call__(
        self,
        layer: int,
        query_H_T_D: Tensor,
        key_K_T_D: Tensor,
        value_K_T_D: Tensor,
        scale: float,
        window: int | None,
    ) -> Tensor:
        row = (query_H_T_D, key_K_T_D, value_K_T_D)
        if self._equal:
            query, key, value = (tensor.unflatten(1, (self._equal, -1)).transpose(0, 1) for tensor in row)
            out_N_H_L_D = causal(query, key, value, scale, window)
            return out_N_H_L_D.transpose(1, 2).flatten(0, 1)
        outs = []
        for bucket in self._buckets:
            query, key, value = (tensor[:, bucket.token_N_L].transpose(0, 1) for tensor in row)
            out_N_H_L_D = causal(query, key, value, scale, window)
            outs.append(out_N_H_L_D.transpose(1, 2).flatten(0, 1)[bucket.cell])
        return torch.cat(outs)[self._inverse_T]


def causal(
    query_N_H_L_D: Tensor, key_N_K_L_D: Tensor, value_N_K_L_D: Tensor, scale: float, window: int | None
) -> Tensor:
    """Causal attention (N, H, L, D) of N equally long sequences, grouped heads included."""
    length = query_N_H_L_D.shape[2]
    group = query_N_H_L_D.shape[1] // key_N_K_L_D.shape[1]
    if group > 1:
        key_N_K_L_D = key_N_K_L_D.repeat_interleave(group, dim=1)
        value_N_K_L_D = value_N_K_L_D.repeat_interleave(group, dim=1)
    banded = window is not None and window < length
    mask = band_mask(length, window, query_N_H_L_D.device) if banded and window is not None else None
    return F.scaled_dot_product_attention(
        query_N_H_L_D, key_N_K_L_D, value_N_K_L_D, attn_mask=mask, is_causal=not banded, scale=scale
    )

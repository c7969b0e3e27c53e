"""Who sees whom in one pass of the sampler: the `Attend` of `services.model.attention` with a cache behind it.

Axes: C layers times two, N decoding rows, P prompt tokens, T tokens of the pass or of a part of it, L cache
length, H query heads, K key-value heads, G query heads of one key-value head, D head dimension.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from services.model.attention import CausalSequences
from services.sample.cache import SlotCache
from services.sample.jobs import Chunk

_Row = tuple[Tensor, Tensor, Tensor]
"""Queries (H, T, D), keys and values (K, T, D)."""


class PassAttend:
    """Attention of one packed pass: decoding rows first, then whole prompts, then parts of long prompts.

    `length_N` counts the tokens that each row holds before the pass; the pass adds one to each.
    """

    def __init__(
        self,
        cache: SlotCache,
        rows: slice,
        length_N: NDArray[np.int64],
        whole: Sequence[Chunk],
        parts: Sequence[Chunk],
    ) -> None:
        device = cache.shape.device
        self._decoding = len(length_N)
        self._whole = sum(chunk.size for chunk in whole)
        self._parts = parts
        if self._decoding:
            self._longest = int(length_N.max()) + 1
            self._equal = int(length_N.min()) + 1 == self._longest
            self._length_N = torch.from_numpy(length_N.copy()).to(device)
            self._view = cache.kv_C_S_L_K_D[:, rows, : self._longest]
            self._cells = cache.kv_C_S_L_K_D.flatten(1, 2)
            self._cell_N = torch.arange(rows.start, rows.stop, device=device) * cache.length + self._length_N
            self._masks: dict[int | None, Tensor | None] = {}
        if whole:
            self._kv = cache.shape.empty(self._whole)
            self._sequences = CausalSequences([chunk.size for chunk in whole], device)
            for chunk, kv in zip(whole, self._kv.split([c.size for c in whole], dim=1), strict=True):
                chunk.job.kv = kv
        for chunk in parts:
            if chunk.start == 0:
                chunk.job.kv = cache.shape.empty(len(chunk.job.prompt))

    def __call__(
        self,
        layer: int,
        query_H_T_D: Tensor,
        key_K_T_D: Tensor,
        value_K_T_D: Tensor,
        scale: float,
        window: int | None,
    ) -> Tensor:
        outs: list[Tensor] = []

        def cut(start: int, stop: int) -> _Row:
            return query_H_T_D[:, start:stop], key_K_T_D[:, start:stop], value_K_T_D[:, start:stop]

        if self._decoding:
            outs.append(self._decode(layer, cut(0, self._decoding), scale, window))
        end = self._decoding + self._whole
        if self._whole:
            query, key, value = cut(self._decoding, end)
            self._kv[2 * layer] = key.transpose(0, 1)
            self._kv[2 * layer + 1] = value.transpose(0, 1)
            outs.append(self._sequences(layer, query, key, value, scale, window))
        for chunk in self._parts:
            start, end = end, end + chunk.size
            outs.append(self._part(chunk, layer, cut(start, end), scale, window))
        return outs[0] if len(outs) == 1 else torch.cat(outs)

    def _decode(self, layer: int, row: _Row, scale: float, window: int | None) -> Tensor:
        """One token of each row against the row, its own key included: (N, H, D)."""
        query, key, value = row
        self._cells[2 * layer].index_copy_(0, self._cell_N, key.transpose(0, 1))
        self._cells[2 * layer + 1].index_copy_(0, self._cell_N, value.transpose(0, 1))
        # The query heads of one key-value head pose as query positions, so that keys are not repeated.
        query_N_K_G_D = query.transpose(0, 1).unflatten(1, (key.shape[0], -1))
        out_N_K_G_D = F.scaled_dot_product_attention(
            query_N_K_G_D,
            self._view[2 * layer].transpose(1, 2),
            self._view[2 * layer + 1].transpose(1, 2),
            attn_mask=self._mask(window, query.dtype),
            scale=scale,
        )
        return out_N_K_G_D.flatten(1, 2)

    def _mask(self, window: int | None, dtype: torch.dtype) -> Tensor | None:
        """(N, 1, 1, L) to be added to the scores; layers of one window share it."""
        if window not in self._masks:
            self._masks[window] = self._make_mask(window, dtype)
        return self._masks[window]

    def _make_mask(self, window: int | None, dtype: torch.dtype) -> Tensor | None:
        if self._equal and (window is None or window >= self._longest):
            return None
        position_L = torch.arange(self._longest, device=self._length_N.device)
        distance_N_L = self._length_N[:, None] - position_L
        hidden_N_L = distance_N_L < 0
        if window is not None:
            hidden_N_L |= distance_N_L >= window
        return torch.zeros(hidden_N_L.shape, dtype=dtype, device=position_L.device).masked_fill_(
            hidden_N_L, float("-inf")
        )[:, None, None]

    def _part(self, chunk: Chunk, layer: int, row: _Row, scale: float, window: int | None) -> Tensor:
        """Some tokens of a prompt against all of it up to them: (T, H, D)."""
        query, key, value = row
        kv_C_P_K_D = chunk.job.kv
        assert kv_C_P_K_D is not None, "the first part of a prompt makes room for all of it"
        kv_C_P_K_D[2 * layer, chunk.start : chunk.stop] = key.transpose(0, 1)
        kv_C_P_K_D[2 * layer + 1, chunk.start : chunk.stop] = value.transpose(0, 1)
        key_K_L_D, value_K_L_D = kv_C_P_K_D[2 * layer : 2 * layer + 2, : chunk.stop].transpose(1, 2)
        query_K_G_T_D = query.unflatten(0, (key.shape[0], -1))
        shape = (*query_K_G_T_D.shape[:2], *key_K_L_D.shape[1:])
        out_K_G_T_D = F.scaled_dot_product_attention(
            query_K_G_T_D,
            key_K_L_D[:, None].expand(shape),
            value_K_L_D[:, None].expand(shape),
            attn_mask=_part_mask(chunk, window, query.device),
            scale=scale,
        )
        return out_K_G_T_D.flatten(0, 1).transpose(0, 1)


def _part_mask(chunk: Chunk, window: int | None, device: torch.device) -> Tensor:
    """(T, L) boolean: token start + i sees j when j is not after it, nor out of the window."""
    position_L = torch.arange(chunk.stop, device=device)
    distance_T_L = position_L[chunk.start :, None] - position_L
    visible_T_L = distance_T_L >= 0
    return visible_T_L if window is None else visible_T_L & (distance_T_L < window)

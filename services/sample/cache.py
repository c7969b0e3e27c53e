"""Keys and values of running sequences.

Decoding sequences live in the first rows of one dense array, one row each: a step attends to a view of it and
gathers nothing. The array grows with the number of rows and with the longest row. A prompt in prefill has
keys and values of its own, which are copied to the rows of its samples once it is done.

Axes: C layers times two (keys at even, values at odd places), S rows, L cache length, P prompt tokens, K
key-value heads, D head dimension.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from services.model.base import BaseModel


@dataclass(frozen=True, slots=True)
class KvShape:
    """The key-value state of one token of a model."""

    layers: int
    heads: int
    dim: int
    dtype: torch.dtype
    device: torch.device

    @classmethod
    def of(cls, base: BaseModel) -> "KvShape":
        """Read it from the model's configuration; all layers must agree."""
        text = base.model.config.get_text_config()
        dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
        return cls(text.num_hidden_layers, heads, dim, base.model.dtype, base.device)

    def empty(self, *cells: int) -> Tensor:
        """Uninitialised keys and values (C, *cells, K, D)."""
        size = (2 * self.layers, *cells, self.heads, self.dim)
        return torch.empty(size, dtype=self.dtype, device=self.device)


class SlotCache:
    """One row of keys and values for each decoding sequence; row numbers are the caller's."""

    def __init__(self, shape: KvShape) -> None:
        self.shape = shape
        self.kv_C_S_L_K_D = shape.empty(0, 0)

    @property
    def length(self) -> int:
        return self.kv_C_S_L_K_D.shape[2]

    def reserve(self, rows: int, length: int, live_rows: int) -> None:
        """Make room for `rows` rows of `length` tokens, keeping the first `live_rows`."""
        have_rows, have_length = self.kv_C_S_L_K_D.shape[1:3]
        if rows <= have_rows and length <= have_length:
            return
        grown = self.shape.empty(
            max(8, 1 << (rows - 1).bit_length()), max(64, 1 << (length - 1).bit_length())
        )
        # What a row has not written is masked, but a mask cannot hide the NaN that fresh memory may hold.
        grown.zero_()
        keep = min(have_length, grown.shape[2])
        grown[:, :live_rows, :keep] = self.kv_C_S_L_K_D[:, :live_rows, :keep]
        self.kv_C_S_L_K_D = grown

    def fill(self, row: int, count: int, kv_C_P_K_D: Tensor) -> None:
        """Start `count` rows from `row` on with the keys and values of a prompt."""
        self.kv_C_S_L_K_D[:, row : row + count, : kv_C_P_K_D.shape[1]] = kv_C_P_K_D[:, None]

    def wipe(self, row: int) -> None:
        """Set a row to zero."""
        self.kv_C_S_L_K_D[:, row].zero_()

    def move(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` tokens of one row to another."""
        self.kv_C_S_L_K_D[:, target, :length] = self.kv_C_S_L_K_D[:, source, :length]

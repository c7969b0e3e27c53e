"""All adapters of a pass as one low-rank term: y += mask(x Aᵀ) B.

The factors of several adapters, and of several projections of one input, are laid side by side; the mask keeps
the columns of the token's own adapter. All factors are finite, or 0 would not silence them. A few more
multiplications, far fewer operations than a product for each adapter and projection.

Axes: T tokens, I inputs, O outputs, W columns (rank, summed over adapters and projections).
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from services.model.lora import Adapter, Groups

WIDEST = 1024
"""Rank of all adapters of a pass together beyond which the term costs more than it saves."""
_KEPT = 8
"""Sets of adapters that are kept stacked."""


@dataclass(frozen=True, slots=True, eq=False)
class FusedLinear:
    """Frozen projections of one input, stacked."""

    weight_O_I: Tensor
    bias_O: Tensor | None
    names: tuple[str, ...]
    """Of the modules, as adapters name them."""
    sizes: tuple[int, ...]
    """Outputs of each."""

    def __call__(self, x_T_I: Tensor, low: "LowRank", into_T_O: Tensor | None = None) -> Tensor:
        """W x with its adapters: (T, O); added to `into_T_O` in place if given."""
        if into_T_O is None:
            y_T_O = F.linear(x_T_I, self.weight_O_I, self.bias_O)
        else:
            y_T_O = into_T_O.addmm_(x_T_I, self.weight_O_I.T)
            if self.bias_O is not None:
                y_T_O += self.bias_O
        low.add(self, x_T_I, y_T_O)
        return y_T_O


@dataclass(frozen=True, slots=True)
class _Factors:
    a_W_I: Tensor
    b_W_O: Tensor
    """Scaled by alpha / rank."""
    owners: tuple[int, ...]
    """Number of the adapter of each column."""


class LowRank:
    """The adapters of one pass, and which tokens have which."""

    def __init__(self, factors: dict[FusedLinear, _Factors], adapter_T: Tensor | None) -> None:
        self._factors = factors
        self._adapter_T = adapter_T
        """Number of each token's adapter, -1 = none; None = all have number 0."""
        self._masks: dict[tuple[int, ...], Tensor] = {}

    def add(self, linear: FusedLinear, x_T_I: Tensor, y_T_O: Tensor) -> None:
        """Add the term of one layer to `y_T_O`, in place."""
        factors = self._factors.get(linear)
        if factors is None:
            return
        low_T_W = F.linear(x_T_I, factors.a_W_I)
        if self._adapter_T is not None:
            low_T_W.masked_fill_(self._foreign(factors.owners, self._adapter_T), 0)
        y_T_O.addmm_(low_T_W, factors.b_W_O)

    def _foreign(self, owners: tuple[int, ...], adapter_T: Tensor) -> Tensor:
        """(T, W): the columns that are not of the token's adapter."""
        if owners not in self._masks:
            owner_W = torch.tensor(owners, device=adapter_T.device)
            self._masks[owners] = adapter_T[:, None] != owner_W
        return self._masks[owners]


class Stacks:
    """Makes and keeps stacked adapters for the layers of a model."""

    def __init__(self, linears: Sequence[FusedLinear]) -> None:
        self._linears = linears
        self._kept: OrderedDict[tuple[Adapter, ...], dict[FusedLinear, _Factors]] = OrderedDict()
        self._last: tuple[Groups, int, LowRank] | None = None

    def of(self, groups: Groups, tokens: int) -> LowRank | None:
        """The term of a pass over `tokens` tokens; None when it would be too wide."""
        # A batch hands in the same groups until its rows change, and their masks stay good as long.
        if self._last is not None and self._last[0] is groups and self._last[1] == tokens:
            return self._last[2]
        adapters = tuple(dict.fromkeys(group.adapter for group in groups if group.adapter is not None))
        if sum(adapter.rank for adapter in adapters) > WIDEST:
            return None
        alone = len(adapters) == 1 and all(group.adapter is not None for group in groups)
        low = LowRank(self._stack(adapters), None if alone else _numbers(groups, adapters, tokens))
        self._last = (groups, tokens, low)
        return low

    def _stack(self, adapters: tuple[Adapter, ...]) -> dict[FusedLinear, _Factors]:
        if adapters not in self._kept:
            made = {linear: _factors(linear, adapters) for linear in self._linears}
            self._kept[adapters] = {
                linear: factors for linear, factors in made.items() if factors is not None
            }
        self._kept.move_to_end(adapters)
        if len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
        return self._kept[adapters]


def _factors(linear: FusedLinear, adapters: tuple[Adapter, ...]) -> _Factors | None:
    """The factors of all adapters for one layer side by side; None when none has any."""
    a: list[Tensor] = []
    b: list[Tensor] = []
    owners: list[int] = []
    for number, adapter in enumerate(adapters):
        start = 0
        for name, size in zip(linear.names, linear.sizes, strict=True):
            if name in adapter.a:
                a.append(adapter.a[name])
                after = sum(linear.sizes) - start - size
                b.append(F.pad(adapter.b[name].T * adapter.scale, (start, after)))
                owners += [number] * len(adapter.a[name])
            start += size
    return _Factors(torch.cat(a), torch.cat(b), tuple(owners)) if a else None


def _numbers(groups: Groups, adapters: tuple[Adapter, ...], tokens: int) -> Tensor | None:
    """(T,) number of each token's adapter, -1 = none; groups cover all tokens that have one."""
    if not adapters:
        return None
    device = next(iter(adapters[0].a.values())).device
    number_T = torch.full((tokens,), -1, device=device)
    for group in groups:
        if group.adapter is not None:
            number_T[slice(None) if group.rows is None else group.rows] = adapters.index(group.adapter)
    return number_T

"""Many LoRA adapters on one frozen base (Hu et al. 2021, https://arxiv.org/abs/2106.09685).

A wrapped layer computes W x + (alpha / r) B A x, where A and B are those of the adapter that the token
belongs to. Tokens of a row are divided into groups, one per adapter; rows of different ranks and targets
share the product with W. Nothing here trains or stores: an `Adapter` is just named tensors.

Axes: T tokens, I inputs, O outputs, R rank.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ALPHA = 32.0
"""With scaling alpha / rank the best learning rate hardly depends on the rank ("LoRA Without Regret")."""

ATTENTION = frozenset({"q_proj", "k_proj", "v_proj", "o_proj", "qkv_proj", "out_proj"})
MLP = frozenset({"gate_proj", "up_proj", "down_proj", "gate_up_proj", "fc1", "fc2"})
UNEMBED = frozenset({"lm_head"})


@dataclass(frozen=True, slots=True)
class LoraSpec:
    """Which layers an adapter trains and how it starts. Example: LoraSpec(rank=32, seed=0)."""

    rank: int
    seed: int
    train_attn: bool = True
    train_mlp: bool = True
    train_unembed: bool = True

    def targets(self, names: Iterable[str]) -> list[str]:
        """The module names among `names` that this adapter trains, in order."""
        kinds: frozenset[str] = frozenset()
        for on, kind in ((self.train_attn, ATTENTION), (self.train_mlp, MLP), (self.train_unembed, UNEMBED)):
            kinds |= kind if on else frozenset()
        return [name for name in names if name.rpartition(".")[2] in kinds]


@dataclass(eq=False, slots=True)
class Adapter:
    """The low-rank factors of one policy version: A (R, I) and B (O, R) by module name."""

    rank: int
    a: dict[str, Tensor] = field(default_factory=dict)
    b: dict[str, Tensor] = field(default_factory=dict)
    alpha: float = ALPHA

    @property
    def scale(self) -> float:
        return self.alpha / self.rank

    def parameters(self) -> list[Tensor]:
        """All factors in a fixed order: A then B of each module."""
        return [tensor for name in self.a for tensor in (self.a[name], self.b[name])]


@dataclass(frozen=True, slots=True)
class Group:
    """The tokens of a row that one adapter (None = the bare base) applies to."""

    adapter: Adapter | None
    rows: slice | Tensor | None = None
    """A slice for neighbours, int64 positions otherwise, None = the whole row."""


Groups = list[Group]


@dataclass(slots=True)
class LoraSwitch:
    """The groups now in force, shared by all wrapped layers of a model; one pass at a time."""

    groups: Groups = field(default_factory=list)


class LoraLinear(nn.Module):
    """A frozen linear layer to which every group of tokens adds its own adapter."""

    def __init__(self, base: nn.Linear, name: str, switch: LoraSwitch) -> None:
        super().__init__()
        self.base = base
        self.name = name
        self._switch = switch

    @property
    def weight(self) -> Tensor:
        """The frozen weight; transformers looks at it on tied embeddings."""
        return self.base.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.apply_groups(x.squeeze(0), self._switch.groups).unsqueeze(0)

    def apply_groups(self, x_T_I: Tensor, groups: Groups) -> Tensor:
        """W x plus each group's low-rank product: (T, O)."""
        terms = [
            _Term(_WHOLE if group.rows is None else group.rows, group.adapter.scale)
            for group in groups
            if group.adapter is not None and self.name in group.adapter.a
        ]
        factors = [
            factor
            for group in groups
            if group.adapter is not None and self.name in group.adapter.a
            for factor in (group.adapter.a[self.name], group.adapter.b[self.name])
        ]
        if torch.is_grad_enabled():
            return _LoraProduct.apply(x_T_I, self.base, terms, *factors)  # type: ignore[no-any-return]
        return _forward(x_T_I, self.base, terms, factors)[0]


_WHOLE = slice(None)


@dataclass(frozen=True, slots=True)
class _Term:
    """One low-rank product: where in the row it applies, and its scale."""

    rows: slice | Tensor
    scale: float


def _forward(
    x_T_I: Tensor, base: nn.Linear, terms: list[_Term], factors: Sequence[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """W x + Σ scale·B A x, and A x of each term."""
    y_T_O, lows = F.linear(x_T_I, base.weight, base.bias), []
    for term, a_R_I, b_O_R in zip(terms, factors[::2], factors[1::2], strict=True):
        low_T_R = x_T_I[term.rows].to(a_R_I.dtype) @ a_R_I.T
        _add_product(y_T_O, term, low_T_R, b_O_R.T)
        lows.append(low_T_R)
    return y_T_O, lows


def _add_product(into_T_X: Tensor, term: _Term, left_T_R: Tensor, right_R_X: Tensor) -> None:
    """into[rows] += scale · left @ right, in the dtype of the factors and rounded once."""
    if isinstance(term.rows, Tensor) or into_T_X.dtype != left_T_R.dtype:
        product_T_X = (term.scale * left_T_R @ right_R_X).to(into_T_X.dtype)
        if isinstance(term.rows, Tensor):
            into_T_X.index_add_(0, term.rows, product_T_X)
        else:
            into_T_X[term.rows] += product_T_X
    else:
        into_T_X[term.rows].addmm_(left_T_R, right_R_X, alpha=term.scale)


class _LoraProduct(torch.autograd.Function):
    """`_forward` with its gradient: by hand, because autograd would make and add a full-size tensor per term.

    With g = dL/dy: dL/dx = W^T g + Σ scale·A^T B^T g, dL/dA = scale·(B^T g) x^T, dL/dB = scale·g (A x)^T.
    """

    @staticmethod
    def forward(ctx: Any, x_T_I: Tensor, base: nn.Linear, terms: list[_Term], *factors: Tensor) -> Tensor:
        y_T_O, lows = _forward(x_T_I, base, terms, factors)
        ctx.save_for_backward(x_T_I, *factors, *lows)
        ctx.base, ctx.terms = base, terms
        return y_T_O

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad_T_O,) = grads
        x_T_I, *saved = ctx.saved_tensors
        count = len(ctx.terms)
        factors, lows = saved[: 2 * count], saved[2 * count :]
        grad_x_T_I = grad_T_O @ ctx.base.weight if ctx.needs_input_grad[0] else None
        grad_factors: list[Tensor | None] = []
        for term, a_R_I, b_O_R, low_T_R in zip(ctx.terms, factors[::2], factors[1::2], lows, strict=True):
            own_T_O = grad_T_O[term.rows].to(b_O_R.dtype)
            grad_low_T_R = own_T_O @ b_O_R
            grad_a_R_I = grad_low_T_R.T @ x_T_I[term.rows].to(a_R_I.dtype)
            grad_factors += [grad_a_R_I.mul_(term.scale), (own_T_O.T @ low_T_R).mul_(term.scale)]
            if grad_x_T_I is not None:
                _add_product(grad_x_T_I, term, grad_low_T_R, a_R_I)
        return grad_x_T_I, None, None, *grad_factors


def install(model: nn.Module, switch: LoraSwitch) -> dict[str, LoraLinear]:
    """Wrap every linear layer whose name is a known projection; return them by module name."""
    known = ATTENTION | MLP | UNEMBED
    found = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.rpartition(".")[2] in known
    ]
    layers: dict[str, LoraLinear] = {}
    for name, module in found:
        parent, _, leaf = name.rpartition(".")
        layers[name] = LoraLinear(module, name, switch)
        setattr(model.get_submodule(parent), leaf, layers[name])
    return layers


def init_adapter(spec: LoraSpec, layers: Mapping[str, LoraLinear]) -> Adapter:
    """A fresh float32 adapter: A uniform in ±1/sqrt(I) (Kaiming with a = sqrt 5, as PEFT), B zero.

    The generator depends on the seed alone and is read in the order of the layers, so that a seed means the
    same adapter everywhere.
    """
    generator = torch.Generator().manual_seed(spec.seed)
    adapter = Adapter(spec.rank)
    for name in spec.targets(layers):
        weight_O_I = layers[name].weight
        a_R_I = torch.empty(spec.rank, weight_O_I.shape[1])
        nn.init.kaiming_uniform_(a_R_I, a=math.sqrt(5), generator=generator)
        adapter.a[name] = a_R_I.to(weight_O_I.device)
        adapter.b[name] = torch.zeros(weight_O_I.shape[0], spec.rank, device=weight_O_I.device)
    if not adapter.a:
        raise ValueError("no layer of this model matches the chosen train_attn, train_mlp, train_unembed")
    return adapter

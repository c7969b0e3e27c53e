"""Many LoRA adapters on one frozen base (Hu et al. 2021, https://arxiv.org/abs/2106.09685).

A wrapped layer computes W x + (alpha / r) B A x, where A and B are those of the adapter that the token
belongs to. Tokens of a row are divided into groups, one per adapter; rows of different ranks and targets
share the product with W. Nothing here trains or stores: an `Adapter` is just named tensors.

Axes: T tokens, I inputs, O outputs, R rank.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
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
        y_T_O: Tensor = self.base(x_T_I)
        active = [group for group in groups if group.adapter is not None and self.name in group.adapter.a]
        if len(active) == 1 and active[0].rows is None:
            return y_T_O + self._delta(x_T_I, active[0].adapter)
        if not active:
            return y_T_O
        for group in active:
            if isinstance(group.rows, Tensor):
                y_T_O = y_T_O.index_add(0, group.rows, self._delta(x_T_I[group.rows], group.adapter))
        spans = sorted((g for g in active if isinstance(g.rows, slice)), key=lambda g: g.rows.start)  # type: ignore[union-attr]
        return self._add_spans(x_T_I, y_T_O, spans) if spans else y_T_O

    def _add_spans(self, x_T_I: Tensor, y_T_O: Tensor, spans: Groups) -> Tensor:
        """Add the deltas of disjoint slices by one concatenation: autograd then copies nothing twice."""
        parts: list[Tensor] = []
        end = 0
        for group in spans:
            rows = group.rows
            assert isinstance(rows, slice) and rows.start >= end, "slices of a row are sorted and disjoint"
            parts += [y_T_O[end : rows.start], y_T_O[rows] + self._delta(x_T_I[rows], group.adapter)]
            end = rows.stop
        parts.append(y_T_O[end:])
        return torch.cat(parts)

    def _delta(self, x_T_I: Tensor, adapter: Adapter | None) -> Tensor:
        assert adapter is not None, "the bare base adds nothing"
        a_R_I, b_O_R = adapter.a[self.name], adapter.b[self.name]
        low_T_R = x_T_I.to(a_R_I.dtype) @ a_R_I.T
        return ((low_T_R * adapter.scale) @ b_O_R.T).to(x_T_I.dtype)


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

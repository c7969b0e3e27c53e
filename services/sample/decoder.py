"""The layers of a Llama-shaped model with few operations a token: what makes small steps fast.

transformers spends most of a small step between its operations. Here projections of one input are one product
(their weights are laid out as one matrix, of which the model's own become views), norms and rotation take
queries and keys together, residuals are added by the products, and all adapters of a pass are one low-rank
term. A model qualifies by its parts and by proof: on a probe, the states must be those of transformers.
Everything else runs through `BaseModel.hidden`.

Axes: T tokens, E hidden, O outputs, H query heads, K key-value heads, J = H + K, D head dimension.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from services.model.attention import Attend, CausalSequences
from services.model.base import BaseModel
from services.model.lora import Groups, LoraLinear
from services.sample.lowrank import FusedLinear, LowRank, Stacks

_TRUNK = {"embed_tokens", "layers", "norm", "rotary_emb"}
_LAYER = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
_ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}
_MLP = {"gate_proj", "up_proj", "down_proj", "act_fn"}
_PROBE_TOKENS = 12
_CLOSE = 1e-4


@dataclass(frozen=True, slots=True)
class _Norm:
    weight: Tensor
    epsilon: float

    @classmethod
    def of(cls, module: Any) -> "_Norm":
        return cls(module.weight, module.variance_epsilon)

    def __call__(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, self.epsilon)


@dataclass(frozen=True, slots=True)
class _Layer:
    before: _Norm
    qkv: FusedLinear
    heads: int
    query_key_J_D: Tensor | None
    """Weights of the norms of queries and keys, None = no such norms."""
    epsilon: float
    out: FusedLinear
    after: _Norm
    gate_up: FusedLinear
    act: nn.Module
    down: FusedLinear
    scale: float
    window: int | None

    @classmethod
    def of(cls, layer: Any, names: dict[nn.Module, str], scale: float, window: int | None) -> "_Layer":
        attention, mlp = layer.self_attn, layer.mlp
        heads = attention.q_proj.weight.shape[0] // attention.head_dim
        groups = attention.k_proj.weight.shape[0] // attention.head_dim
        weights = None
        if hasattr(attention, "q_norm"):
            norms = [attention.q_norm.weight] * heads + [attention.k_norm.weight] * groups
            weights = torch.stack(norms)
        return cls(
            before=_Norm.of(layer.input_layernorm),
            qkv=_fuse([attention.q_proj, attention.k_proj, attention.v_proj], names),
            heads=heads,
            query_key_J_D=weights,
            epsilon=0.0 if weights is None else attention.q_norm.variance_epsilon,
            out=_fuse([attention.o_proj], names),
            after=_Norm.of(layer.post_attention_layernorm),
            gate_up=_fuse([mlp.gate_proj, mlp.up_proj], names),
            act=mlp.act_fn,
            down=_fuse([mlp.down_proj], names),
            scale=scale,
            window=window,
        )

    def __call__(
        self, number: int, x_T_E: Tensor, cos: Tensor, sin: Tensor, attend: Attend, low: LowRank
    ) -> None:
        """Add the layer's attention and feed-forward to the residual stream, in place."""
        dim = cos.shape[-1]
        qkv_T_O = self.qkv(self.before(x_T_E), low)
        values = self.qkv.sizes[2]
        joint_T_J_D = qkv_T_O[:, :-values].unflatten(1, (-1, dim))
        if self.query_key_J_D is not None:
            joint_T_J_D = F.rms_norm(joint_T_J_D, (dim,), None, self.epsilon).mul_(self.query_key_J_D)
        # x cos + rotate_half(x) sin: the sign of rotate_half is in `sin`.
        joint_T_J_D = torch.addcmul(joint_T_J_D * cos, joint_T_J_D.roll(dim // 2, -1), sin)
        joint_J_T_D = joint_T_J_D.transpose(0, 1)
        value_K_T_D = qkv_T_O[:, -values:].unflatten(1, (-1, dim)).transpose(0, 1)
        query_H_T_D, key_K_T_D = joint_J_T_D[: self.heads], joint_J_T_D[self.heads :]
        out_T_H_D = attend(number, query_H_T_D, key_K_T_D, value_K_T_D, self.scale, self.window)
        self.out(out_T_H_D.flatten(1), low, into_T_O=x_T_E)
        gate, up = self.gate_up(self.after(x_T_E), low).chunk(2, -1)
        self.down(self.act(gate) * up, low, into_T_O=x_T_E)


class Decoder:
    """The trunk of a model that qualifies; shares the model's weights. See `Decoder.of`."""

    def __init__(self, base: BaseModel, trunk: Any, settings: Sequence[tuple[float, int | None]]) -> None:
        names: dict[nn.Module, str] = {layer: name for name, layer in base.layers.items()}
        self._embed = trunk.embed_tokens
        self._rotary = trunk.rotary_emb
        self._norm = _Norm.of(trunk.norm)
        self._layers = [
            _Layer.of(layer, names, *setting) for layer, setting in zip(trunk.layers, settings, strict=True)
        ]
        linears = [x for layer in self._layers for x in (layer.qkv, layer.out, layer.gate_up, layer.down)]
        self._stacks = Stacks(linears)

    @classmethod
    def of(cls, base: BaseModel) -> "Decoder | None":
        """A decoder for `base`, or None when it is not of this shape or does not reproduce it."""
        trunk = base.trunk
        if base.model.dtype != torch.float32 or not _has_shape(trunk):
            return None
        tokens_T = torch.arange(_PROBE_TOKENS, device=base.device) * 7 % base.vocab_size
        probe = _Probe(base.device)
        with torch.inference_mode():
            expected = base.hidden(tokens_T, probe.sequence.position_T, probe, [])
            decoder = cls(base, trunk, [probe.settings[number] for number in range(len(trunk.layers))])
            found = decoder.hidden(tokens_T, probe.sequence.position_T, probe.sequence, [])
        close = found is not None and bool(torch.allclose(found, expected, rtol=_CLOSE, atol=_CLOSE))
        return decoder if close else None

    def hidden(self, tokens_T: Tensor, position_T: Tensor, attend: Attend, groups: Groups) -> Tensor | None:
        """As `BaseModel.hidden`; None when the adapters together are too wide to be one term."""
        low = self._stacks.of(groups, len(tokens_T))
        if low is None:
            return None
        x_T_E = self._embed(tokens_T)
        cos_1_T_D, sin_1_T_D = self._rotary(x_T_E, position_T[None])
        cos, sin = cos_1_T_D[0, :, None], sin_1_T_D[0, :, None].clone()
        sin[..., : sin.shape[-1] // 2].neg_()
        for number, layer in enumerate(self._layers):
            layer(number, x_T_E, cos, sin, attend, low)
        return self._norm(x_T_E)


class _Probe:
    """Attention over one short sequence that notes scale and window of each layer."""

    def __init__(self, device: torch.device) -> None:
        self.sequence = CausalSequences([_PROBE_TOKENS], device)
        self.settings: dict[int, tuple[float, int | None]] = {}

    def __call__(
        self,
        layer: int,
        query_H_T_D: Tensor,
        key_K_T_D: Tensor,
        value_K_T_D: Tensor,
        scale: float,
        window: int | None,
    ) -> Tensor:
        self.settings[layer] = (scale, window)
        return self.sequence(layer, query_H_T_D, key_K_T_D, value_K_T_D, scale, window)


def _has_shape(trunk: Any) -> bool:
    """Whether all parts have the names of the Llama family, and no others."""

    def parts(module: nn.Module) -> set[str]:
        return {name for name, _ in module.named_children()}

    return parts(trunk) == _TRUNK and all(
        parts(layer) == _LAYER
        and parts(layer.self_attn) in (_ATTENTION, _ATTENTION | {"q_norm", "k_norm"})
        and parts(layer.mlp) == _MLP
        and hasattr(layer.self_attn, "head_dim")
        and hasattr(layer.input_layernorm, "variance_epsilon")
        for layer in trunk.layers
    )


def _fuse(layers: list[LoraLinear], names: dict[nn.Module, str]) -> FusedLinear:
    """One matrix for linear layers of the same input; their own weights become views of it."""
    sizes = [layer.weight.shape[0] for layer in layers]
    weight_O_I = torch.cat([layer.weight for layer in layers])
    for layer, part in zip(layers, weight_O_I.split(sizes), strict=True):
        layer.base.weight = nn.Parameter(part, requires_grad=False)
    bias_O = None
    if any(layer.base.bias is not None for layer in layers):
        zeros = (weight_O_I.new_zeros(size) for size in sizes)
        pairs = zip(layers, zeros, strict=True)
        bias_O = torch.cat([zero if layer.base.bias is None else layer.base.bias for layer, zero in pairs])
    return FusedLinear(weight_O_I, bias_O, tuple(names[layer] for layer in layers), tuple(sizes))

"""Adapters: what a spec means, and the gradients that are written by hand."""

import pytest
import torch
from torch import nn

from services.model.head import _TargetLogprobs
from services.model.lora import Adapter, Group, LoraLinear, LoraSpec, LoraSwitch, init_adapter, install


class Block(nn.Module):
    """Layers by the names of all three kinds, and one that never carries LoRA."""

    def __init__(self) -> None:
        super().__init__()
        self.q_proj = nn.Linear(6, 4, bias=False)
        self.up_proj = nn.Linear(6, 8)
        self.lm_head = nn.Linear(6, 10, bias=False)
        self.router = nn.Linear(6, 2)


@pytest.fixture
def layers() -> dict[str, LoraLinear]:
    return install(Block(), LoraSwitch())


def test_only_known_projections_are_wrapped(layers: dict[str, LoraLinear]):
    assert list(layers) == ["q_proj", "up_proj", "lm_head"]


@pytest.mark.parametrize(
    ("off", "trained"),
    [
        ("train_attn", ["up_proj", "lm_head"]),
        ("train_mlp", ["q_proj", "lm_head"]),
        ("train_unembed", ["q_proj", "up_proj"]),
    ],
)
def test_each_switch_leaves_out_its_layers(layers: dict[str, LoraLinear], off: str, trained: list[str]):
    adapter = init_adapter(LoraSpec(rank=2, seed=0, **{off: False}), layers)
    assert list(adapter.a) == list(adapter.b) == trained


def test_training_nothing_is_refused(layers: dict[str, LoraLinear]):
    with pytest.raises(ValueError, match="train_attn, train_mlp, train_unembed"):
        init_adapter(LoraSpec(rank=2, seed=0, train_attn=False, train_mlp=False, train_unembed=False), layers)


def test_a_fresh_adapter_changes_nothing_and_depends_on_the_seed_alone(layers: dict[str, LoraLinear]):
    adapter, again, other = (init_adapter(LoraSpec(rank=3, seed=seed), layers) for seed in (5, 5, 6))
    torch.rand(1)
    for name in layers:
        assert adapter.a[name].shape == (3, 6)
        assert adapter.a[name].abs().max() <= 6**-0.5
        assert not adapter.b[name].any()
        assert torch.equal(adapter.a[name], again.a[name])
        assert not torch.equal(adapter.a[name], other.a[name])


def test_the_product_is_scaled_by_alpha_over_rank(layers: dict[str, LoraLinear]):
    adapter = Adapter(rank=2, alpha=32.0)
    adapter.a["q_proj"] = torch.ones(2, 6)
    adapter.b["q_proj"] = torch.ones(4, 2)
    x = torch.ones(1, 6)
    base = layers["q_proj"].base(x)
    # 16 (alpha / rank) · 2 (rank) · 6 (inputs)
    torch.testing.assert_close(layers["q_proj"].apply_groups(x, [Group(adapter)]), base + 192)


@pytest.mark.parametrize("scattered", [False, True])
def test_gradients_of_a_shared_layer_agree_with_finite_differences(scattered: bool):
    torch.manual_seed(0)
    layer = install(Block().double(), LoraSwitch())["up_proj"]
    x = torch.randn(7, 6, dtype=torch.float64, requires_grad=True)
    factors = [
        torch.randn(shape, dtype=torch.float64, requires_grad=True)
        for shape in ((2, 6), (8, 2), (3, 6), (8, 3))
    ]
    rows = [slice(0, 2), slice(3, 7)]  # row 2 has the bare base
    if scattered:
        rows = [torch.arange(7)[span] for span in rows]

    def product(x: torch.Tensor, a1: torch.Tensor, b1: torch.Tensor, a2: torch.Tensor, b2: torch.Tensor):
        adapters = [
            Adapter(2, {"up_proj": a1}, {"up_proj": b1}),
            Adapter(3, {"up_proj": a2}, {"up_proj": b2}),
        ]
        return layer.apply_groups(x, [Group(a, r) for a, r in zip(adapters, rows, strict=True)])

    assert torch.autograd.gradcheck(product, (x, *factors))


def test_gradients_of_target_logprobs_agree_with_finite_differences():
    torch.manual_seed(0)
    logits = torch.randn(4, 9, dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([[0, 1], [3, 3], [8, 0], [5, 2]])  # the same target twice counts twice
    expected = logits.log_softmax(1).gather(1, targets)
    torch.testing.assert_close(_TargetLogprobs.apply(logits, targets), expected)
    assert torch.autograd.gradcheck(lambda x: _TargetLogprobs.apply(x, targets), (logits,))

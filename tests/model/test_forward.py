"""A packed row of many sequences and adapters gives what plain transformers + PEFT give for each alone."""

from pathlib import Path

import pytest
import torch

from services.model import head
from services.model.attention import CausalSequences
from services.model.base import BaseModel, load_base
from services.model.head import token_logprobs
from services.model.lora import Adapter, Group, Groups, LoraSpec, init_adapter
from tests.model.random_models import (
    ARCHITECTURES,
    VOCABULARY,
    peft_model,
    plain_logprobs,
    randomize,
    save_random_model,
)

LENGTHS = [5, 17, 40, 33, 2]
CPU = torch.device("cpu")


def row(lengths: list[int], columns: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(VOCABULARY, (sum(lengths),), generator=generator)
    return tokens, torch.randint(VOCABULARY, (sum(lengths), columns), generator=generator)


def two_adapters(base: BaseModel) -> tuple[Adapter, Adapter]:
    first = init_adapter(LoraSpec(rank=8, seed=1), base.layers)
    second = init_adapter(LoraSpec(rank=3, seed=2, train_mlp=False), base.layers)
    return randomize(first, 1), randomize(second, 2)


def packed(
    base: BaseModel, lengths: list[int], tokens: torch.Tensor, targets: torch.Tensor, groups: Groups
) -> torch.Tensor:
    attend = CausalSequences(lengths, CPU)
    hidden = base.hidden(tokens, attend.position_T, attend, groups)
    return token_logprobs(base, hidden, targets, groups)[0]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
def test_sequences_of_mixed_lengths_and_adapters_in_one_row_agree_with_peft(
    architecture: str, tmp_path: Path
):
    folder = save_random_model(architecture, tmp_path / "model")
    base = load_base(str(folder))
    first, second = two_adapters(base)
    tokens, targets = row(LENGTHS, columns=3)
    groups = [Group(first, slice(0, 22)), Group(None, slice(22, 62)), Group(second, slice(62, 97))]
    with torch.no_grad():
        logprobs = packed(base, LENGTHS, tokens, targets, groups)
        for index, adapter in enumerate([first, first, None, second, second]):
            start = sum(LENGTHS[:index])
            own = slice(start, start + LENGTHS[index])
            model = peft_model(folder, adapter, tmp_path / f"adapter-{index}")
            expected = plain_logprobs(model, tokens[own], targets[own])
            torch.testing.assert_close(logprobs[own], expected, atol=1e-4, rtol=0)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return load_base(str(save_random_model("tied", tmp_path_factory.mktemp("base"))))


def test_equally_long_sequences_agree_with_the_same_sequences_among_others(base: BaseModel):
    adapter, _ = two_adapters(base)
    tokens, targets = row([9, 9, 9, 14])
    with torch.no_grad():
        mixed = packed(base, [9, 9, 9, 14], tokens, targets, [Group(adapter)])
        equal = packed(base, [9, 9, 9], tokens[:27], targets[:27], [Group(adapter)])
    torch.testing.assert_close(mixed[:27], equal, atol=1e-5, rtol=0)


def test_scattered_rows_of_an_adapter_agree_with_a_slice(base: BaseModel):
    first, second = two_adapters(base)
    tokens, _ = row([4, 6])
    slices = [Group(first, slice(0, 4)), Group(second, slice(4, 10))]
    scattered = [Group(first, torch.arange(4)), Group(second, torch.arange(4, 10))]
    attend = CausalSequences([4, 6], CPU)
    with torch.no_grad():
        one = base.hidden(tokens, attend.position_T, attend, slices)
        other = base.hidden(tokens, attend.position_T, attend, scattered)
    torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-6)


def test_a_chunked_head_gives_the_logprobs_and_gradients_of_a_whole_one(
    base: BaseModel, monkeypatch: pytest.MonkeyPatch
):
    adapter, _ = two_adapters(base)
    factors = [factor.requires_grad_() for factor in adapter.parameters()]
    tokens, targets = row([12, 20])
    whole = packed(base, [12, 20], tokens, targets, [Group(adapter)])
    expected = torch.autograd.grad(whole.sum(), factors)
    monkeypatch.setattr(head, "CHUNK_LOGITS", 5 * VOCABULARY)
    chunked = packed(base, [12, 20], tokens, targets, [Group(adapter)])
    torch.testing.assert_close(chunked, whole, atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.autograd.grad(chunked.sum(), factors), expected, atol=1e-4, rtol=1e-5)


def test_float32_adapters_train_on_a_bfloat16_base(base: BaseModel):
    rough = load_base(base.source, dtype=torch.bfloat16)
    adapter, _ = two_adapters(rough)
    factors = [factor.requires_grad_() for factor in adapter.parameters()]
    tokens, targets = row([12, 20])
    logprobs = packed(rough, [12, 20], tokens, targets, [Group(adapter)])
    exact = packed(base, [12, 20], tokens, targets, [Group(adapter)])
    assert logprobs.dtype == torch.float32
    assert (logprobs - exact).abs().mean() < 0.2
    gradients = torch.autograd.grad(logprobs.sum(), factors)
    expected = torch.autograd.grad(exact.sum(), factors)
    assert all(gradient.dtype == torch.float32 for gradient in gradients)
    flat, reference = (torch.cat([g.flatten() for g in grads]) for grads in (gradients, expected))
    assert torch.cosine_similarity(flat, reference, dim=0) > 0.98

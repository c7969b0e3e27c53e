"""The fast way through the layers gives what transformers gives, or stands aside."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

from services.model.attention import CausalSequences
from services.model.base import BaseModel, load_base
from services.model.lora import Adapter, Group, Groups, LoraSpec, init_adapter
from services.sample import lowrank
from services.sample.decoder import Decoder

SHAPE = {
    "vocab_size": 200,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
CONFIGS = {
    "llama": LlamaConfig(**SHAPE),
    "llama with scaled rotation": LlamaConfig(
        **SHAPE, rope_parameters={"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}
    ),
    "mistral with a window": MistralConfig(**SHAPE, sliding_window=6),
    "qwen2 with biases": Qwen2Config(**SHAPE),
    "qwen3": Qwen3Config(**SHAPE, head_dim=16),
}
LENGTHS = [9, 20, 3]
TOKENS = torch.arange(sum(LENGTHS)) * 11 % 200


def save(folder: Path, config) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config).float()
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                torch.nn.init.normal_(parameter)
        model.save_pretrained(folder)
    return folder


def adapter(base: BaseModel, seed: int, **fields) -> Adapter:
    made = init_adapter(LoraSpec(rank=4 + seed, seed=seed, **fields), base.layers)
    generator = torch.Generator().manual_seed(seed)
    for b_O_R in made.b.values():
        b_O_R.normal_(std=0.1, generator=generator)
    return made


def both(base: BaseModel, decoder: Decoder, groups: Groups) -> tuple[Tensor, Tensor | None]:
    attend = CausalSequences(LENGTHS, torch.device("cpu"))
    with torch.inference_mode():
        row = (TOKENS, attend.position_T, attend, groups)
        return base.hidden(*row), decoder.hidden(*row)


@pytest.mark.parametrize("name", CONFIGS)
def test_llama_shaped_models_come_out_the_same(tmp_path: Path, name: str):
    base = load_base(str(save(tmp_path, CONFIGS[name])))
    decoder = Decoder.of(base)
    assert decoder is not None
    one, other = adapter(base, 1), adapter(base, 2, train_mlp=False)
    mixed = [Group(one, slice(0, 9)), Group(None, slice(9, 20)), Group(other, torch.arange(20, 32))]
    for groups in ([], [Group(one)], mixed):
        expected, found = both(base, decoder, groups)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(both(base, decoder, [])[0], both(base, decoder, mixed)[0], atol=1e-2)


def test_other_architectures_are_left_to_transformers(tmp_path: Path):
    config = Gemma3TextConfig(**SHAPE, head_dim=16, sliding_window=8)
    Gemma3ForCausalLM(config).float().save_pretrained(tmp_path)
    assert Decoder.of(load_base(str(tmp_path))) is None


def test_a_model_of_the_right_parts_that_computes_otherwise_is_left_to_transformers(tmp_path: Path):
    base = load_base(str(save(tmp_path, CONFIGS["llama"])))
    norm = base.model.model.layers[0].input_layernorm
    norm.register_forward_hook(lambda module, inputs, output: output * 1.5)
    assert Decoder.of(base) is None


def test_adapters_that_are_too_wide_together_are_declined(tmp_path: Path, monkeypatch):
    base = load_base(str(save(tmp_path, CONFIGS["llama"])))
    decoder = Decoder.of(base)
    assert decoder is not None
    monkeypatch.setattr(lowrank, "WIDEST", 10)
    groups = [Group(adapter(base, 1), slice(0, 9)), Group(adapter(base, 2), slice(9, 32))]
    assert both(base, decoder, groups)[1] is None
    assert both(base, decoder, groups[:1])[1] is not None

"""What loads, what is kept of it, and what is refused with the reason because it would give wrong numbers."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GptOssConfig,
    GptOssForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    Lfm2Config,
    Lfm2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

from services.model.base import describe, load_base
from services.model.lora import LoraSpec, init_adapter
from services.model.peft_files import CONFIG, save_adapter
from tests.model.random_models import ARCHITECTURES, GEMMA, SHAPE, VOCABULARY, save_random_model


def test_of_a_model_with_images_only_the_text_part_is_kept(tmp_path: Path):
    base = load_base(str(save_random_model("gemma3_with_images", tmp_path / "model")))
    assert not [name for name, _ in base.model.named_parameters() if "vision" in name or "projector" in name]
    assert base.trunk is base.model.model.language_model
    assert "lm_head" in base.layers and len(base.layers) == 1 + 3 * 7
    assert (base.vocab_size, base.context_length) == (VOCABULARY, 128)
    about = describe(str(tmp_path / "model"))
    assert about == {
        "vocab_size": VOCABULARY,
        "context_length": 128,
        "arch": "Gemma3ForConditionalGeneration",
    }


def test_adapters_leave_out_the_part_for_images(tmp_path: Path):
    base = load_base(str(save_random_model("gemma3_with_images", tmp_path / "model")))
    save_adapter(tmp_path / "adapter", init_adapter(LoraSpec(rank=2, seed=0), base.layers), base.source)
    config = json.loads((tmp_path / "adapter" / CONFIG).read_text())
    assert "q_proj" in config["target_modules"] and config["exclude_modules"]


@pytest.mark.parametrize("eos", [7, [7, 9, 11]])
def test_all_end_of_sequence_tokens_of_the_generation_config_count(tmp_path: Path, eos: int | list[int]):
    folder = save_random_model("llama3", tmp_path)
    config = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps(config | {"eos_token_id": eos}))
    assert load_base(str(folder)).eos_token_ids == frozenset(eos if isinstance(eos, list) else [eos])


@pytest.mark.parametrize("architecture", ["llama3", "gemma3", "gemma3_with_images"])
def test_without_a_generation_config_those_of_the_model_count(tmp_path: Path, architecture: str):
    folder = save_random_model(architecture, tmp_path)
    (folder / "generation_config.json").unlink()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"eos_token_id": [3, 4]}))
    assert load_base(str(folder)).eos_token_ids == {3, 4}


REFUSED: dict[str, Callable[[], PreTrainedModel]] = {
    "attention logit soft-capping": lambda: Gemma2ForCausalLM(Gemma2Config(**GEMMA)),
    "attention sinks": lambda: GptOssForCausalLM(
        GptOssConfig(**SHAPE, head_dim=8, num_local_experts=2, num_experts_per_tok=1)
    ),
    "attention in both directions": lambda: Gemma3ForCausalLM(
        Gemma3TextConfig(**GEMMA, use_bidirectional_attention=True)
    ),
    "conv layers": lambda: Lfm2ForCausalLM(Lfm2Config(**SHAPE, layer_types=["conv", "full_attention"])),
    "dynamic rotation": lambda: LlamaForCausalLM(
        LlamaConfig(**SHAPE, rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4})
    ),
    "logits_scaling": lambda: GraniteForCausalLM(GraniteConfig(**SHAPE, logits_scaling=2.0)),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_would_give_wrong_numbers_is_refused(tmp_path: Path, reason: str):
    with torch.random.fork_rng():
        REFUSED[reason]().float().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=reason):
        load_base(str(tmp_path))


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux tells what is mapped")
@pytest.mark.parametrize("architecture", ["llama_tied", "gemma3"])
@pytest.mark.parametrize("shard", ["1GB", "20KB"])
def test_weights_are_mapped_from_their_files_and_not_copied(tmp_path: Path, architecture: str, shard: str):
    with torch.random.fork_rng():
        ARCHITECTURES[architecture]().float().save_pretrained(tmp_path, max_shard_size=shard)
    base = load_base(str(tmp_path))
    places = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
    mapped = [
        range(*(int(end, 16) for end in place[0].split("-")))
        for place in places
        if str(tmp_path) in place[-1]
    ]
    assert len(mapped) == len(list(tmp_path.glob("*.safetensors")))
    for name, weight in base.model.named_parameters():
        assert any(weight.data_ptr() in part for part in mapped), name

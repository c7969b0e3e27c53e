"""Small random language models of real architectures, and the plain transformers + PEFT forward to compare with."""

from pathlib import Path

import torch
from peft import PeftModel
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    Gemma3Config,
    Gemma3ForCausalLM,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    SiglipVisionConfig,
)

from services.model.lora import Adapter
from services.model.peft_files import save_adapter

VOCABULARY = 97
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "eos_token_id": 1,
    "bos_token_id": None,
}
WINDOW = 8
GEMMA = SHAPE | {
    "num_hidden_layers": 3,
    "head_dim": 12,
    "sliding_window": WINDOW,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    "query_pre_attn_scalar": 24,
    "pad_token_id": 0,
}
VISION = SiglipVisionConfig(
    hidden_size=16,
    intermediate_size=16,
    num_hidden_layers=1,
    num_attention_heads=2,
    image_size=28,
    patch_size=14,
)
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 1e4,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
ARCHITECTURES = {
    "tied": lambda: Qwen3ForCausalLM(Qwen3Config(**SHAPE, head_dim=12, tie_word_embeddings=True)),
    "untied": lambda: Qwen3ForCausalLM(Qwen3Config(**SHAPE, head_dim=12, tie_word_embeddings=False)),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE)),
    "llama_tied": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE, tie_word_embeddings=True)),
    "llama3": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE, rope_parameters=LLAMA3_ROPE)),
    "gemma3": lambda: Gemma3ForCausalLM(Gemma3TextConfig(**GEMMA)),
    "gemma3_capped": lambda: Gemma3ForCausalLM(
        Gemma3TextConfig(**GEMMA, final_logit_softcapping=3.0, attn_logit_softcapping=2.0)
    ),
    "gemma3_with_images": lambda: Gemma3ForConditionalGeneration(
        Gemma3Config(text_config=GEMMA, vision_config=VISION, image_token_index=VOCABULARY - 1)
    ),
    "biased": lambda: Qwen2ForCausalLM(Qwen2Config(**SHAPE)),
    "windowed": lambda: Qwen2ForCausalLM(
        Qwen2Config(**SHAPE, use_sliding_window=True, sliding_window=WINDOW, max_window_layers=1)
    ),
}
FAMILIES = (
    "tied",
    "untied",
    "llama",
    "llama_tied",
    "llama3",
    "gemma3",
    "gemma3_capped",
    "gemma3_with_images",
)
"""Those of `ARCHITECTURES` that are promised to train and to sample alike."""


def save_random_model(architecture: str, folder: Path) -> Path:
    """Write a model of a key of `ARCHITECTURES` with weights large enough for peaked distributions."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        model = ARCHITECTURES[architecture]().float()
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    return folder


def randomize(adapter: Adapter, seed: int) -> Adapter:
    """Give B values, so that the adapter does something."""
    generator = torch.Generator().manual_seed(seed)
    for tensor in adapter.b.values():
        tensor.normal_(std=0.05, generator=generator)
    return adapter


def peft_model(model_dir: Path, adapter: Adapter | None, folder: Path) -> torch.nn.Module:
    """The model as anyone would load it, with the adapter as exported to `folder`."""
    model = AutoModelForCausalLM.from_pretrained(model_dir, attn_implementation="eager")
    if adapter is None:
        return model
    save_adapter(folder, adapter, str(model_dir))
    return PeftModel.from_pretrained(model, folder, is_trainable=True)


def plain_logprobs(model: torch.nn.Module, tokens_N: Tensor, targets: Tensor) -> Tensor:
    """Logprobs in the shape (N,) or (N, K) of `targets`, one sequence at a time."""
    logprobs_N_V = model(input_ids=tokens_N[None]).logits[0].float().log_softmax(-1)
    return logprobs_N_V.gather(1, targets.view(len(targets), -1)).view(targets.shape)


def peft_gradient(model: torch.nn.Module, adapter: Adapter) -> Tensor:
    """What autograd left at the factors of a `peft_model`, in the order of `TrainRun.gradient_P`."""
    gradients = {
        key.removeprefix("base_model.model.").removesuffix(".default.weight"): parameter.grad.flatten()
        for key, parameter in model.named_parameters()
        if parameter.grad is not None
    }
    names = [f"{layer}.lora_{factor}" for layer in adapter.a for factor in "AB"]
    assert gradients.keys() == set(names)
    return torch.cat([gradients[name] for name in names])

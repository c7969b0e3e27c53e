"""Small random language models of real architectures, and the plain transformers + PEFT forward to compare with."""

from pathlib import Path

import torch
from peft import PeftModel
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
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
ARCHITECTURES = {
    "tied": lambda: Qwen3ForCausalLM(Qwen3Config(**SHAPE, head_dim=12, tie_word_embeddings=True)),
    "untied": lambda: Qwen3ForCausalLM(Qwen3Config(**SHAPE, head_dim=12, tie_word_embeddings=False)),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE)),
    "biased": lambda: Qwen2ForCausalLM(Qwen2Config(**SHAPE)),
    "windowed": lambda: Qwen2ForCausalLM(
        Qwen2Config(**SHAPE, use_sliding_window=True, sliding_window=WINDOW, max_window_layers=1)
    ),
}


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

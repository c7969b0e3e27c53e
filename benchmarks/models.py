"""Models to measure with: real architectures, random weights (speed does not depend on them)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

DEMO: Mapping[str, Any] = {
    "hidden_size": 96,
    "intermediate_size": 288,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 24,
    "vocab_size": 768,
}
"""The demo's: 0.4 M parameters."""


def make_model(folder: Path, shape: Mapping[str, Any]) -> Path:
    """Write a Qwen3 of that shape, without a tokenizer; returns the folder."""
    torch.manual_seed(0)
    config = Qwen3Config(
        **shape, tie_word_embeddings=True, max_position_embeddings=512, eos_token_id=1, pad_token_id=0
    )
    Qwen3ForCausalLM(config).save_pretrained(folder)
    return folder


def write_tokenizer(folder: Path, vocabulary: int) -> None:
    """Put a tokenizer beside a model, in which a token is a word: `word_of`."""
    words = {word_of(token): token for token in range(vocabulary)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token=word_of(0)))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"pad_token": word_of(0), "eos_token": word_of(1)}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)


def word_of(token: int) -> str:
    """`w7`; the special ones are part of no other word, since they are found within words."""
    return ("<pad>", "<end>")[token] if token < 2 else f"w{token}"

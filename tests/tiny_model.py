"""A language model for tests, made on the spot: a real architecture and a real tokenizer, both tiny.

`make_tiny_model` writes a folder that `AutoModelForCausalLM` and `AutoTokenizer` load: Qwen3, hidden size
64, two layers, context 512, byte-level BPE of at most 512 tokens with single digits. A second of training
on small sums makes its answers plausible and of varying form, so that rewards differ within a group.
"""

import random
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

CONTEXT = 512
VOCABULARY = 512
END, PAD = "<|end|>", "<|pad|>"
SENTENCES = (
    "User: What is the capital of France?\n\nAssistant: The capital of France is Paris.\n\n",
    "User: Which rows of the table have a price above ten?\n\nAssistant: Only the second row has.\n\n",
    "A small model learns from rewards; a large one learns from many small rewards at once.",
    "What is the sum of these numbers? The answer is written in digits, and nothing else follows.",
)


def sums(seed: int, count: int) -> list[str]:
    """Dialogues in which someone asks for the sum of two digits, with the turn that would follow."""
    rng = random.Random(seed)

    def turn() -> str:
        x, y = rng.randrange(10), rng.randrange(10)
        return f"User: What is {x} + {y}?\n\nAssistant: {x + y}\n\n"

    return [turn() + turn() + "User:" for _ in range(count)]


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE, so that any text survives encoding and decoding."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\d|\n+| ?[^\s\d]+|\s"), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*SENTENCES, *sums(seed=0, count=50)], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, pad_token=PAD, model_max_length=CONTEXT
    )


def make_model(tokenizer: PreTrainedTokenizerFast, head_dim: int = 16) -> Qwen3ForCausalLM:
    """Random small weights, the same on every call."""
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=head_dim,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Qwen3ForCausalLM(config).float()


def train(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, steps: int) -> None:
    """Plain next-token training on sums: the form is learned long before the arithmetic."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    model.train()
    for step in range(steps):
        batch = tokenizer(sums(seed=step, count=16), padding=True, return_tensors="pt")
        labels = batch.input_ids.masked_fill(batch.attention_mask == 0, -100)
        model(**batch, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()


def make_tiny_model(directory: Path, steps: int = 30, head_dim: int = 16) -> Path:
    """Write model and tokenizer to `directory`, and return it. vLLM on a CPU wants heads of 32 and more."""
    tokenizer = make_tokenizer()
    model = make_model(tokenizer, head_dim)
    train(model, tokenizer, steps)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory

"""The small base model, made on the spot: a Qwen3-shaped transformer that has read SQL in three dialects.

`make_base_model` trains a byte-level BPE and the model on pairs (schema, question, SQL) by plain supervised
learning, loss on the SQL alone: this is where the model learns what questions mean. Weights and tokenizer are
kept together under a hash of the whole recipe, seed and source included, so that any change makes a new model.
Knows nothing of RL, rewards or the API.
"""

# torch and transformers annotate loosely
# mypy: disable-error-code="no-untyped-call"

import argparse
import hashlib
import json
import os
import random
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import tokenizers
import torch
import transformers
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import LambdaLR
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from examples.text2sql.prompts import prompt_text
from examples.text2sql.questions import CORPUS_SIZE, Pair, make_corpus, make_databases

END_OF_TEXT, PADDING = "<|endoftext|>", "<|pad|>"
IGNORED = -100
TRAINING_FILE = "training.json"
CACHE = Path(__file__).parents[2] / "out" / "cache"
SOURCES = ("schemas", "queries", "drawing", "phrasing", "questions", "prompts", "base_model")


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what the base model becomes."""

    seed: int
    corpus_size: int = CORPUS_SIZE
    vocabulary: int = 768
    hidden: int = 96
    layers: int = 3
    heads: int = 4
    key_value_heads: int = 2
    head_dim: int = 32
    feed_forward: int = 288
    context: int = 512
    steps: int = 600
    batch: int = 64
    learning_rate: float = 1e-2
    matrix_learning_rate: float = 3e-2
    warmup_steps: int = 50
    clip: float = 1.0

    @property
    def digest(self) -> str:
        """16 hex digits over the fields, the code that makes corpus and model, and the libraries."""
        folder = Path(__file__).parent
        sources = [(folder / f"{name}.py").read_text(encoding="utf-8") for name in SOURCES]
        versions = [torch.__version__, transformers.__version__, tokenizers.__version__]
        return hashlib.sha256(json.dumps([asdict(self), sources, versions]).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class BaseModel:
    """A folder in Hugging Face's format and the seconds that its training took, whenever that was."""

    folder: Path
    seconds: float


def make_base_model(recipe: Recipe, databases: dict[str, Path], cache: Path) -> BaseModel:
    """The model of `recipe` from the cache, or trained now and put there whole or not at all."""
    folder = cache / f"text2sql-{recipe.digest}"
    if folder.exists():
        return BaseModel(folder, json.loads((folder / TRAINING_FILE).read_text(encoding="utf-8"))["seconds"])
    started = time.perf_counter()
    corpus = make_corpus(databases, recipe.seed, recipe.corpus_size)
    tokenizer = train_tokenizer(corpus, recipe.vocabulary)
    model = train_model(recipe, corpus, tokenizer)
    unfinished = cache / f".{folder.name}-{os.getpid()}"
    transformers.utils.logging.disable_progress_bar()  # writing a megabyte needs none
    model.save_pretrained(unfinished)
    tokenizer.save_pretrained(unfinished)
    seconds = time.perf_counter() - started
    note = json.dumps({"seconds": seconds, "recipe": asdict(recipe)}, indent=2)
    (unfinished / TRAINING_FILE).write_text(note + "\n", encoding="utf-8")
    try:
        unfinished.rename(folder)
    except OSError:
        # Another process finished the same recipe first: its model is as good as ours.
        shutil.rmtree(unfinished)
        if not folder.exists():
            raise
    return BaseModel(folder, seconds)


def train_tokenizer(corpus: list[Pair], vocabulary: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE of the corpus; every digit is a token of its own."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END_OF_TEXT, PADDING],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = (prompt_text(pair.schema, pair.question) + pair.sql for pair in corpus)
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END_OF_TEXT,
        pad_token=PADDING,
        clean_up_tokenization_spaces=False,
    )


def train_model(recipe: Recipe, corpus: list[Pair], tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    """Supervised training on the corpus with progress on the screen; float32 weights."""
    torch.manual_seed(recipe.seed)
    model = Qwen3ForCausalLM(model_config(recipe, tokenizer))
    optimizers = make_optimizers(model, recipe)
    schedulers = [LambdaLR(optimizer, lambda step: _schedule(recipe, step)) for optimizer in optimizers]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task("base model", total=recipe.steps)
        for tokens_BT, labels_BT in batches(recipe, encode(corpus, tokenizer), pad=tokenizer.pad_token_id):
            loss = sql_loss(model, tokens_BT, labels_BT)
            model.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
            for optimizer, scheduler in zip(optimizers, schedulers, strict=True):
                optimizer.step()
                scheduler.step()
            progress.update(bar, advance=1, description=f"base model, loss {loss.item():.3f}")
    model.eval()
    return model


def make_optimizers(model: Qwen3ForCausalLM, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers, AdamW for embeddings and norms (Jordan et al. 2024).

    Muon reaches in 450 steps what AdamW alone does not reach in 600.
    """
    matrices = [weight for weight in model.model.layers.parameters() if weight.ndim == 2]
    others = [weight for weight in model.parameters() if all(weight is not matrix for matrix in matrices)]
    return [
        torch.optim.Muon(matrices, lr=recipe.matrix_learning_rate, weight_decay=0.0),
        torch.optim.AdamW(others, lr=recipe.learning_rate, weight_decay=0.0),
    ]


def model_config(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> Qwen3Config:
    """The shape; the end-of-sequence token stands in it, so that every server stops there."""
    return Qwen3Config(
        vocab_size=recipe.vocabulary,
        hidden_size=recipe.hidden,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.key_value_heads,
        head_dim=recipe.head_dim,
        intermediate_size=recipe.feed_forward,
        max_position_embeddings=recipe.context,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )


def encode(corpus: list[Pair], tokenizer: PreTrainedTokenizerFast) -> list[tuple[list[int], list[int]]]:
    """(prompt tokens, SQL tokens with the end) of each pair, tokenized apart as the sampler will see them."""
    prompts = tokenizer(
        [prompt_text(pair.schema, pair.question) for pair in corpus], add_special_tokens=False
    )
    answers = tokenizer([pair.sql for pair in corpus], add_special_tokens=False)
    end = [tokenizer.eos_token_id]
    return [
        (prompt, answer + end)
        for prompt, answer in zip(prompts["input_ids"], answers["input_ids"], strict=True)
    ]


def batches(
    recipe: Recipe, rows: list[tuple[list[int], list[int]]], pad: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """`recipe.steps` batches of (tokens_BT, labels_BT), int64; rows of like length come together."""
    rng = random.Random(recipe.seed)
    made = 0
    while True:
        rng.shuffle(rows)
        # Sorted in windows: little padding, and still a fresh mixture each time round.
        window = 16 * recipe.batch
        ordered = [
            row
            for start in range(0, len(rows), window)
            for row in sorted(rows[start : start + window], key=lambda row: len(row[0]) + len(row[1]))
        ]
        starts = list(range(0, len(ordered) - recipe.batch + 1, recipe.batch))
        rng.shuffle(starts)
        for start in starts:
            yield _pad(ordered[start : start + recipe.batch], pad)
            made += 1
            if made == recipe.steps:
                return


def sql_loss(model: Qwen3ForCausalLM, tokens_BT: torch.Tensor, labels_BT: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of the labelled tokens; logits are computed at those positions alone.

    Padding stands on the right, where causal attention never looks, so no mask is needed.
    """
    hidden_BTH = model.model(input_ids=tokens_BT[:, :-1], use_cache=False).last_hidden_state
    labelled_BT = labels_BT[:, 1:] != IGNORED
    return cross_entropy(model.lm_head(hidden_BTH[labelled_BT]), labels_BT[:, 1:][labelled_BT])


def _pad(rows: list[tuple[list[int], list[int]]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(len(prompt) + len(answer) for prompt, answer in rows)
    tokens_BT = torch.full((len(rows), width), pad)
    labels_BT = torch.full((len(rows), width), IGNORED)
    for index, (prompt, answer) in enumerate(rows):
        tokens_BT[index, : len(prompt) + len(answer)] = torch.tensor(prompt + answer)
        labels_BT[index, len(prompt) : len(prompt) + len(answer)] = torch.tensor(answer)
    return tokens_BT, labels_BT


def _schedule(recipe: Recipe, step: int) -> float:
    """Linear warm-up, then linear decay to zero."""
    if step < recipe.warmup_steps:
        return (step + 1) / recipe.warmup_steps
    return max(0.0, (recipe.steps - step) / (recipe.steps - recipe.warmup_steps))


def main() -> None:
    """Make the base model of a seed, or find it, and print its folder: what `rekindle up --base-model` takes."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", type=Path, default=CACHE)
    options = parser.parse_args()
    databases = make_databases(options.cache / f"databases-{options.seed}", options.seed)
    print(make_base_model(Recipe(options.seed), databases, options.cache).folder)


if __name__ == "__main__":
    main()

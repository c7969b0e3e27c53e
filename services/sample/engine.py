"""What the sampling service asks of an engine, whichever library computes.

A task is one prompt with everything that decides its tokens, the seed included; a result has the tokens with
the logprobs of the raw model (temperature 1, before top-k and top-p). Nothing here knows of torch, HTTP or
events. Implementations: `torch_engine.py`, `vllm_engine.py`.

Axes: P prompt tokens, T sampled tokens, K entries per position.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from rekindle.types.errors import InvalidField
from rekindle.types.results import AltTokens, SampledSequence, TopK


@dataclass(frozen=True, slots=True)
class StopRule:
    """What ends a sequence. Example: StopRule(eos=True, strings=("\\n\\n",))."""

    eos: bool = True
    """The model's end-of-sequence tokens stop."""
    tokens: frozenset[int] = frozenset()
    strings: tuple[str, ...] = ()
    """Stop when the text, special tokens kept, contains one of these; they are not empty."""

    @classmethod
    def parse(cls, stop: str | Sequence[str] | Sequence[int] | None) -> "StopRule":
        """Read the wire's `stop`: absent = end of sequence only, an empty list = nothing stops."""
        if stop is None:
            return cls()
        entries = [stop] if isinstance(stop, str) else list(stop)
        if "" in entries:
            raise InvalidField("stop", "an empty string would stop everywhere")
        return cls(
            eos=bool(entries),
            tokens=frozenset(entry for entry in entries if isinstance(entry, int)),
            strings=tuple(entry for entry in entries if isinstance(entry, str)),
        )


@dataclass(frozen=True, slots=True)
class SampleTask:
    """One request. Example: SampleTask(tokens=[1, 2], seed=7, num_samples=4, max_tokens=16)."""

    tokens: Sequence[int]
    """The prompt; at least one token, fewer than the context."""
    seed: int
    """Fixed when the command was appended, so that a repeated task gives the same tokens."""
    num_samples: int = 1
    max_tokens: int | None = None
    """At most so many sampled tokens; None = the room left in the context."""
    temperature: float = 1.0
    """0 = greedy."""
    top_k: int = -1
    """Draw among so many of the likeliest tokens; -1 = off."""
    top_p: float = 1.0
    """Draw among the likeliest tokens that together reach this probability, after temperature; 1 = off."""
    stop: StopRule = field(default_factory=StopRule)
    prompt_logprobs: bool = False
    topk_prompt: int = 0
    """The likeliest tokens to return for each prompt position; 0 = none."""
    topk_sample: int = 0
    """The same for each sampled position."""
    target_prompt: NDArray[np.int64] | None = None
    """(P-1, K): tokens to score at prompt position i+1; -1 = not scored."""
    alt_tokens_k: int = 0
    """Independent draws at the task's temperature to make at each prompt position after the first."""
    prompt_logprobs_last_n: int | None = None
    """Score the last n prompt positions only; None = all."""
    tenant: str = ""
    """Whose it is: what an engine remembers of prompts, it tells nobody else, not even by what it need not compute."""


@dataclass(frozen=True, slots=True)
class AdapterRef:
    """An adapter version. Example: AdapterRef("run/sampler/step-3", Path("cache/1f0c"))."""

    version: str
    """Its identity: the same version always has the same weights."""
    folder: Path
    """Holds its files in PEFT's format; read on demand, and again after an eviction."""


@dataclass(frozen=True, slots=True)
class SampleResult:
    """What a task asked for; the rest is None."""

    sequences: list[SampledSequence]
    """One for each sample, in the order of the sample index."""
    prompt_logprobs: NDArray[np.float32] | None = None
    """(P,); NaN at position 0 and before the last n."""
    topk_prompt: TopK | None = None
    """(P, K); rows that are not scored hold empty cells."""
    target_prompt_logprobs: NDArray[np.float32] | None = None
    """(P-1, K), as the targets; 0 where a cell was not scored."""
    alt_tokens: AltTokens | None = None
    prompt_cache_hit_tokens: int = 0


class Engine(Protocol):
    """Samples from one base model with any of its adapters, many tasks at a time."""

    vocab_size: int
    context_length: int

    async def sample(self, task: SampleTask, adapter: AdapterRef | None) -> SampleResult:
        """Run one task to its end; cancelling the caller frees what it holds.

        Raises InvalidField when the task does not fit the model, ValueError when the adapter does not fit it
        or gives no finite logits, OSError when its files cannot be read, and EngineError when the engine
        itself is broken or closed.
        """
        ...

    async def close(self) -> None:
        """Stop; tasks still running fail with EngineError."""
        ...


class EngineError(RuntimeError):
    """The engine cannot go on."""


def check_task(task: SampleTask, vocab_size: int, context_length: int) -> None:
    """Raise InvalidField, naming field and limit, when no engine with this model could run the task."""
    length = len(task.tokens)
    if not 0 < length < context_length:
        raise InvalidField("prompt", f"{length} tokens, must be 1 to {context_length - 1}")
    if not 0 <= min(task.tokens) <= max(task.tokens) < vocab_size:
        raise InvalidField("prompt", f"token ids must be 0 to {vocab_size - 1}")
    if task.num_samples < 1:
        raise InvalidField("num_samples", f"{task.num_samples}, must be at least 1")
    if task.max_tokens is not None and task.max_tokens < 1:
        raise InvalidField("max_tokens", f"{task.max_tokens}, must be at least 1")
    if not 0 <= task.temperature < float("inf"):
        raise InvalidField("temperature", f"{task.temperature}, must be 0 or more")
    if task.top_k != -1 and task.top_k < 1:
        raise InvalidField("top_k", f"{task.top_k}, must be -1 (off) or at least 1")
    if not 0 < task.top_p <= 1:
        raise InvalidField("top_p", f"{task.top_p}, must be above 0 and at most 1")
    widths = {"topk_prompt": vocab_size, "topk_sample": vocab_size, "alt_tokens_k": vocab_size}
    for name, limit in widths.items():
        value = getattr(task, name)
        if not 0 <= value <= limit:
            raise InvalidField(name, f"{value}, must be 0 to {limit}")
    if task.prompt_logprobs_last_n is not None and not 1 <= task.prompt_logprobs_last_n <= length:
        raise InvalidField("prompt_logprobs_last_n", f"{task.prompt_logprobs_last_n}, must be 1 to {length}")
    _check_targets(task.target_prompt, length, vocab_size)


def _check_targets(target_P_K: NDArray[np.int64] | None, length: int, vocab_size: int) -> None:
    if target_P_K is None:
        return
    if target_P_K.ndim != 2 or target_P_K.shape[0] != length - 1:
        raise InvalidField("target_prompt_logprobs", f"shape {target_P_K.shape}, must be ({length - 1}, K)")
    if target_P_K.size and not -1 <= target_P_K.min() <= target_P_K.max() < vocab_size:
        raise InvalidField("target_prompt_logprobs", f"token ids must be -1 to {vocab_size - 1}")

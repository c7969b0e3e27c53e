"""A request on its way through the engine: waiting, prompt in prefill, samples decoding, finished.

Axes: P prompt tokens, T sampled tokens, V vocabulary, K key-value heads or top-k entries, D head dimension.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from rekindle.types.results import SampledSequence, StopReason, TopK
from services.model.lora import Adapter
from services.sample.engine import SampleResult, SampleTask
from services.sample.scoring import PromptScores
from services.sample.stops import StopStrings


@dataclass(eq=False, slots=True)
class Job:
    """One task with what the engine holds for it."""

    task: SampleTask
    adapter: Adapter | None
    new_tokens: int
    """Each sample ends after so many tokens."""
    stop_tokens: frozenset[int]
    stop_strings: StopStrings | None
    deliver: Callable[[SampleResult | BaseException], None]
    """Called once, on the engine's thread."""
    scores: PromptScores | None
    """Set when something about the prompt is asked for."""
    prompt: NDArray[np.int64]
    prefilled: int = 0
    kv: Tensor | None = None
    """(C, P, K, D) while samples have still to start from it."""
    logits_V: Tensor | None = None
    """Of the first sampled token, once the prompt is prefilled."""
    started: int = 0
    """Samples that have joined the batch."""
    sequences: dict[int, SampledSequence] = field(default_factory=dict)
    """Finished ones by sample index."""
    failure: Exception | None = None
    """Why it ends without a result."""

    @property
    def length(self) -> int:
        """Tokens of the longest sequence that this job can make, prompt included."""
        return len(self.prompt) + self.new_tokens

    @property
    def unfinished(self) -> int:
        return self.task.num_samples - len(self.sequences)

    @property
    def outcome(self) -> SampleResult | Exception:
        """What to deliver once the job is done."""
        return self.failure or self.result()

    def result(self) -> SampleResult:
        """What the task asked for, once all samples are finished."""
        sequences = [self.sequences[index] for index in range(self.task.num_samples)]
        return self.scores.result(sequences) if self.scores else SampleResult(sequences)


@dataclass(frozen=True, slots=True)
class Chunk:
    """The prompt tokens of a job that one pass prefills."""

    job: Job
    start: int
    stop: int

    @property
    def size(self) -> int:
        return self.stop - self.start

    @property
    def whole(self) -> bool:
        return self.size == len(self.job.prompt)

    @property
    def last(self) -> bool:
        return self.stop == len(self.job.prompt)


@dataclass(eq=False, slots=True)
class Sample:
    """One sequence in the making."""

    job: Job
    index: int
    """Its number among the samples of its job."""
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    topk: list[tuple[NDArray[np.int32], NDArray[np.float32]]] = field(default_factory=list)
    """Ids and logprobs (K,) for each token, where asked for."""

    def push(self, token: int, logprob: float) -> bool:
        """Add a token; True when it is the last."""
        job, tokens = self.job, self.tokens
        tokens.append(token)
        self.logprobs.append(logprob)
        if token in job.stop_tokens or (job.stop_strings is not None and job.stop_strings.end(tokens)):
            self._finish("stop")
        elif len(tokens) == job.new_tokens:
            self._finish("length")
        else:
            return False
        return True

    def _finish(self, reason: StopReason) -> None:
        self.job.sequences[self.index] = SampledSequence(
            np.array(self.tokens, np.int32),
            np.array(self.logprobs, np.float32),
            reason,
            TopK(*(np.stack(column) for column in zip(*self.topk, strict=True))) if self.topk else None,
        )

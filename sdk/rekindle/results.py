"""What calls answer, as people use it: sampled sequences and scores in plain lists, arrays where there are axes.

Axes: N prompt tokens, T sampled tokens, K alternatives at one position.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rekindle.types import (
    AltTokens,
    ForwardBackwardOutput,
    GetInfoResponse,
    InvalidField,
    OptimStepResponse,
    SampleResponse,
    SaveWeightsExternalResponse,
    SaveWeightsForSamplerResponse,
    SaveWeightsResponse,
    StopReason,
    TopK,
)
from rekindle.types.models import LoadWeightsResponse

__all__ = [
    "AltTokens",
    "ForwardBackwardOutput",
    "GetInfoResponse",
    "LoadWeightsResponse",
    "OptimStepResponse",
    "SampleResult",
    "SampledSequence",
    "SaveWeightsExternalResponse",
    "SaveWeightsForSamplerResponse",
    "SaveWeightsResponse",
    "TopK",
    "sample_result",
]


@dataclass(frozen=True, slots=True)
class SampledSequence:
    """One completion. Example: `SampledSequence([17, 2], [-0.3, -0.01], "stop", "base@s1:sample:0:0:0")`."""

    tokens: list[int]
    """T token ids, at least one; what stopped it is part of it."""
    logprobs: list[float]
    """T natural logarithms, of the raw model: temperature 1, before top-k and top-p."""
    stop_reason: StopReason
    """`length`: max_tokens or the end of the context; `stop`: anything else."""
    sequence_id: str
    """Names this sequence, and in it the version of the weights that made it."""
    topk: TopK | None = None
    """(T, K); None unless asked for."""


@dataclass(frozen=True, slots=True, eq=False)
class SampleResult:
    """All samples of one prompt, and what was asked about the prompt itself."""

    sequences: list[SampledSequence]
    prompt_logprobs: list[float | None] | None
    """N of them, None where nothing was scored, always at 0. None unless asked for."""
    topk_prompt: TopK | None
    """(N, K), row 0 empty. None unless asked for."""
    target_prompt_logprobs: np.ndarray | None
    """(N - 1, K) float32, 0 where nothing was asked for. None unless asked for."""
    prompt_alt_tokens: AltTokens | None
    """Row i is for position i + 1. None unless asked for."""
    prompt_cache_hit_tokens: int
    """Prompt tokens that needed no computation."""


def sample_result(answer: SampleResponse, sequence_ids: Sequence[str]) -> SampleResult:
    """The answer with its sequences named. Raises InvalidField if there are more or fewer than names."""
    if len(answer.sequences) != len(sequence_ids):
        raise InvalidField(
            "sequences", f"{len(answer.sequences)}, but {len(sequence_ids)} ids were announced"
        )
    return SampleResult(
        sequences=[
            SampledSequence(
                found.tokens.tolist(), found.logprobs.tolist(), found.stop_reason, name, found.topk
            )
            for found, name in zip(answer.sequences, sequence_ids, strict=True)
        ],
        prompt_logprobs=None if answer.prompt_logprobs is None else _scores(answer.prompt_logprobs),
        topk_prompt=answer.topk_prompt,
        target_prompt_logprobs=answer.target_prompt_logprobs,
        prompt_alt_tokens=answer.prompt_alt_tokens,
        prompt_cache_hit_tokens=answer.prompt_cache_hit_tokens,
    )


def _scores(logprobs: np.ndarray) -> list[float | None]:
    return [None if math.isnan(logprob) else logprob for logprob in logprobs.tolist()]

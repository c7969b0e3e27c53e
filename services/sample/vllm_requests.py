"""A task in vLLM's terms: parameters of its requests, and its results out of vLLM's outputs.

Each sample is a request of its own with a seed of its own, so it does not depend on how many there are.

Axes: T sampled tokens, K entries per position.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from vllm import SamplingParams
from vllm.logprobs import FlatLogprobs
from vllm.outputs import RequestOutput
from vllm.sampling_params import RequestOutputKind

from rekindle.types.errors import InvalidField
from rekindle.types.results import SampledSequence, StopReason, TopK
from services.sample.engine import SampleTask
from services.sample.uniforms import stream_keys

HOTTEST = 2.0
"""vLLM takes no higher temperature."""


def check_vllm_task(task: SampleTask) -> None:
    """Raise InvalidField for what other engines take and vLLM does not."""
    if task.temperature > HOTTEST:
        raise InvalidField("temperature", f"{task.temperature}, must be at most {HOTTEST} with vLLM")


def seeds(seed: int, streams: NDArray[np.int64]) -> list[int]:
    """One seed for each stream number; vLLM's are signed, and it reads -1 as none."""
    return [int(key) >> 1 for key in stream_keys(seed, streams)]


def drawing(task: SampleTask, seed: int, max_tokens: int, **more: Any) -> SamplingParams:
    """Parameters that draw as the task says and return the raw logprobs of what was drawn."""
    return SamplingParams(
        temperature=task.temperature,
        seed=seed,
        max_tokens=max_tokens,
        ignore_eos=True,
        detokenize=False,
        flat_logprobs=True,
        skip_clone=True,
        **{"logprobs": 0, "output_kind": RequestOutputKind.FINAL_ONLY, **more},
    )


def sampling(task: SampleTask, seed: int, new_tokens: int, stop_tokens: frozenset[int]) -> SamplingParams:
    """Parameters of one sample."""
    return drawing(
        task,
        seed,
        new_tokens,
        top_k=max(task.top_k, 0),
        top_p=task.top_p,
        stop_token_ids=sorted(stop_tokens),
        logprobs=task.topk_sample,
        output_kind=RequestOutputKind.DELTA if task.stop.strings else RequestOutputKind.FINAL_ONLY,
    )


def forced(token: int, topk: int = 0) -> SamplingParams:
    """Parameters that draw `token` whatever its probability and return its raw logprob, and the likeliest."""
    greedy = SampleTask([], 0, temperature=0)
    return drawing(greedy, 0, 1, allowed_token_ids=[token], logprobs=topk)


@dataclass(slots=True)
class Collected:
    """One sample in the making, from the outputs of its request."""

    topk: int
    """Likeliest tokens to keep for each position; 0 = none."""
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    topk_ids: list[list[int]] = field(default_factory=list)
    topk_logprobs: list[list[float]] = field(default_factory=list)
    cached_tokens: int = 0
    reason: StopReason = "length"

    def take(self, output: RequestOutput, ends: Callable[[list[int]], bool]) -> bool:
        """Add what `output` brings; True when a token of it ends the sample, what follows is left out."""
        self.cached_tokens = output.num_cached_tokens or 0
        (completion,) = output.outputs
        flat = completion.logprobs
        assert isinstance(flat, FlatLogprobs), "flat logprobs were asked for"
        for token, start in zip(completion.token_ids, flat.start_indices, strict=True):
            self._push(token, flat, start)
            if ends(self.tokens):
                self.reason = "stop"
                return True
        return False

    def _push(self, token: int, flat: FlatLogprobs, start: int) -> None:
        """Add one token; its own entry stands before those of the likeliest."""
        self.tokens.append(token)
        self.logprobs.append(flat.logprobs[start])
        if self.topk:
            entries = slice(start + 1, start + 1 + self.topk)
            self.topk_ids.append(flat.token_ids[entries])
            self.topk_logprobs.append(flat.logprobs[entries])

    def sequence(self) -> SampledSequence:
        """Raises ValueError when the logits were not finite."""
        if not math.isfinite(sum(self.logprobs)):
            raise ValueError("logits are not finite: the weights of this adapter or model are broken")
        topk = None
        if self.topk:
            topk = TopK(np.array(self.topk_ids, np.int32), np.array(self.topk_logprobs, np.float32))
        tokens, logprobs = np.array(self.tokens, np.int32), np.array(self.logprobs, np.float32)
        return SampledSequence(tokens, logprobs, self.reason, topk)

"""What a task asks about its own prompt: logprobs, likeliest tokens, given targets, alternative draws.

The hidden state of position i scores position i + 1, so the prefill that a sample needs anyway answers all of
it; scores are taken chunk by chunk and memory is bounded by one chunk of logits.

Axes: P prompt tokens, R rows of a chunk, K entries per position, E hidden, V vocabulary.
"""

import numpy as np
import torch
from torch import Tensor

from rekindle.types.results import AltTokens, SampledSequence, TopK
from services.model.base import BaseModel
from services.model.head import CHUNK_LOGITS
from services.model.lora import Groups
from services.sample.engine import SampleResult, SampleTask
from services.sample.sampling import invert
from services.sample.uniforms import stream_keys, uniforms


class PromptScores:
    """Collects the scores of one task while its prompt is prefilled."""

    def __init__(self, task: SampleTask) -> None:
        length = len(task.tokens)
        self._task = task
        self._tokens_P = torch.tensor(task.tokens)
        self._first = max(1, length - (task.prompt_logprobs_last_n or length))
        """First position of `prompt_logprobs` and `topk_prompt`."""
        self._logprobs_P = np.full(length, np.nan, np.float32) if task.prompt_logprobs else None
        self._topk = TopK.empty(length, task.topk_prompt) if task.topk_prompt else None
        self._targets = None if task.target_prompt is None else torch.from_numpy(task.target_prompt)
        shape = None if task.target_prompt is None else task.target_prompt.shape
        self._target_logprobs = None if shape is None else np.zeros(shape, np.float32)
        self._alt: AltTokens | None = None
        if task.alt_tokens_k:
            cells = (length - 1, task.alt_tokens_k)
            self._alt = AltTokens(np.zeros(cells, np.int64), np.zeros(cells, np.float32))
            self._alt_keys = stream_keys(task.seed, -1 - np.arange(task.alt_tokens_k))

    @classmethod
    def of(cls, task: SampleTask) -> "PromptScores | None":
        """None when the task asks nothing about its prompt."""
        asks = task.prompt_logprobs or task.topk_prompt or task.alt_tokens_k or task.target_prompt is not None
        return cls(task) if asks else None

    def feed(self, base: BaseModel, hidden_R_E: Tensor, start: int, groups: Groups) -> None:
        """Score the positions after those of `hidden_R_E`, the first of which is `start`; one group at most."""
        length = len(self._task.tokens)
        begin = max(start, self._lowest() - 1)
        stop = min(start + len(hidden_R_E), length - 1)
        step = max(1, CHUNK_LOGITS // base.vocab_size)
        for at in range(begin, stop, step):
            rows = hidden_R_E[at - start : min(at + step, stop) - start]
            self._score(base.logits(rows, groups).log_softmax(-1), at + 1)

    def result(self, sequences: list[SampledSequence]) -> SampleResult:
        """The result of the task with all that was collected."""
        return SampleResult(sequences, self._logprobs_P, self._topk, self._target_logprobs, self._alt)

    def _lowest(self) -> int:
        """First position that anything is asked about; targets and draws know no `last_n`."""
        if self._alt is not None or self._targets is not None:
            return 1
        return self._first

    def _score(self, logprobs_R_V: Tensor, position: int) -> None:
        """Take what is asked of the rows for `position` and on."""
        end = position + len(logprobs_R_V)
        skip = max(0, min(self._first, end) - position)
        scored, positions = logprobs_R_V[skip:], slice(position + skip, end)
        if self._logprobs_P is not None:
            token_R_1 = self._tokens_P[positions, None].to(scored.device)
            self._logprobs_P[positions] = scored.gather(1, token_R_1).squeeze(1).cpu()
        if self._topk is not None:
            values, ids = scored.topk(self._task.topk_prompt)
            self._topk.token_ids[positions] = ids.cpu()
            self._topk.logprobs[positions] = values.cpu()
        rows = slice(position - 1, end - 1)
        if self._targets is not None and self._target_logprobs is not None:
            target_R_K = self._targets[rows].to(logprobs_R_V.device)
            values = logprobs_R_V.gather(1, target_R_K.clamp_min(0)).masked_fill(target_R_K < 0, 0)
            self._target_logprobs[rows] = values.cpu()
        if self._alt is not None:
            tokens_R_K = self._draw(logprobs_R_V, position)
            self._alt.tokens[rows] = tokens_R_K.cpu()
            self._alt.logprobs[rows] = logprobs_R_V.gather(1, tokens_R_K).cpu()

    def _draw(self, logprobs_R_V: Tensor, position: int) -> Tensor:
        """(R, K) draws at the task's temperature."""
        if self._task.temperature == 0:
            return logprobs_R_V.argmax(-1, keepdim=True).expand(-1, self._task.alt_tokens_k)
        positions_R_1 = np.arange(position, position + len(logprobs_R_V))[:, None]
        uniform_R_K = torch.from_numpy(uniforms(self._alt_keys, positions_R_1)).to(logprobs_R_V.device)
        return invert((logprobs_R_V / self._task.temperature).softmax(-1), uniform_R_K)

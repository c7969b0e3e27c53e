"""The sequences that decode together: their rows of the cache, their state, their next tokens.

Rows stay compact: when sequences end, the last ones move into their places. What depends on who is in the
batch (groups of adapters, how to draw) is made again only when that changes. Rows are computed and drawn in
parts: all together, or each apart, so that a sequence's numbers do not depend on its company.

Axes: N rows, V vocabulary.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from services.model.lora import Groups
from services.sample.cache import SlotCache
from services.sample.forward import row_groups
from services.sample.jobs import Job, Sample
from services.sample.sampling import DrawPlan
from services.sample.uniforms import stream_keys, uniforms

_ROW = np.dtype(
    [
        ("token", np.int64),  # the last one sampled, not yet in the cache
        ("length", np.int64),  # tokens in the cache
        ("drawn", np.int64),  # tokens sampled so far
        ("key", np.uint64),
        ("temperature", np.float64),
        ("top_k", np.int64),
        ("top_p", np.float64),
    ]
)


@dataclass(frozen=True, slots=True)
class Part:
    """Neighbouring rows that share a pass and a draw."""

    rows: slice
    groups: Groups
    draws: DrawPlan
    topk: list[tuple[int, int]]
    """(row of the part, K) where the likeliest tokens are asked for."""


class Batch:
    """Decoding rows 0 to N-1."""

    def __init__(self, cache: SlotCache, *, apart: bool = False) -> None:
        """apart: every row is a part of its own."""
        self._cache = cache
        self._apart = apart
        self._device = cache.shape.device
        self._samples: list[Sample] = []
        self._rows = np.zeros(8, _ROW)
        self._changed = True
        self.parts: list[Part] = []
        """All rows, in order; call `prepare` first."""

    def __len__(self) -> int:
        return len(self._samples)

    def column(self, name: str) -> NDArray[Any]:
        """One field of the state of all rows."""
        return self._rows[name][: len(self)]

    def join(self, job: Job, count: int) -> None:
        """Start `count` more samples of a job whose prompt is prefilled."""
        first, last = len(self), len(self) + count
        length = len(job.prompt)
        assert job.kv is not None, "a prompt keeps its keys until all its samples have started"
        if last > len(self._rows):
            self._rows = np.concatenate([self._rows, np.zeros(max(count, len(self._rows)), _ROW)])
        self._cache.reserve(last, max(length, self.longest), first)
        self._cache.fill(first, count, job.kv)
        rows = self._rows[first:last]
        index_N = np.arange(job.started, job.started + count)
        task = job.task
        rows["length"], rows["drawn"], rows["key"] = length, 0, stream_keys(task.seed, index_N)
        rows["temperature"], rows["top_k"], rows["top_p"] = task.temperature, task.top_k, task.top_p
        self._samples += [Sample(job, int(index)) for index in index_N]
        job.started += count
        self._changed = True

    @property
    def longest(self) -> int:
        """Tokens in the longest row of the cache."""
        return int(self.column("length").max(initial=0))

    def prepare(self) -> None:
        """Bring `parts` up to date and make room for one more token in each row."""
        if self._changed:
            count = len(self)
            step = 1 if self._apart else max(1, count)
            self.parts = [self._part(slice(start, start + step)) for start in range(0, count, step)]
        self._changed = False
        self._cache.reserve(len(self), self.longest + 1, len(self))

    def _part(self, rows: slice) -> Part:
        samples, state = self._samples[rows], self._rows[rows]
        topk = [(row, sample.job.task.topk_sample) for row, sample in enumerate(samples)]
        return Part(
            rows,
            row_groups([sample.job.adapter for sample in samples], self._device),
            DrawPlan(state["temperature"], state["top_k"], state["top_p"], self._device),
            [(row, k) for row, k in topk if k],
        )

    def advance(self, logits: list[Tensor]) -> list[Job]:
        """Draw the next token of every row, from logits (N, V) for each part; return the jobs that this finishes."""
        self.prepare()
        drawn = [self._draw(part, logits_N_V) for part, logits_N_V in zip(self.parts, logits, strict=True)]
        tokens = [token for part in drawn for token in part[0]]
        logprobs = [logprob for part in drawn for logprob in part[1]]
        self.column("token")[:] = tokens
        self.column("drawn")[:] += 1
        failed = set() if math.isfinite(sum(logprobs)) else self._fail(logprobs)
        ended = [
            row
            for row, (sample, token, logprob) in enumerate(zip(self._samples, tokens, logprobs, strict=True))
            if (failed and sample.job in failed) or sample.push(token, logprob)
        ]
        jobs = {self._samples[row].job for row in ended}
        self._remove(ended)
        return [job for job in jobs if job.unfinished == 0 or job.failure]

    def _draw(self, part: Part, logits_N_V: Tensor) -> tuple[list[int], list[float]]:
        """The next tokens of a part and their logprobs."""
        logprobs_N_V = logits_N_V.log_softmax(-1)
        uniform_N = uniforms(self.column("key")[part.rows], self.column("drawn")[part.rows])
        token_N = part.draws.draw(logprobs_N_V, torch.from_numpy(uniform_N).to(self._device))
        self._take_topk(part, logprobs_N_V)
        return token_N.tolist(), logprobs_N_V.gather(1, token_N[:, None]).squeeze(1).tolist()

    def _fail(self, logprobs: list[float]) -> set[Job]:
        """Mark the jobs of rows without a finite logprob; wipe their cache, where NaN would outlive them."""
        failed = {
            sample.job for sample, x in zip(self._samples, logprobs, strict=True) if not math.isfinite(x)
        }
        for job in failed:
            job.failure = ValueError("logits are not finite: the weights of this adapter or model are broken")
        for row, sample in enumerate(self._samples):
            if sample.job in failed:
                self._cache.wipe(row)
        return failed

    def drop(self, job: Job) -> None:
        """Remove all rows of a job."""
        self._remove([row for row, sample in enumerate(self._samples) if sample.job is job])

    def _take_topk(self, part: Part, logprobs_N_V: Tensor) -> None:
        if not part.topk:
            return
        rows = torch.tensor([row for row, _ in part.topk], device=self._device)
        values, ids = logprobs_N_V[rows].topk(max(k for _, k in part.topk))
        columns = ids.cpu().numpy().astype(np.int32), values.cpu().numpy()
        for (row, k), id_K, value_K in zip(part.topk, *columns, strict=True):
            self._samples[part.rows.start + row].topk.append((id_K[:k], value_K[:k]))

    def _remove(self, ended: list[int]) -> None:
        """Close the gaps with rows from the end."""
        if not ended:
            return
        count = len(self) - len(ended)
        gone = set(ended)
        movers = (row for row in range(count, len(self)) if row not in gone)
        for target, source in zip((row for row in ended if row < count), movers, strict=True):
            self._cache.move(source, target, int(self._rows["length"][source]))
            self._rows[target] = self._rows[source]
            self._samples[target] = self._samples[source]
        del self._samples[count:]
        self._changed = True

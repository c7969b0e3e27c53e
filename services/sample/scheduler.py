"""Continuous batching: which job computes what in the next step.

Jobs are admitted in order of arrival while all sequences, at their longest, fit a budget of cache tokens, so a
sequence that has begun always ends. A step is one pass over all decoding rows and some prompt tokens: a long
prompt is prefilled in chunks and never holds up decoding for longer than one. With `deterministic` every
sequence has passes and draws of its own, and its numbers do not depend on its company.
"""

from collections import deque

import torch
from torch import Tensor

from services.model.base import BaseModel
from services.model.lora import Groups
from services.sample.batch import Batch
from services.sample.cache import KvShape, SlotCache
from services.sample.forward import Model, forward
from services.sample.jobs import Chunk, Job


class Scheduler:
    """All jobs of an engine; used by one thread."""

    def __init__(
        self, base: BaseModel, *, max_tokens_in_flight: int, prefill_tokens: int, deterministic: bool
    ) -> None:
        self._base = base
        self._model = Model(base)
        self._budget = max_tokens_in_flight
        self._prefill_tokens = prefill_tokens
        self._deterministic = deterministic
        self._cache = SlotCache(KvShape.of(base))
        self._batch = Batch(self._cache, apart=deterministic)
        self._waiting: deque[Job] = deque()
        self._admitted: list[Job] = []
        """In prefill, ready or decoding, in order of arrival."""
        self._starting: list[Job] = []
        """Those of them whose samples have not all started."""

    @property
    def jobs(self) -> list[Job]:
        """All jobs that are not finished."""
        return [*self._admitted, *self._waiting]

    @property
    def decoding(self) -> int:
        """Sequences that hold a row of the cache."""
        return len(self._batch)

    def add(self, job: Job) -> None:
        self._waiting.append(job)

    def cancel(self, job: Job) -> None:
        """Forget a job and free its rows; one that is not here is finished."""
        self._batch.drop(job)
        for queue in (self._waiting, self._admitted, self._starting):
            if job in queue:
                queue.remove(job)

    def step(self) -> list[Job]:
        """Advance every decoding sequence by one token; return the jobs that this finishes."""
        self._admit()
        logits = self._decode_and_prefill(self._plan())
        for job, count in self._startable():
            self._batch.join(job, count)
            assert job.logits_V is not None, "a prefilled prompt has the logits of its next token"
            logits += job.logits_V.expand(count, -1).split(1 if self._deterministic else count)
            if job.started == job.task.num_samples:
                job.kv = job.logits_V = None
                self._starting.remove(job)
        if not len(self._batch):
            return []
        if not self._deterministic and len(logits) > 1:
            logits = [torch.cat(logits)]
        finished = self._batch.advance(logits)
        for job in finished:
            self.cancel(job)
        return finished

    def _admit(self) -> None:
        """Let jobs in while the cache, a rectangle as long as the longest, holds all their samples."""
        if not self._waiting:
            return
        rows = sum(job.unfinished for job in self._admitted)
        length = max((job.length for job in self._admitted), default=0)
        while self._waiting:
            job = self._waiting[0]
            rows, length = rows + job.task.num_samples, max(length, job.length)
            if self._admitted and rows * length > self._budget:
                return
            self._admitted.append(job)
            self._starting.append(self._waiting.popleft())

    def _startable(self) -> list[tuple[Job, int]]:
        """Prefilled jobs and how many samples of each can start now: all, unless a job alone is too large."""
        starts: list[tuple[Job, int]] = []
        rows = len(self._batch)
        for job in self._starting:
            if job.logits_V is not None:
                room = max(self._budget // job.length - rows, 0 if rows else 1)
                count = min(job.task.num_samples - job.started, room)
                rows += count
                if count:
                    starts.append((job, count))
        return starts

    def _plan(self) -> list[Chunk]:
        """The prompt tokens of the next pass, oldest job first."""
        chunks: list[Chunk] = []
        left = self._prefill_tokens
        for job in self._starting:
            start, length = job.prefilled, len(job.prompt)
            if left <= 0:
                break
            if start < length:
                stop = min(length, start + left)
                chunks.append(Chunk(job, start, stop))
                left = self._prefill_tokens if self._deterministic else left - (stop - start)
        return chunks

    def _decode_and_prefill(self, chunks: list[Chunk]) -> list[Tensor]:
        """One pass, or one for each sequence; returns the logits of the decoding rows, in order."""
        self._batch.prepare()
        parts: list[tuple[slice, Groups]] = [(part.rows, part.groups) for part in self._batch.parts]
        nobody: tuple[slice, Groups] = (slice(0, 0), [])
        if not self._deterministic:
            return [self._pass(*(parts or [nobody])[0], chunks)] if parts or chunks else []
        logits = [self._pass(rows, groups, []) for rows, groups in parts]
        for chunk in chunks:
            self._pass(*nobody, [chunk])
        return logits

    def _pass(self, rows: slice, groups: Groups, chunks: list[Chunk]) -> Tensor:
        token_N, length_N = self._batch.column("token")[rows], self._batch.column("length")[rows]
        logits_N_V = forward(self._model, self._cache, rows, token_N, length_N, groups, chunks)
        length_N += 1
        return logits_N_V

"""What a run's commands gave: the futures that clients poll, read by name.

Promises: a result is waited for as long as it takes; one that is gone, since results are kept for a day, raises
`Gone`; a failed future raises `CommandFailed` with its category. What was read is kept in memory for a while, and
nothing depends on that.
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from cachetools import LRUCache

from events.edge import Edge
from events.failure import GivenBack, ServerError, UserError
from events.futures import Gone, Result
from events.ids import future_id
from events.records import RlRunRecord
from rekindle.types import (
    ForwardBackwardOutput,
    SampledSequence,
    SampleResponse,
    decode_forward_backward_output,
    decode_sample_response,
)
from rekindle.types.rewards import Score as Verdict
from rekindle.types.rewards import ScoreResponse
from services.data.rl import ids
from services.data.rl.messages import Evaluate, Probe, Sample, Score, Train

PATIENCE = 300.0
"""Seconds after which a result is looked for anew, should its announcement have been lost."""
KEPT_BYTES = 128 * 2**20
"""Of results in memory, as they came over the bus."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """A place's rollouts and what became of them."""

    score: Score
    sequences: list[SampledSequence]
    verdicts: tuple[Verdict, ...]
    base_logprobs: list[np.ndarray] | None
    """(T,) each, of the completion under the base model; None: the spec asks for no KL."""


class LostGroup(Exception):
    """A place's results are gone."""

    def __init__(self, score: Score) -> None:
        super().__init__(score.id)
        self.score = score


class Results:
    """Reads the results of one run's commands."""

    def __init__(self, edge: Edge, tenant: str, run: RlRunRecord) -> None:
        self._edge = edge
        self._tenant = tenant
        self._run = run
        self._kept: LRUCache[str, tuple[object, int]] = LRUCache(KEPT_BYTES, getsizeof=lambda kept: kept[1])

    async def wait(self, request_id: str) -> bytes:
        """A future's result. Raises CommandFailed, Gone, NotFound; GivenBack when this replica shall work no more."""
        while True:
            found = await self._edge.futures.wait(self._tenant, request_id, PATIENCE)
            if isinstance(found, Result):
                return found.data
            if found is not None:
                kind = UserError if found.category == "user" else ServerError
                raise kind(found.message, retryable=found.retryable)
            if not self._edge.activity.open:
                raise GivenBack("this replica takes no more work")

    async def trained(self, number: int) -> bytes:
        """Of a command of the training run's log."""
        return await self.wait(future_id(self._run.training_run, number))

    async def sampled(self, future: str) -> SampleResponse:
        """Samples of one prompt."""
        return await self._decoded(future, SampleResponse, decode_sample_response)

    async def rollouts(self, command: Sample) -> list[SampledSequence]:
        return (await self.sampled(ids.sample_future(self._run.session_id, command))).sequences

    async def verdicts(self, command: Score | Evaluate) -> tuple[Verdict, ...]:
        future = ids.score_future(self._run, command)
        return (await self._decoded(future, ScoreResponse, ScoreResponse.model_validate_json)).scores

    async def _decoded(self, future: str, kind: type[T], decode: Callable[[bytes], T]) -> T:
        """A future's result, from memory if it is there."""
        kept, _ = self._kept.get(future, (None, 0))
        if isinstance(kept, kind):
            return kept
        data = await self.wait(future)
        found = decode(data)
        with contextlib.suppress(ValueError):  # larger than all that is kept
            self._kept[future] = found, len(data)
        return found

    def forget(self, command: Score) -> None:
        """Read a place anew when it is asked for again."""
        for future in (
            ids.sample_future(self._run.session_id, command.sample),
            ids.score_future(self._run, command),
            *(self._base_future(command, index) for index in range(self._run.spec.group_size)),
        ):
            self._kept.pop(future, None)

    def _base_future(self, command: Score, index: int) -> str:
        return future_id(ids.base_sampler(self._run.session_id), ids.base_number(command, index))

    async def base_logprobs(self, command: Score, index: int, length: int) -> np.ndarray:
        """(T,) of the `length` tokens of a rollout, under the base model."""
        return await self._read(self._base_future(command, index), length)

    async def probed(self, command: Probe, index: int, length: int) -> np.ndarray:
        """(T,) of the `length` tokens of a rollout, under the weights that the step trained."""
        sampler = ids.sampler(self._run.session_id, command.train.step)
        return await self._read(future_id(sampler, ids.number(command.id, index)), length)

    async def _read(self, future: str, length: int) -> np.ndarray:
        """(T,) of the last `length` tokens of a prompt."""
        logprobs = (await self.sampled(future)).prompt_logprobs
        assert logprobs is not None, "they were asked for"
        return logprobs[len(logprobs) - length :]

    async def group(self, command: Score) -> Group:
        """All that is known of a settled place. Raises LostGroup when it is no longer there."""
        try:
            sequences = await self.rollouts(command.sample)
            verdicts = await self.verdicts(command)
            base = None
            if self._run.spec.kl.coefficient:
                base = [
                    await self.base_logprobs(command, index, len(sequence.tokens))
                    for index, sequence in enumerate(sequences)
                ]
        except Gone as error:
            raise LostGroup(command) from error
        return Group(command, sequences, verdicts, base)

    async def passed(self, command: Train) -> ForwardBackwardOutput:
        """What the trainer said of a step's batch."""
        return decode_forward_backward_output(await self.trained(command.seq))

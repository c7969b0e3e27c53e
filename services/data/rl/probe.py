"""Compares sampler and trainer under the same weights where no rollout does: older weights drew all of a batch.

The sampler, with the weights that the step trained, is asked for its logprobs of a few rollouts of the batch, which
it then reads as prompts; the trainer gave its own in the step. Nothing waits for the answer but the alarm.

Axes: P tokens of a prompt, T of a completion.
"""

import asyncio

import anyio.to_thread
import numpy as np

from events.failure import CommandFailed, NotFound
from events.futures import Gone
from events.records import RlRunRecord
from rekindle.types import InvalidField
from services.data.rl import alarms
from services.data.rl.ask import Asking
from services.data.rl.batch import Batch, make_batch
from services.data.rl.messages import Probe, Train
from services.data.rl.prompts import Prompts
from services.data.rl.results import LostGroup, Results

TOKENS = 64
"""Of completions, which are enough to tell."""
ROLLOUTS = 16
"""At most so many are read; with short completions fewer tokens must do."""


class Prober:
    """Compares on behalf of one run."""

    def __init__(self, run: RlRunRecord, asking: Asking, prompts: Prompts, results: Results) -> None:
        self._run = run
        self._asking = asking
        self._prompts = prompts
        self._results = results

    async def gap(self, command: Probe) -> float | None:
        """Mean absolute difference in nats a token; None: something of it is gone, or the sampler failed."""
        try:
            batch = await self._batch(command.train)
            passed = await self._results.passed(command.train)
            trained = alarms.completions(batch, passed.logprobs)
            chosen = range(_enough([len(one_T) for one_T in trained]))
            sampled = await asyncio.gather(*(self._read(command, batch, index) for index in chosen))
        except (LostGroup, CommandFailed, Gone, NotFound, InvalidField):
            return None
        return alarms.distance([trained[index] - one_T for index, one_T in zip(chosen, sampled, strict=True)])

    async def _batch(self, train: Train) -> Batch:
        """As it was trained."""
        groups = [await self._results.group(score) for score in train.groups]
        prompts = [(await self._prompts.of(score.sample)).tokens for score in train.groups]
        return await anyio.to_thread.run_sync(
            make_batch, self._run.spec, groups, prompts, train.baseline, train.uniform
        )

    async def _read(self, command: Probe, batch: Batch, index: int) -> np.ndarray:
        rollout = batch.rollouts[index]
        tokens = [*rollout.prompt_P, *(int(token) for token in rollout.sequence.tokens)]
        await self._asking.probe(command, index, tokens)
        return await self._results.probed(command, index, len(rollout.sequence.tokens))


def _enough(lengths: list[int]) -> int:
    """How many of the first rollouts have tokens enough."""
    total = 0
    for count, length in enumerate(lengths[:ROLLOUTS], start=1):
        total += length
        if total >= TOKENS:
            return count
    return min(len(lengths), ROLLOUTS)

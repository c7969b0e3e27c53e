"""What a run leaves behind goes as the run goes on, not when it ends: nothing of it grows with the steps but its rows
of metrics and the facts.

A row of metrics says from where on nobody asks any more (`Report.forget`, `closed`, `needed`), which the state machine
knows. Beside that the log of the training run has its own order: a result outlives its command, so that a trainer which
takes the run over knows what is done; both are past once a snapshot contains them, which the log's head says. Done
again, all of it is the same.
"""

import asyncio
from collections.abc import AsyncIterator

from events import claims, envelope, names, samplers
from events.checkpoints import CheckpointEntry
from events.edge import Edge
from events.failure import NotFound
from events.ids import score_id
from events.lease import read_head
from events.records import RlRunRecord, SamplerRecord
from events.streams import RESULTS, REWARD, results_of
from services.data.rl import ids
from services.data.rl.machine import TRIES
from services.data.rl.messages import Evaluate, Report, Score


class Leftovers:
    """Of one run."""

    def __init__(self, edge: Edge, tenant: str, run: RlRunRecord) -> None:
        self._edge, self._bus = edge, edge.bus
        self._tenant = tenant
        self._run = run
        self._stream = names.run_stream(run.base)
        self._root = names.run_root(run.base, tenant, run.training_run)
        self._cleared = -1
        """Head of the log up to which nothing is left."""

    async def clear(self, report: Report) -> None:
        """Remove what nobody needs once this row is written. Raises BusUnavailable."""
        await asyncio.gather(*(self.forget(score) for score in report.forget))
        for version in report.closed:
            await self._close(version)
        await self._clear_log(report.needed)

    async def forget(self, command: Score) -> None:
        """The answers of graders, and of the base model, about one place. Raises BusUnavailable."""
        await self._forget_scores(command)
        if self._run.spec.kl.coefficient:
            await self._forget_base(command)

    async def _forget_scores(self, command: Score | Evaluate) -> None:
        request = score_id(ids.score_key(self._run, command))
        await self._bus.purge(results_of(REWARD), names.result_filter("reward", self._tenant, request))

    async def _forget_base(self, command: Score) -> None:
        """The base model's logprobs of a place's rollouts."""
        sampler = ids.base_sampler(self._run.session_id)
        for index in range(self._run.spec.group_size):
            number = ids.base_number(command, index)
            await self._bus.purge(RESULTS, names.result_subject("sample", self._tenant, sampler, number))

    async def _close(self, version: int) -> None:
        """A version that nobody samples from, with all that it has drawn."""
        evaluation = self._run.spec.evaluation
        if evaluation is not None and version % evaluation.every == 0:
            for attempt in range(TRIES):
                await self._forget_scores(Evaluate(version=version, attempt=attempt))
        id = ids.sampler(self._run.session_id, version)
        try:
            sampler = await self._edge.records.get(SamplerRecord, self._tenant, id)
        except NotFound:
            return
        await samplers.close(self._bus, self._edge.blobs, self._edge.records, self._tenant, sampler)

    # The log of the training run

    async def _clear_log(self, needed: int) -> None:
        """What a snapshot contains, and no command with a number from `needed` on."""
        head = (await read_head(self._bus, self._stream, self._root)).number
        if head <= self._cleared:
            return
        before = min(head, needed)  # the head's own number may have to be answered by it
        async for number in self._answered(before):
            await self._forget_result(number)
        await self._forget_entries(before)
        await self._forget_heads()
        self._cleared = head

    async def _answered(self, before: int) -> AsyncIterator[int]:
        """Numbers below it that have a result, and no command any more."""
        found: dict[str, set[int]] = {"cmd": set(), "result": set()}
        for subject in await self._bus.subjects(self._stream, f"{self._root}.*.*"):
            part, last = subject.split(".")[-2:]
            if part in found:
                found[part].add(int(last))
        for number in sorted(found["result"] - found["cmd"]):
            if number < before:
                yield number

    async def _forget_result(self, number: int) -> None:
        subject = f"{self._root}.result.{number}"
        stored = await self._bus.first(self._stream, subject)
        if stored is not None:
            await claims.drop(self._edge.blobs, stored.event)
            await self._bus.purge(self._stream, subject)

    async def _forget_entries(self, before: int) -> None:
        """Entries of checkpoints that are deleted: no save will look for its own any more."""
        for stored in await self._bus.last_of_each(self._stream, f"{self._root}.checkpoint.>"):
            entry = CheckpointEntry.model_validate_json(envelope.data_of(stored.event))
            if entry.deleted and entry.number < before:
                await self._bus.purge(self._stream, stored.subject)

    async def _forget_heads(self) -> None:
        """The last one counts."""
        subject = f"{self._root}.head"
        stored = await self._bus.last(self._stream, subject)
        if stored is not None:
            await self._bus.purge(self._stream, subject, before=stored.sequence)

"""What the world hears of a run: a row of metrics for each step, facts, and the end of what nobody needs any more.

Done again by whoever takes the run over, all of it says the same: rows are written once, facts have ids of their own.
"""

import asyncio
from datetime import UTC, datetime
from typing import Any, Literal

import anyio.to_thread
import structlog

from events import catalog, facts
from events import metrics as counts
from events.commands import release
from events.edge import Edge
from events.failure import CommandFailed, NotFound
from events.futures import Gone
from events.records import RlRunRecord, RunRecord, SessionRecord
from rekindle.types import ForwardBackwardOutput, TinkerPath
from services.data.rl import ids, metrics
from services.data.rl.batch import Batch, make_batch
from services.data.rl.leftovers import Leftovers
from services.data.rl.messages import Finish, Report, Sample, Score, Train
from services.data.rl.metrics import Step
from services.data.rl.prompts import Prompts
from services.data.rl.prompts_order import row_of
from services.data.rl.results import Group, LostGroup, Results
from services.data.rl.store import Hold

log = structlog.get_logger(__name__)

FACTS = {
    "paused": catalog.RUN_PAUSED,
    "completed": catalog.RUN_COMPLETED,
    "failed": catalog.RUN_FAILED,
    "cancelled": catalog.RUN_CANCELLED,
}
ENDINGS: dict[str, Literal["success", "errored", "interrupted"]] = {
    "completed": "success",
    "failed": "errored",
    "cancelled": "interrupted",
}


class Reporter:
    """Reports on one run."""

    def __init__(
        self,
        edge: Edge,
        tenant: str,
        run: RlRunRecord,
        prompts: Prompts,
        results: Results,
        hold: Hold,
        leftovers: Leftovers,
    ) -> None:
        self._edge = edge
        self._tenant = tenant
        self._run = run
        self._prompts = prompts
        self._results = results
        self._hold = hold
        self._leftovers = leftovers

    async def started(self) -> None:
        """The run has its training run."""
        said = {"base": self._run.base, "rank": self._run.lora.rank}
        await say(self._edge, self._tenant, self._run, catalog.RUN_STARTED, "started", said)

    # Steps

    async def report(self, command: Report, seconds: dict[str, float | None]) -> str | None:
        """Write the row, say it, drop what is not needed; returns the alarm. Raises Overtaken."""
        step = await self._step(command)
        row = await self._hold.row(command.row)
        if row is None:
            before = await self._hold.row(command.row - 1)
            time = None if before is None else before.time
            row = await anyio.to_thread.run_sync(
                metrics.row_of, step, self._run.spec, seconds, datetime.now(UTC), time
            )
            await self._hold.write_row(row)
            counts.stepped(self._run.base, row.staleness)
        alarm = await anyio.to_thread.run_sync(metrics.alarm_of, step, self._run.spec)
        await self._say(catalog.STEP_COMPLETED, command.id, row.model_dump(mode="json"))
        if alarm is not None:
            await self.mismatch(command.id, alarm, command.row)
        await self._drop(command)
        await self._leftovers.clear(command)
        return alarm

    async def mismatch(self, found: str, alarm: str, step: int) -> None:
        """Sampler and trainer do not agree; `found` is the id of the command that found it out."""
        await self._say(catalog.SAMPLER_MISMATCH, f"mismatch-{found}", {"reason": alarm, "step": step})

    async def skipped(self, command: Sample | Score, reason: str) -> None:
        """A row is left out."""
        sample = command if isinstance(command, Sample) else command.sample
        dataset = self._run.dataset
        row = row_of(sample.prompt, seed=self._run.spec.seed, rows=dataset.rows)
        log.warning("rl_run.row_skipped", run=self._run.run_id, step=command.batch, row=row, reason=reason)
        where = {"dataset": dataset.name, "version": dataset.version, "row": row}
        said = {"step": command.batch, **where, "reason": reason}
        await self._say(catalog.ROW_SKIPPED, f"skipped-{sample.prompt}", said)

    async def _say(self, type_: str, what: str, data: dict[str, Any]) -> None:
        await say(self._edge, self._tenant, self._run, type_, what, data)

    async def _step(self, command: Report) -> Step:
        """What is still known of a step: results are kept for a day."""
        found = await asyncio.gather(*(self._group(score) for score in command.groups))
        groups = [group for group in found if group is not None]
        batch = passed = None
        if command.train is not None and command.train.groups:
            batch = await self._batch(command.train, groups)
            passed = None if batch is None else await self._passed(command.train)
        return Step(command, groups, batch, passed)

    async def _group(self, score: Score) -> Group | None:
        try:
            return await self._results.group(score)
        except LostGroup:
            return None

    async def _batch(self, train: Train, groups: list[Group]) -> Batch | None:
        """As it was trained; None when a rollout of it is gone."""
        known = {group.score.id: group for group in groups}
        if any(score.id not in known for score in train.groups):
            return None
        prompts = [(await self._prompts.of(score.sample)).tokens for score in train.groups]
        chosen = [known[score.id] for score in train.groups]
        return make_batch(self._run.spec, chosen, prompts, train.baseline, train.uniform)

    async def _passed(self, train: Train) -> ForwardBackwardOutput | None:
        try:
            return await self._results.passed(train)
        except (CommandFailed, Gone, NotFound):
            return None

    async def _drop(self, command: Report) -> None:
        """Delete weights that nobody will use again."""
        paths = [ids.version_path(self._run, version) for version in command.drop_versions]
        paths += [ids.saved_path(self._run, version) for version in command.drop_saved]
        for path in paths:
            await self._delete(path)

    async def _delete(self, path: TinkerPath) -> None:
        """A checkpoint with its files; nothing happens if it is gone."""
        try:
            training = await self._edge.records.get(RunRecord, self._tenant, path.run_id)
            entry = await self._edge.checkpoints.latest(self._tenant, training, path.kind, path.name)
            if entry is None:
                return
            if entry.alive():
                await self._edge.checkpoints.change(self._tenant, entry, deleted=True)
        except NotFound:
            return
        await self._edge.blobs.delete(entry.blob)


async def finish(edge: Edge, tenant: str, run: RlRunRecord, command: Finish, step: int) -> None:
    """The run is paused or over; of one that is over only named checkpoints stay."""
    said = {"reason": command.reason, "step": step}
    await say(edge, tenant, run, FACTS[command.phase], command.id, said)
    if command.phase != "paused":
        await end_session(edge, tenant, run, ENDINGS[command.phase])


async def say(edge: Edge, tenant: str, run: RlRunRecord, type_: str, what: str, data: dict[str, Any]) -> None:
    """A fact about a run; `what` is the same whenever the same is said again."""
    fact = facts.make_fact(
        type_, tenant=tenant, service="data", subject=run.run_id, id=f"{run.session_id}/{what}", data=data
    )
    await facts.publish(edge.bus, tenant, fact)


async def end_session(
    edge: Edge,
    tenant: str,
    run: RlRunRecord,
    ending: Literal["success", "errored", "interrupted"],
    *,
    checkpoints: bool = False,
) -> None:
    """Release what the run's session holds; with `checkpoints`, those too."""

    def ended(session: SessionRecord | None) -> SessionRecord:
        if session is None:
            raise NotFound(run.session_id)
        return session if session.ended else session.model_copy(update={"ended": ending})

    try:
        await edge.records.change(SessionRecord, tenant, run.session_id, ended)
    except NotFound:
        if not checkpoints:
            return  # released before, or never opened
    await release(edge, tenant, run.session_id, run.training_run if checkpoints else None)

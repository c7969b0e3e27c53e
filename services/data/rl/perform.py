"""A command of the state machine becomes the event that answers it: published, waited for, read.

Promises: a command may be performed any number of times, by one driver after the other; its effects are those of
once. What goes wrong with a command becomes an event too; what goes wrong with the bus, or because somebody else
drives the run, is raised.
"""

import asyncio

from events import trace
from events.edge import Edge
from events.failure import CommandFailed, NotFound
from events.futures import Gone
from events.records import ModelRecord, RlRunRecord
from rekindle.types import InvalidField
from services.data.rl import ids
from services.data.rl import messages as say
from services.data.rl.alarms import gap_alarm
from services.data.rl.ask import Asking
from services.data.rl.leftovers import Leftovers
from services.data.rl.messages import Command, Event
from services.data.rl.probe import Prober
from services.data.rl.prompts import Prompts
from services.data.rl.publish import NOTHING_TO_LEARN, TrainingLog
from services.data.rl.report import Reporter
from services.data.rl.results import LostGroup, Results
from services.data.rl.state import State
from services.data.rl.store import Hold
from services.data.rl.timing import Timing


class Performer:
    """Performs one run's commands."""

    def __init__(
        self, edge: Edge, tenant: str, run: RlRunRecord, model: ModelRecord, prompts: Prompts, hold: Hold
    ) -> None:
        self._run_id, self._spec = run.run_id, run.spec
        self._results = results = Results(edge, tenant, run)
        self._log = TrainingLog(edge, tenant, run, prompts, results)
        self._asking = asking = Asking(edge, tenant, run, model, prompts, results)
        self._prober = Prober(run, asking, prompts, results)
        self._leftovers = leftovers = Leftovers(edge, tenant, run)
        self._reporter = Reporter(edge, tenant, run, prompts, results, hold, leftovers)
        self._timing = Timing()
        # Fair, and asked for first of all: numbers are taken in the order in which they are said. A trainer that sees
        # later ones gives up one that does not come, so who dies or pauses must leave no hole.
        self._numbers = asyncio.Lock()

    async def __call__(self, command: Command) -> Event:
        """The event that answers the command, sooner or later.

        Raises BusError, and Overtaken or GivenBack when this driver shall work on it no more.
        """
        trace.take_up(ids.step_trace(self._run_id, ids.step_of(command)))
        self._timing.begin(command)
        with trace.span(f"rl.{command.kind}", command=command.id, subject=self._run_id):
            event = await self._answer(command)
        self._timing.answer(command)
        if isinstance(command, say.Report) and command.train is not None:
            self._step_ended(command)
        return event

    def _step_ended(self, command: say.Report) -> None:
        """The span that all others of the step are below; as far as is known here, it began with its samples."""
        start = self._timing.began(command)
        with trace.span("rl.step", itself=True, start=start, subject=self._run_id, step=command.row):
            pass

    async def _answer(self, command: Command) -> Event:
        try:
            return await self._perform(command)
        except LostGroup as lost:
            return _lost(lost.score)
        except Gone as error:
            return _gone(command, error)
        except CommandFailed as error:
            failure = error.failure
            if failure.category == "user":
                return await self._refused(command, failure.message)
            return _failed(command, failure.message, "server", retryable=failure.retryable)
        except InvalidField as error:
            return await self._refused(command, str(error))
        except NotFound as error:
            return _failed(command, str(error), "server")

    async def _refused(self, command: Command, message: str) -> Event:
        """It cannot be done as it is asked; where a row is to blame, the world hears which."""
        if isinstance(command, say.Sample | say.Score):
            await self._reporter.skipped(command, message)
        return _failed(command, message, "user")

    async def lost(self, state: State) -> list[Event]:
        """What settled places of batches that are not submitted have lost since: results are kept for a day."""
        settled = [
            batch.score(place)
            for batch in state.batches
            if batch.seq is None
            for place, group in enumerate(batch.groups)
            if group.stage == "settled"
        ]
        found = await asyncio.gather(*(self._is_lost(score) for score in settled))
        return [_lost(score) for score, gone in zip(settled, found, strict=True) if gone]

    async def _is_lost(self, score: say.Score) -> bool:
        try:
            await self._results.group(score)
        except LostGroup:
            return True
        return False

    async def _perform(self, command: Command) -> Event:
        match command:
            case say.Create():
                async with self._numbers:
                    await self._log.create(command)
                await self._results.trained(command.seq)
                await self._reporter.started()
                return say.Created()
            case say.Publish():
                async with self._numbers:
                    await self._log.weights(command)
                await self._results.trained(command.seq)
                return say.Published(version=command.version)
            case say.Save():
                async with self._numbers:
                    await self._log.checkpoint(command)
                await self._results.trained(command.seq)
                return say.Saved(version=command.version)
            case say.Train():
                return await self._train(command)
            case say.Sample():
                await self._asking.sample(command)
                await self._results.rollouts(command)
                return say.Sampled(batch=command.batch, group=command.group, attempt=command.attempt)
            case say.Score():
                return await self._score(command)
            case say.Evaluate():
                return await self._evaluate(command)
            case say.Await():
                await asyncio.sleep(self._spec.stragglers.seconds or 0.0)
                return say.Overdue(batch=command.batch)
            case say.Report():
                alarm = await self._reporter.report(command, self._timing.of(command))
                return say.Reported(row=command.row, alarm=alarm)
            case say.Probe():
                return await self._probe(command)
            case say.Finish():
                raise AssertionError("nothing answers the end")

    async def _train(self, command: say.Train) -> Event:
        async with self._numbers:
            await self._submit(command)
        for number in (command.seq, command.seq + 1):
            try:
                await self._results.trained(number)
            except CommandFailed as error:
                if error.failure.message != NOTHING_TO_LEARN:  # which is no failure: the number is taken
                    raise
        return say.Trained(step=command.step)

    async def _submit(self, command: say.Train) -> None:
        """Append the step; rollouts that have expired since it was decided are drawn and scored once more."""
        while True:
            try:
                await self._log.step(command)
                return
            except LostGroup as lost:
                # nothing that is left of it may be taken for an answer about rollouts that are others now
                self._results.forget(lost.score)
                await self._leftovers.forget(lost.score)
                await self._asking.sample(lost.score.sample)
                await self._asking.score(lost.score)
                await self._results.verdicts(lost.score)

    async def _score(self, command: say.Score) -> Event:
        await self._asking.score(command)
        group = await self._results.group(command)
        return say.Scored(
            batch=command.batch,
            group=command.group,
            attempt=command.attempt,
            rewards=tuple(verdict.value for verdict in group.verdicts),
            failure=next((verdict.reason for verdict in group.verdicts if verdict.excluded), None),
        )

    async def _probe(self, command: say.Probe) -> Event:
        gap, step = await self._prober.gap(command), command.train.step
        alarm = gap_alarm(gap, self._spec)
        if alarm is not None:
            await self._reporter.mismatch(command.id, alarm, step)
        return say.Probed(step=step, gap=gap, alarm=alarm)

    async def _evaluate(self, command: say.Evaluate) -> Event:
        await self._asking.held_out(command)
        values = [verdict.value for verdict in await self._results.verdicts(command)]
        scored = [value for value in values if value is not None]
        value = sum(scored) / len(scored) if scored else None
        return say.Evaluated(version=command.version, attempt=command.attempt, value=value)


def _lost(score: say.Score) -> Event:
    return say.Lost(batch=score.batch, group=score.group, attempt=score.attempt)


def _gone(command: Command, error: Gone) -> Event:
    if isinstance(command, say.Sample | say.Score):
        return say.Lost(batch=command.batch, group=command.group, attempt=command.attempt)
    return _failed(command, str(error), "unknown", retryable=True)


def _failed(command: Command, message: str, category: str, *, retryable: bool = False) -> Event:
    return say.Failed.model_validate(
        {"command": command.id, "message": message, "category": category, "retryable": retryable}
    )

"""What the commands of a run do to its state, one by one; forward-backward has its own way (together.py).

A command with a result already is applied again only for what it does to the state. Computing happens in the
one thread that owns the model, by the function that the worker hands in.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from events import catalog, envelope
from events.failure import CommandFailed, Failure, ServerError, UserError
from events.order import Entry
from events.records import RunRecord
from events.weights import LoadCommand, SaveCommand
from rekindle.types.requests import (
    CreateModelResponse,
    LoadWeightsResponse,
    OptimStepRequest,
    OptimStepResponse,
)
from services.model.lora import LoraSpec
from services.train.engine import TrainEngine
from services.train.exports import Exports
from services.train.held import HeldRun
from services.train.results import Done, fact_of
from services.train.run import TrainRun
from services.train.snapshots import Snapshots

Compute = Callable[..., Awaitable[Any]]
"""(function, arguments) → its result, from the one thread that owns the model."""


@dataclass(slots=True)
class Commands:
    """Applies commands to held runs."""

    engine: TrainEngine
    exports: Exports
    snapshots: Snapshots
    compute: Compute

    async def create(self, run: HeldRun, record: RunRecord) -> Done:
        """Weights from the record's seed."""
        run.state = await self.compute(self.engine.new_run, LoraSpec(**record.lora.model_dump()))
        started = fact_of(run, 0, catalog.RUN_STARTED, {"base": record.base, "rank": record.lora.rank})
        return Done(CreateModelResponse(model_id=run.run_id).model_dump_json().encode(), facts=(started,))

    async def step(self, run: HeldRun, entry: Entry, request: OptimStepRequest) -> Done:
        """One optimizer step with what has been accumulated."""
        state = state_of(run)
        metrics = await self.compute(self.engine.optim_step, state, request.adam_params)
        news = {"number": entry.number, "step": state.step, "metrics": metrics}
        fact = fact_of(run, entry.number, catalog.STEP_APPLIED, news)
        return Done(OptimStepResponse(metrics=metrics).model_dump_json().encode(), facts=(fact,))

    async def load(self, run: HeldRun, entry: Entry, command: LoadCommand) -> Done:
        """A checkpoint's state; all before it is settled. Read outside the log, it counts once a snapshot has it."""
        run.state = await self.exports.load(command)
        answer = LoadWeightsResponse(path=command.path, model_id=run.run_id).model_dump_json(
            exclude_none=True
        )
        run.beyond_repair = None  # nothing before matters any more
        copy = await self.compute(run.state.copy)
        await self.snapshots.save(run, entry.number, copy, answer=answer)
        return Done(answer.encode())

    async def copy(self, run: HeldRun) -> TrainRun:
        """The state as it is now, to be written while training goes on."""
        state: TrainRun = await self.compute(state_of(run).copy)
        return state

    async def save(self, run: HeldRun, entry: Entry, command: SaveCommand, copy: TrainRun) -> Done | Failure:
        """Write a copy of the state under a name."""
        try:
            async with run.saving:
                saved, news = await self.exports.save(
                    run.ours, run.tenant, run.run_id, entry.number, copy, command
                )
        except CommandFailed as error:
            return error.failure
        except OSError as error:
            return ServerError(f"the files cannot be written: {error}").failure
        answer: dict[str, Any] = {"path": saved.path, "size_bytes": saved.size_bytes}
        if command.sampler_id is not None:
            answer = {"sampling_session_id": command.sampler_id}
        answer["type"] = entry.type.rpartition(".")[2]
        return Done(envelope.json_data(answer), facts=tuple(news))


def state_of(run: HeldRun) -> TrainRun:
    """The state that a command works on. Raises CommandFailed when there is none to be trusted."""
    if run.beyond_repair is not None:
        raise ServerError(run.beyond_repair.message)
    if run.state is None:
        raise UserError(f"model_id: run {run.run_id!r} has no weights; its creation failed")
    return run.state

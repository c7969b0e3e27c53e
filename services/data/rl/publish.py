"""A run's commands to its trainer: entries of the training run's log, each under the number that the command names.

A number that has its command, or its result, is left as it is; so a command may be said again by whoever takes a run
over. Nothing here waits for results, and nothing is decided: all that an entry carries derives from the run's record
and from results that never change. Whoever asks for several entries asks for one after the other.
"""

import asyncio
from datetime import UTC, datetime

import anyio.to_thread

from events import catalog, envelope, names
from events.edge import Edge
from events.records import RlRunRecord, RunRecord, SamplerRecord, SessionRecord
from events.weights import LoadCommand, SaveCommand
from rekindle.types import AdamParams, OptimStepRequest, TinkerPath, encode_forward_backward
from services.data.rl import ids
from services.data.rl.batch import make_batch
from services.data.rl.messages import Create, Publish, Save, Train
from services.data.rl.prompts import Prompts
from services.data.rl.results import Results

NOTHING_TO_LEARN = "no group of this batch teaches anything: the weights stay as they are"


class TrainingLog:
    """Appends one run's training commands."""

    def __init__(self, edge: Edge, tenant: str, run: RlRunRecord, prompts: Prompts, results: Results) -> None:
        self._edge = edge
        self._tenant = tenant
        self._run = run
        self._prompts = prompts
        self._results = results

    async def create(self, command: Create) -> None:
        """The session, the training run, and its first command. Raises NotFound for a checkpoint that is gone."""
        run, spec, records = self._run, self._run.spec, self._edge.records
        session = SessionRecord(
            session_id=run.session_id,
            created=run.created,
            tags=list(spec.tags),
            display_name=spec.name,
            user_metadata={"rl_run": run.run_id},
        )
        await records.create(self._tenant, run.session_id, session)
        load = None if spec.checkpoint is None else await self._load(spec.checkpoint)
        training = RunRecord(
            run_id=run.training_run,
            session_id=run.session_id,
            base=run.base,
            lora=run.lora,
            created=run.created,
            user_metadata={"rl_run": run.run_id},
            loaded_from=spec.checkpoint,
        )
        training = await records.create(self._tenant, run.training_run, training)
        type_, payload = (catalog.CREATE_MODEL, training) if load is None else (catalog.LOAD_WEIGHTS, load)
        await self._submit(command.seq, type_, payload.model_dump_json().encode())

    async def _load(self, path: str) -> LoadCommand:
        entry = await self._edge.checkpoints.readable(self._tenant, TinkerPath.parse(path))
        return LoadCommand(path=path, blob=entry.blob, optimizer=entry.kind == "weights", creates_run=True)

    async def weights(self, command: Publish) -> None:
        """Save a version for samplers, and open the sampler of it."""
        path = ids.version_path(self._run, command.version)
        sampler_id = ids.sampler(self._run.session_id, command.version)
        sampler = SamplerRecord(
            sampler_id=sampler_id,
            session_id=self._run.session_id,
            base=self._run.base,
            path=str(path),
            created=self._run.created,
        )
        await self._edge.records.create(self._tenant, sampler_id, sampler)
        save = SaveCommand(kind=path.kind, name=path.name, created=datetime.now(UTC))
        await self._submit(command.seq, catalog.SAVE_WEIGHTS_FOR_SAMPLER, save.model_dump_json().encode())

    async def checkpoint(self, command: Save) -> None:
        """Save adapter, moments and step count."""
        path = ids.saved_path(self._run, command.version)
        save = SaveCommand(kind=path.kind, name=path.name, optimizer=True, created=datetime.now(UTC))
        await self._submit(command.seq, catalog.SAVE_WEIGHTS, save.model_dump_json().encode())

    async def step(self, command: Train) -> None:
        """A batch and the optimizer step with it. Raises LostGroup when a rollout is no longer there."""
        if command.groups and await self._teach(command):
            await self._submit(command.seq + 1, catalog.OPTIM_STEP, self._optim_step(command))
            return
        for number in (command.seq, command.seq + 1):
            if await self._standing(number) is None:
                await self._edge.log.reject(self._tenant, await self._training(), number, NOTHING_TO_LEARN)

    async def _teach(self, command: Train) -> bool:
        """Append the batch; False where it came to nothing, now or before."""
        standing = await self._standing(command.seq)
        if standing is not None:
            return standing not in (catalog.REJECTED, catalog.FAILED)
        data = await self._batch(command)
        if data is not None:
            await self._append(command.seq, catalog.FORWARD_BACKWARD, data, envelope.PROTOBUF)
        return data is not None

    async def _batch(self, command: Train) -> bytes | None:
        """None: rollouts were drawn again, and have other rewards, too few of them."""
        groups = await asyncio.gather(*(self._results.group(score) for score in command.groups))
        prompts = [(await self._prompts.of(score.sample)).tokens for score in command.groups]

        def encoded() -> bytes | None:
            batch = make_batch(self._run.spec, groups, prompts, command.baseline, command.uniform)
            if not batch.rollouts:
                return None
            return encode_forward_backward(batch.request(self._run.training_run, command.seq))

        return await anyio.to_thread.run_sync(encoded)

    def _optim_step(self, command: Train) -> bytes:
        optimizer = self._run.spec.optimizer
        adam = AdamParams(
            learning_rate=command.learning_rate,
            **optimizer.model_dump(include={"beta1", "beta2", "eps", "weight_decay", "grad_clip_norm"}),
        )
        request = OptimStepRequest(model_id=self._run.training_run, seq_id=command.seq + 1, adam_params=adam)
        return request.model_dump_json().encode()

    async def _submit(self, number: int, type_: str, data: bytes) -> None:
        if await self._standing(number) is None:
            await self._append(number, type_, data)

    async def _append(self, number: int, type_: str, data: bytes, content_type: str = envelope.JSON) -> None:
        await self._edge.log.submit(self._tenant, await self._training(), number, type_, data, content_type)

    async def _standing(self, number: int) -> str | None:
        """Type of the number's command, or of the result that outlives it; None: it has neither."""
        run = self._run
        for part in ("cmd", "result"):
            subject = names.run_subject(run.base, self._tenant, run.training_run, part, number)
            stored = await self._edge.bus.first(names.run_stream(run.base), subject)
            if stored is not None:
                return stored.event.get_type()
        return None

    async def _training(self) -> RunRecord:
        return await self._edge.records.get(RunRecord, self._tenant, self._run.training_run)

"""A run's questions: samples to draw and rollouts to score, each asked once, however often it is said.

What is asked derives from the run's record, its rows and results that never change; ids derive from the command. So a
question that is queued, or has its answer, is not asked again. Nothing here waits but for rollouts that are to be
scored.
"""

import asyncio
from collections.abc import Sequence

import anyio.to_thread
import structlog
from pydantic import ValidationError

from events import sampling, scoring
from events.edge import Edge
from events.failure import UserError
from events.ids import future_id
from events.records import ModelRecord, RlRunRecord, RunRecord, SamplerRecord
from events.sampling import SampleCommand
from rekindle.types import (
    InvalidField,
    ModelInput,
    SampledSequence,
    SampleRequest,
    SamplingParams,
    check_sample,
    first_mistake,
)
from rekindle.types.rewards import Grader, ScoreItem, ScoreRequest
from services.data.rl import ids
from services.data.rl.messages import Evaluate, Probe, Sample, Score
from services.data.rl.prompts import Prompts
from services.data.rl.results import Results
from services.data.rl.rows import Prompt

log = structlog.get_logger(__name__)


class Asking:
    """Asks samplers and graders on behalf of one run."""

    def __init__(
        self,
        edge: Edge,
        tenant: str,
        run: RlRunRecord,
        model: ModelRecord,
        prompts: Prompts,
        results: Results,
    ) -> None:
        self._edge = edge
        self._tenant = tenant
        self._run = run
        self._model = model
        self._prompts = prompts
        self._results = results

    async def sample(self, command: Sample) -> None:
        """Have the rollouts of a place drawn. Raises InvalidField for a prompt that cannot be sampled."""
        wanted, prompt = self._run.spec.sampling, await self._prompts.of(command)
        # an engine reads less than its context as a prompt, and rollouts may be read: for KL, or by a probe
        room = self._model.context_length - 1 - len(prompt.tokens)
        params = SamplingParams(
            seed=ids.seed(wanted.seed, command.prompt, command.attempt),
            max_tokens=max(1, min(wanted.max_tokens, room)),
            **wanted.model_dump(exclude={"seed", "max_tokens"}),
        )
        sampler = ids.sampler(self._run.session_id, command.version)
        await self._ask(sampler, ids.number(command.id), prompt.tokens, params, self._run.spec.group_size)

    async def score(self, command: Score) -> None:
        """Have a place's rollouts scored, and found likely or not by the base model where KL is asked for."""
        prompt = await self._prompts.of(command.sample)
        sequences = await self._results.rollouts(command.sample)
        if self._run.spec.kl.coefficient:
            await asyncio.gather(
                *(self._ask_base(command, index, prompt, one) for index, one in enumerate(sequences))
            )
        ids_ = await self._sequence_ids(command.sample, len(sequences))
        items = [self._item(prompt, *one) for one in zip(sequences, ids_, strict=True)]
        await self._grade(command, items)

    async def held_out(self, command: Evaluate) -> None:
        """Have one answer to each held-out row drawn, and then all of them scored; rows that cannot be asked are left
        out. Raises InvalidField when no row can be."""
        assert self._run.held_out is not None and self._run.spec.evaluation is not None, "it is evaluated"
        places = range(self._run.held_out.rows)
        found = await asyncio.gather(*(self._held_out_item(command, place) for place in places))
        items = [one for one in found if isinstance(one, ScoreItem)]
        if not items:
            raise InvalidField("evaluation", f"no held-out row can be asked; the first of them: {found[0]}")
        await self._grade(command, items)

    async def _held_out_item(self, command: Evaluate, place: int) -> ScoreItem | str:
        """A held-out row with its answer, or why there is none."""
        try:
            prompt = await self._prompts.held_out(place)
            return self._item(prompt, await self._answer(command, place, prompt))
        except (InvalidField, UserError) as error:
            log.warning("rl_run.held_out_row_skipped", run=self._run.run_id, row=place, reason=str(error))
            return str(error)

    async def _answer(self, command: Evaluate, place: int, prompt: Prompt) -> SampledSequence:
        spec = self._run.spec
        assert spec.evaluation is not None, "it is evaluated"
        params = SamplingParams(
            seed=ids.seed(spec.sampling.seed, "evaluation", place),
            temperature=spec.evaluation.temperature,
            max_tokens=spec.sampling.max_tokens,
            stop=spec.sampling.stop,
        )
        sampler = ids.sampler(self._run.session_id, command.version)
        number = ids.evaluation_number(command, place)
        await self._ask(sampler, number, prompt.tokens, params, 1)
        return (await self._results.sampled(future_id(sampler, number))).sequences[0]

    async def _ask_base(self, command: Score, index: int, prompt: Prompt, rollout: SampledSequence) -> None:
        sampler = await self._open_base()
        tokens = [*prompt.tokens, *(int(token) for token in rollout.tokens)]
        params = SamplingParams(max_tokens=1, seed=0)
        await self._ask(sampler, ids.base_number(command, index), tokens, params, 1, score_prompt=True)

    async def _open_base(self) -> str:
        """The sampler of the bare base model."""
        sampler_id = ids.base_sampler(self._run.session_id)
        record = SamplerRecord(
            sampler_id=sampler_id,
            session_id=self._run.session_id,
            base=self._run.base,
            path=None,
            created=self._run.created,
        )
        await self._edge.records.create(self._tenant, sampler_id, record)
        return sampler_id

    async def probe(self, command: Probe, index: int, tokens: Sequence[int]) -> None:
        """Have the logprobs of one rollout of a step's batch read under the weights that the step trained."""
        sampler = ids.sampler(self._run.session_id, command.train.step)
        params = SamplingParams(max_tokens=1, seed=0)
        await self._ask(sampler, ids.number(command.id, index), tokens, params, 1, score_prompt=True)

    async def _ask(
        self,
        sampler_id: str,
        number: int,
        tokens: Sequence[int],
        params: SamplingParams,
        count: int,
        *,
        score_prompt: bool = False,
    ) -> None:
        """Raises InvalidField for a prompt that does not fit, NotFound when the weights are gone."""
        sampler = await self._edge.records.get(SamplerRecord, self._tenant, sampler_id)
        request = SampleRequest(
            sampling_session_id=sampler_id,
            seq_id=number,
            prompt=ModelInput.from_ints(tokens),
            sampling_params=params,
            num_samples=count,
            prompt_logprobs=score_prompt,
        )
        check_sample(request, vocab_size=self._model.vocab_size, context_length=self._model.context_length)
        version, blob = await sampling.adapter_of(self._edge.checkpoints, self._tenant, sampler)
        command = SampleCommand(
            tenant=self._tenant,
            sampler_id=sampler_id,
            base=sampler.base,
            run_id=sampler.owner,
            number=number,
            version=version,
            blob=blob,
            seed=params.seed or 0,
            request=request,
        )
        await sampling.submit(self._edge.bus, self._edge.blobs, command)

    async def _sequence_ids(self, command: Sample, count: int) -> list[str]:
        """Of the place's rollouts, as the sampler has named them."""
        sampler_id = ids.sampler(self._run.session_id, command.version)
        path = ids.version_path(self._run, command.version)
        training = await self._edge.records.get(RunRecord, self._tenant, self._run.training_run)
        entry = await self._edge.checkpoints.latest(self._tenant, training, path.kind, path.name)
        version = f"{path}@{entry.number}" if entry is not None else None
        return sampling.sequence_ids(version, sampler_id, ids.number(command.id), count)

    def _item(self, prompt: Prompt, rollout: SampledSequence, sequence_id: str | None = None) -> ScoreItem:
        """Raises InvalidField for a row that is no JSON."""
        completion = self._prompts.text.decode(rollout.tokens.tolist())
        try:
            return ScoreItem(
                prompt=prompt.text, completion=completion, columns=prompt.row, sequence_id=sequence_id
            )
        except ValidationError as error:
            raise first_mistake(error) from error

    def _grader(self, command: Score | Evaluate) -> Grader:
        spec = self._run.spec
        if isinstance(command, Score) or spec.evaluation is None:
            return spec.grader
        return spec.evaluation.grader or spec.grader

    async def _grade(self, command: Score | Evaluate, items: Sequence[ScoreItem]) -> None:
        """Raises InvalidField for a row that lacks what the grader needs."""
        key, grader = ids.score_key(self._run, command), self._grader(command)

        def prepared() -> tuple[list[bytes], str]:
            try:
                request = ScoreRequest(grader=grader, items=tuple(items), idempotency_key=key)
            except ValidationError as error:
                raise first_mistake(error) from error
            return scoring.commands_of(request)

        commands, digest = await anyio.to_thread.run_sync(prepared)
        bus, blobs = self._edge.bus, self._edge.blobs
        await scoring.submit(bus, blobs, self._tenant, key, grader, commands, digest)

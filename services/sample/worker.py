"""A sampling command becomes a result: from the queue into the engine and back.

The engine batches; this only translates, finds the adapter's files, and says what happened.
"""

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from cloudevents.core.v1.event import CloudEvent

from events import catalog, envelope, facts, ids, metrics, names
from events.activity import Activity
from events.blobs import Blobs
from events.bus import Bus
from events.failure import NotFound, UserError, WorkerBroken
from events.queues import Answer, Queue
from events.sampling import SampleCommand, sequence_ids
from events.streams import SAMPLE
from events.worker import QueueWorker
from rekindle.types import encode_sample_response
from rekindle.types.requests import SampleRequest
from services.sample.engine import AdapterRef, Engine, EngineError, SampleResult, SampleTask, StopRule


def task_of(command: SampleCommand) -> SampleTask:
    """The engine's task for a command."""
    request, params = command.request, command.request.sampling_params
    targets = request.target_prompt_logprobs
    return SampleTask(
        tokens=request.prompt.tokens.tolist(),
        seed=command.seed,
        num_samples=request.num_samples,
        max_tokens=params.max_tokens,
        temperature=params.temperature,
        top_k=params.top_k,
        top_p=params.top_p,
        stop=StopRule.parse(params.stop),
        prompt_logprobs=request.prompt_logprobs,
        topk_prompt=request.topk_prompt_logprobs,
        topk_sample=request.topk_sample_logprobs,
        target_prompt=None if targets is None else targets.dense(),
        alt_tokens_k=request.prompt_alt_tokens_k,
        prompt_logprobs_last_n=request.prompt_logprobs_last_n,
        tenant=command.tenant,
    )


def encode(result: SampleResult, request: SampleRequest) -> bytes:
    """The wire form of a result; sparse targets are answered in their own layout."""
    targets = request.target_prompt_logprobs
    return encode_sample_response(
        result.sequences,
        result.prompt_logprobs,
        result.topk_prompt,
        result.target_prompt_logprobs,
        result.alt_tokens,
        result.prompt_cache_hit_tokens,
        target_layout=None if targets is None else targets.layout,
    )


class SampleWorker:
    """Feeds one engine from the queue of its base model."""

    def __init__(
        self,
        bus: Bus,
        blobs: Blobs,
        engine: Engine,
        base: str,
        *,
        token_budget: int,
        activity: Activity | None = None,
    ) -> None:
        self._blobs = blobs
        self._engine = engine
        queue = Queue(
            stream=SAMPLE,
            consumer=names.sample_consumer(base),
            filter=names.sample_filter(base),
            result_subject=_result_subject,
            tenant=lambda event: names.tenant_of(event.get_source()),
            cost=self._cost,
        )
        self._worker = QueueWorker(bus, blobs, queue, self.handle, budget=token_budget, activity=activity)

    async def run(self) -> None:
        await self._worker.run()

    def _cost(self, _: CloudEvent, data: bytes) -> int:
        """Tokens that a command may take."""
        request = SampleCommand.model_validate_json(data).request
        prompt = len(request.prompt.tokens)
        room = self._engine.context_length - prompt
        return prompt + request.num_samples * min(request.sampling_params.max_tokens or room, room)

    async def handle(self, event: CloudEvent, data: bytes) -> Answer:
        """Run one command.

        Raises UserError when it does not fit the model or its weights are gone, WorkerBroken with the engine.
        """
        command = SampleCommand.model_validate_json(data)
        try:
            async with self._adapter(command) as adapter:
                result = await self._engine.sample(task_of(command), adapter)
        except (ValueError, NotFound, FileNotFoundError) as error:  # does not fit, or is gone
            raise UserError(str(error)) from error
        except EngineError as error:
            raise WorkerBroken(str(error)) from error
        tokens = sum(len(sequence.tokens) for sequence in result.sequences)
        metrics.sampled(command.base, len(command.request.prompt.tokens), tokens)
        said = [_sampled(command, result)]
        if command.version is not None:
            said.append(_rolled_out(command, result))
        return Answer(encode(result, command.request), envelope.PROTOBUF, said)

    @asynccontextmanager
    async def _adapter(self, command: SampleCommand) -> AsyncIterator[AdapterRef | None]:
        """Its files stay while the command is worked on: an engine may read them again at any time."""
        if command.version is None or command.blob is None:
            yield None
            return
        async with self._blobs.folder(command.blob) as folder:
            yield AdapterRef(weights_of(command), folder)


def weights_of(command: SampleCommand) -> str:
    """Identity of the adapter among those of all tenants, of whom two may have runs of one name. Tells no owner."""
    digest = hashlib.sha256(f"{command.blob}".encode()).hexdigest()
    return f"{command.version}#{digest[:16]}"


def _result_subject(event: CloudEvent) -> str:
    sampler_id, number = ids.split_future_id(event.get_id())
    return names.result_subject("sample", names.tenant_of(event.get_source()), sampler_id, number)


def _sampled(command: SampleCommand, result: SampleResult) -> CloudEvent:
    said = {
        "run": command.run_id,
        "version": command.version,
        "sequences": _ids(command, result),
        "prompt_tokens": len(command.request.prompt.tokens),
        "tokens": sum(len(sequence.tokens) for sequence in result.sequences),
    }
    return _fact(catalog.SAMPLE_COMPLETED, command, command.sampler_id, said)


def _rolled_out(command: SampleCommand, result: SampleResult) -> CloudEvent:
    """The rollouts themselves, for whoever scores or keeps them; a bare base model's belong to no run."""
    said = {
        "run": command.run_id,
        "sampler": command.sampler_id,
        "number": command.number,
        "version": command.version,
        "prompt_tokens": command.request.prompt.tokens.tolist(),
        "sequences": [
            {
                "sequence_id": id,
                "tokens": sequence.tokens.tolist(),
                "logprobs": sequence.logprobs.tolist(),
                "stop_reason": sequence.stop_reason,
            }
            for id, sequence in zip(_ids(command, result), result.sequences, strict=True)
        ],
    }
    return _fact(catalog.ROLLOUT_COMPLETED, command, command.run_id, said)


def _ids(command: SampleCommand, result: SampleResult) -> list[str]:
    return sequence_ids(command.version, command.sampler_id, command.number, len(result.sequences))


def _fact(type_: str, command: SampleCommand, subject: str, said: dict[str, Any]) -> CloudEvent:
    return facts.make_fact(
        type_,
        tenant=command.tenant,
        service="sample",
        subject=subject,
        id=f"{type_.removeprefix(catalog.PREFIX)}/{ids.future_id(command.sampler_id, command.number)}",
        data=said,
    )

"""The vLLM engine behind the engine protocol: AsyncLLM in this process, its model in a process beside.

Tokens go in and come out. Stop strings are matched here, by the rules of every engine, and not by vLLM. An
adapter version is loaded under a name and number of its own before its first request and dropped before the
next one takes its place, so vLLM never evicts by itself and its prefix cache, which goes by name and path, never
serves the tokens of another version.
"""

import asyncio
import itertools
from collections.abc import Coroutine, Sequence
from contextlib import aclosing
from typing import Any

import numpy as np
from vllm import SamplingParams, TokensPrompt
from vllm.lora.request import LoRARequest
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

from services.model.peft_files import load_adapter
from services.sample.adapters import AdapterStore, check_adapter
from services.sample.engine import AdapterRef, EngineError, SampleResult, SampleTask, check_task
from services.sample.stops import StopStrings, TokenTexts
from services.sample.vllm_prompt import draw_alternatives, end, score_prompt, score_targets, together
from services.sample.vllm_requests import Collected, check_vllm_task, sampling, seeds
from services.sample.vllm_setup import BaseFacts, VllmOptions, base_facts, engine_args, prepare_environment

PROBES = 256
"""One-token requests of all tasks at once: each carries its whole prefix."""


class VllmEngine:
    """Samples with vLLM; belongs to the event loop that opened it."""

    def __init__(self, llm: AsyncLLM, facts: BaseFacts, source: str, options: VllmOptions) -> None:
        """Use `open`."""
        self.vocab_size = facts.vocab_size
        self.context_length = min(facts.context_length, llm.model_config.max_model_len)
        self._llm = llm
        self._facts = facts
        self._max_lora_rank = options.max_lora_rank
        self._texts = TokenTexts(source, facts.vocab_size)
        self._adapters = AdapterStore(self._load, options.max_adapters, self._unload)
        self._adapter_ids = itertools.count(1)
        self._request_ids = itertools.count()
        self._probes = asyncio.Semaphore(PROBES)
        self._running: set[asyncio.Task[SampleResult]] = set()
        self._closed = False

    @classmethod
    async def open(cls, source: str, options: VllmOptions) -> "VllmEngine":
        """Start vLLM on the base model in the folder `source`.

        Raises ValueError when an option does not fit, and what vLLM raises when it cannot start.
        """
        prepare_environment(options.threads)
        facts = await asyncio.to_thread(base_facts, source)
        args = engine_args(source, facts, options)
        # It takes half a minute; the loop answers health checks meanwhile.
        llm = await asyncio.to_thread(AsyncLLM.from_engine_args, args)
        return cls(llm, facts, source, options)

    @property
    def adapter_versions(self) -> list[str]:
        """Adapter versions in memory, the least recently used first."""
        return self._adapters.versions

    @property
    def requests(self) -> int:
        """Requests that vLLM holds at this moment."""
        held: int = self._llm.get_num_unfinished_requests()
        return held

    async def sample(self, task: SampleTask, adapter: AdapterRef | None) -> SampleResult:
        """See `Engine`; beyond it, raises InvalidField for a temperature above that of vLLM."""
        check_task(task, self.vocab_size, self.context_length)
        check_vllm_task(task)
        if self._closed:
            raise EngineError("the engine is closed")
        running = asyncio.create_task(self._sample(task, adapter))
        self._running.add(running)
        try:
            await asyncio.wait([running])
        finally:
            self._running.discard(running)
            await end([running])
        if running.cancelled():
            raise EngineError("the engine is closed")
        return running.result()

    async def close(self) -> None:
        """See `Engine`."""
        self._closed = True
        await end(list(self._running))
        await asyncio.to_thread(self._llm.shutdown)

    async def _sample(self, task: SampleTask, adapter: AdapterRef | None) -> SampleResult:
        strings = None
        if task.stop.strings:
            strings = await asyncio.to_thread(self._texts.stop_strings, task.stop.strings)
        try:
            async with self._adapters.use(adapter) as lora:
                return await self._run(task, lora, strings)
        except (EngineDeadError, EngineGenerateError) as error:
            raise EngineError(f"vLLM failed: {error}") from error

    async def _run(
        self, task: SampleTask, lora: LoRARequest | None, strings: StopStrings | None
    ) -> SampleResult:
        """All samples at once, and then what is asked about the prompt, which is cached by now."""
        different = 1 if task.temperature == 0 else task.num_samples
        keys = seeds(task.seed, np.arange(different))
        samples = await together([self._one(task, key, lora, strings) for key in keys])
        sequences = [sample.sequence() for sample in samples]

        def draw(tokens: Sequence[int], params: SamplingParams) -> Coroutine[Any, Any, Collected]:
            return self._draw(tokens, params, lora, task.tenant)

        return SampleResult(
            sequences if different == task.num_samples else sequences * task.num_samples,
            *await score_prompt(task, draw),
            await score_targets(task, draw),
            await draw_alternatives(task, draw),
            samples[0].cached_tokens,
        )

    async def _one(
        self, task: SampleTask, seed: int, lora: LoRARequest | None, strings: StopStrings | None
    ) -> Collected:
        """One sample, to its end."""
        room = self.context_length - len(task.tokens)
        new_tokens = room if task.max_tokens is None else min(task.max_tokens, room)
        stop_tokens = task.stop.tokens | (self._facts.eos_token_ids if task.stop.eos else frozenset())
        stop_tokens = frozenset(token for token in stop_tokens if 0 <= token < self.vocab_size)
        params = sampling(task, seed, new_tokens, stop_tokens)

        def ends(tokens: list[int]) -> bool:
            return tokens[-1] in stop_tokens or (strings is not None and strings.end(tokens))

        collected = Collected(task.topk_sample)
        async with aclosing(self._generate(task.tokens, params, lora, task.tenant)) as outputs:
            async for output in outputs:
                if collected.take(output, ends):
                    break
        return collected

    async def _draw(
        self, tokens: Sequence[int], params: SamplingParams, lora: LoRARequest | None, tenant: str
    ) -> Collected:
        """The one token that follows `tokens`."""
        drawn = Collected(params.logprobs or 0)
        async with self._probes, aclosing(self._generate(tokens, params, lora, tenant)) as outputs:
            async for output in outputs:
                drawn.take(output, lambda _: False)
        return drawn

    def _generate(
        self, tokens: Sequence[int], params: SamplingParams, lora: LoRARequest | None, tenant: str
    ) -> Any:
        """vLLM's outputs; closing the generator before its end aborts the request."""
        prompt = TokensPrompt(prompt_token_ids=list(tokens))
        if tenant:  # what is in the prefix cache is a tenant's own: a hit would tell others of its prompts
            prompt["cache_salt"] = tenant
        return self._llm.generate(prompt, params, str(next(self._request_ids)), lora_request=lora)

    async def _load(self, ref: AdapterRef) -> LoRARequest:
        """Raises OSError when its files cannot be read, ValueError when they do not fit, EngineDeadError.

        All is checked before vLLM reads the files: what goes wrong inside a pass ends the engine.
        """
        adapter = await asyncio.to_thread(load_adapter, ref.folder)
        check_adapter(ref, adapter, self._facts.shapes)
        if adapter.rank > self._max_lora_rank:
            raise ValueError(
                f"adapter {ref.version}: rank {adapter.rank}, max_lora_rank is {self._max_lora_rank}"
            )
        lora = LoRARequest(ref.version, next(self._adapter_ids), str(ref.folder.absolute()))
        try:
            await self._llm.add_lora(lora)
        except EngineDeadError:
            raise
        except Exception as error:  # whatever the other process raised comes as an Exception
            raise ValueError(f"adapter {ref.version}: vLLM does not take it: {error}") from error
        return lora

    async def _unload(self, lora: LoRARequest) -> None:
        await self._llm.remove_lora(lora.lora_int_id)

"""The torch engine: continuous batching on a thread of its own, behind the engine protocol.

Tasks arrive on an event loop and wait there for their adapter; the thread owns model and cache, and takes and
returns jobs through a queue. Knows nothing of events or HTTP.
"""

import asyncio
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Literal

import numpy as np
import torch

from services.model.base import BaseModel
from services.model.lora import Adapter
from services.model.peft_files import load_adapter
from services.sample.adapters import AdapterStore, check_adapter
from services.sample.engine import AdapterRef, EngineError, SampleResult, SampleTask, check_task
from services.sample.jobs import Job
from services.sample.scheduler import Scheduler
from services.sample.scoring import PromptScores
from services.sample.stops import TokenTexts

_Message = tuple[Literal["add", "cancel", "close"], Job | None]


class TorchEngine:
    """Samples with a transformers model in this process."""

    def __init__(
        self,
        base: BaseModel,
        tokenizer_source: str,
        *,
        max_tokens_in_flight: int = 65_536,
        prefill_tokens: int = 512,
        max_adapters: int = 32,
        threads: int | None = None,
        deterministic: bool = False,
    ) -> None:
        """Start the thread; from now on nobody else may use `base`.

        tokenizer_source: folder of the model, read at the first stop string. max_tokens_in_flight: bounds the
        key-value cache, counted as sequences times the longest of them. prefill_tokens: prompt tokens of one
        step. max_adapters: versions in memory. threads: of torch, None = its default. deterministic: tokens
        bit for bit independent of other requests, at the cost of speed, and computed by one thread, since the
        bits of a product depend on the number of threads.
        """
        self.vocab_size = base.vocab_size
        self.context_length = base.context_length
        self._base = base
        self._texts = TokenTexts(tokenizer_source, base.vocab_size)
        self._shapes = {name: tuple(layer.weight.shape) for name, layer in base.layers.items()}
        self._adapters = AdapterStore(self._load, max_adapters)
        self._scheduler = Scheduler(
            base,
            max_tokens_in_flight=max_tokens_in_flight,
            prefill_tokens=prefill_tokens,
            deterministic=deterministic,
        )
        self._threads = 1 if deterministic else threads
        self._inbox: SimpleQueue[_Message] = SimpleQueue()
        self._failure: EngineError | None = None
        self._thread = threading.Thread(target=self._run, name="torch-engine", daemon=True)
        self._thread.start()

    @property
    def decoding(self) -> int:
        """Sequences that decode at this moment."""
        return self._scheduler.decoding

    @property
    def adapter_versions(self) -> list[str]:
        """Adapter versions in memory, the least recently used first."""
        return self._adapters.versions

    async def sample(self, task: SampleTask, adapter: AdapterRef | None) -> SampleResult:
        """See `Engine`."""
        check_task(task, self.vocab_size, self.context_length)
        stop_strings = None
        if task.stop.strings:
            stop_strings = await asyncio.to_thread(self._texts.stop_strings, task.stop.strings)
        future: asyncio.Future[SampleResult] = asyncio.get_running_loop().create_future()
        room = self.context_length - len(task.tokens)
        async with self._adapters.use(adapter) as loaded:
            job = Job(
                task=task,
                adapter=loaded,
                new_tokens=room if task.max_tokens is None else min(task.max_tokens, room),
                stop_tokens=task.stop.tokens | (self._base.eos_token_ids if task.stop.eos else frozenset()),
                stop_strings=stop_strings,
                deliver=_deliverer(future),
                scores=PromptScores.of(task),
                prompt=np.array(task.tokens, np.int64),
            )
            self._inbox.put(("add", job))
            if self._failure is not None:
                raise self._failure
            try:
                return await future
            finally:
                if not future.done() or future.cancelled():
                    self._inbox.put(("cancel", job))

    async def _load(self, ref: AdapterRef) -> Adapter:
        """Raises OSError when its files cannot be read, ValueError when they do not fit the base model."""
        adapter = await asyncio.to_thread(load_adapter, ref.folder, self._base.device)
        check_adapter(ref, adapter, self._shapes)
        return adapter

    async def close(self) -> None:
        """See `Engine`."""
        self._inbox.put(("close", None))
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        if self._threads is not None:
            torch.set_num_threads(self._threads)
        try:
            with torch.inference_mode():
                while self._receive():
                    for job in self._scheduler.step():
                        job.deliver(job.outcome)
            self._fail(EngineError("the engine is closed"))
        except Exception as error:  # noqa: BLE001 - the edge of the thread: whoever waits must hear of it
            failure = EngineError(f"the engine failed: {error!r}")
            failure.__cause__ = error
            self._fail(failure)

    def _receive(self) -> bool:
        """Take all messages, waiting for one if there is nothing to do; False = close."""
        while not self._inbox.empty() or not self._scheduler.jobs:
            kind, job = self._inbox.get()
            if job is None:
                return False
            (self._scheduler.add if kind == "add" else self._scheduler.cancel)(job)
        return True

    def _fail(self, error: EngineError) -> None:
        """Fail every job, those still in the queue included, and all later ones."""
        self._failure = error
        jobs = self._scheduler.jobs
        while not self._inbox.empty():
            kind, job = self._inbox.get()
            if job is not None and kind == "add":
                jobs.append(job)
        for job in jobs:
            job.deliver(error)


def _deliverer(future: asyncio.Future[SampleResult]) -> Callable[[SampleResult | BaseException], None]:
    """A function for the engine's thread that resolves a future of this loop."""
    loop = future.get_loop()

    def resolve(outcome: SampleResult | BaseException) -> None:
        if future.done():
            return
        if isinstance(outcome, BaseException):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)

    def deliver(outcome: SampleResult | BaseException) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(resolve, outcome)

    return deliver

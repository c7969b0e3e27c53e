"""`SamplingClient`: tokens and their logprobs from one fixed set of weights.

Samples are independent: they complete in any order, and as many may be in flight as the server wishes. A
sample that the server has lost is asked for again under a new number; one whose answer was lost on the way,
under the same.

Axes: N prompt tokens, K alternatives at one position.
"""

import asyncio
import itertools
import logging
from typing import Any

from rekindle.errors import Gone
from rekindle.futures import Future, Progress
from rekindle.inputs import ArrayLike, as_prompt, as_targets, build
from rekindle.polling import POLL_PATIENCE
from rekindle.results import SampleResult, sample_result
from rekindle.session import Session
from rekindle.tokenizers import Tokenizer, load_tokenizer
from rekindle.transport import PROTOBUF
from rekindle.types import (
    CreateSamplingSessionRequest,
    CreateSamplingSessionResponse,
    GetSamplerResponse,
    InvalidField,
    ModelInput,
    SampleRequest,
    SamplingParams,
    UntypedFuture,
    decode_sample_response,
)

POSTS_AT_ONCE = 32
"""Samples being submitted at one time: those that the server sends away (429) wait within this number."""
MOST_LOSSES = 5
"""Times that one sample is asked for anew after the server lost it."""

log = logging.getLogger("rekindle")


class SamplingClient:
    """Samples from a base model or an adapter version. Made by `ServiceClient` and `TrainingClient`."""

    def __init__(
        self, session: Session, sampler_id: str, base_model: str, tokenizer: str | None = None
    ) -> None:
        self.sampler_id = sampler_id
        """The server's name of it."""
        self.base_model = base_model
        self._session = session
        self._tokenizer = tokenizer or base_model
        self._numbers = itertools.count()
        self._in_flight = asyncio.Semaphore(session.config.sample_max_concurrent_requests)
        self._posting = asyncio.Semaphore(POSTS_AT_ONCE)

    def sample(
        self,
        prompt: ModelInput | ArrayLike,
        num_samples: int = 1,
        sampling_params: SamplingParams | None = None,
        include_prompt_logprobs: bool = False,
        topk_prompt_logprobs: int = 0,
        topk_sample_logprobs: int = 0,
        target_prompt_logprobs: ArrayLike | None = None,
        prompt_alt_tokens_k: int = 0,
        prompt_logprobs_last_n: int | None = None,
    ) -> Future[SampleResult]:
        """Independent samples of one prompt, each with the logprob of every token.

        prompt: N token ids. sampling_params: None for the defaults (temperature 1, up to the end of the
        context). With a seed, sample i uses a seed of its own made from it. The rest asks about positions:
        logprobs of the prompt (all, or the last n), the K likeliest tokens of prompt and sample, logprobs of
        given (N - 1, K) targets (-1: none), K draws at each prompt position.

        Raises:
            InvalidField: an argument is wrong, at once.
            RequestFailed: from the future; the server cannot compute it, e.g. the prompt is too long.
        """
        request = self._request(
            prompt=as_prompt(prompt),
            num_samples=num_samples,
            sampling_params=sampling_params or SamplingParams(),
            prompt_logprobs=include_prompt_logprobs,
            topk_prompt_logprobs=topk_prompt_logprobs,
            topk_sample_logprobs=topk_sample_logprobs,
            target_prompt_logprobs=None
            if target_prompt_logprobs is None
            else as_targets(target_prompt_logprobs),
            prompt_alt_tokens_k=prompt_alt_tokens_k,
            prompt_logprobs_last_n=prompt_logprobs_last_n,
        )
        return self._session.future(lambda progress: self._sample(request, progress))

    def compute_logprobs(
        self, prompt: ModelInput | ArrayLike, prompt_logprobs_last_n: int | None = None
    ) -> Future[list[float | None]]:
        """log p of each of the N prompt tokens given those before it; None at 0 and where none was asked for."""
        request = self._request(
            prompt=as_prompt(prompt),
            sampling_params=SamplingParams(max_tokens=1),
            prompt_logprobs=True,
            prompt_logprobs_last_n=prompt_logprobs_last_n,
        )
        return self._session.future(lambda progress: self._score(request, progress))

    def get_tokenizer(self) -> Tokenizer:
        """The base model's tokenizer (blocks while it is loaded). Raises ImportError without transformers."""
        return load_tokenizer(self._tokenizer)

    def get_base_model(self) -> str:
        """Name of the base model."""
        return self.base_model

    def _request(self, **fields: Any) -> SampleRequest:
        return build(SampleRequest, sampling_session_id=self.sampler_id, seq_id=0, **fields)

    async def _score(self, request: SampleRequest, progress: Progress) -> list[float | None]:
        scores = (await self._sample(request, progress)).prompt_logprobs
        if scores is None:
            raise InvalidField("prompt_logprobs", "missing in the answer")
        return scores

    async def _sample(self, request: SampleRequest, progress: Progress) -> SampleResult:
        async with self._in_flight:
            for losses in itertools.count(1):
                numbered = request.model_copy(update={"seq_id": next(self._numbers)})
                accepted = await self._submit(numbered)
                try:
                    body = await self._session.poller.wait(accepted.request_id, progress, PROTOBUF)
                except Gone as error:
                    if losses > MOST_LOSSES:
                        raise
                    log.info("asking for a lost sample again: %s", error.detail)
                else:
                    return sample_result(decode_sample_response(body), accepted.sample_sequence_ids or ())
        raise AssertionError("the loop above ends by itself")

    async def _submit(self, request: SampleRequest) -> UntypedFuture:
        async with self._posting:
            return await self._session.transport.ask(
                UntypedFuture, "POST", "/asample", body=request, patience=POLL_PATIENCE
            )


async def open_sampler(
    session: Session, number: int, base_model: str | None, model_path: str | None
) -> SamplingClient:
    """A sampler of a base model or of a checkpoint."""
    wanted = build(
        CreateSamplingSessionRequest,
        session_id=await session.id(),
        sampling_session_seq_id=number,
        base_model=base_model,
        model_path=model_path,
    )
    opened = await session.transport.ask(
        CreateSamplingSessionResponse, "POST", "/create_sampling_session", body=wanted
    )
    sampler_id = opened.sampling_session_id
    if base_model is None:
        found = await session.transport.ask(GetSamplerResponse, "GET", f"/samplers/{sampler_id}")
        base_model = found.base_model
    return SamplingClient(session, sampler_id, base_model)

"""What a task asks about its own prompt, as one token drawn after each prefix, which the prefix cache holds.

vLLM could score a prompt in one pass, but there (0.32) an adapter of the unembedding is applied by the row of the
request instead of the row of the token: wrong numbers or the engine's end. A sampled token always has the right
ones. So a position is scored by drawing its own token with all others forbidden, which leaves raw logprobs as
they are.

Axes: P prompt tokens, K entries per position.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from vllm import SamplingParams

from rekindle.types.results import AltTokens, TopK
from services.sample.engine import SampleTask
from services.sample.vllm_requests import Collected, drawing, forced, seeds

T = TypeVar("T")
Draw = Callable[[Sequence[int], SamplingParams], Coroutine[Any, Any, Collected]]
"""Draws one token after the given ones."""


async def score_prompt(task: SampleTask, draw: Draw) -> tuple[NDArray[np.float32] | None, TopK | None]:
    """(P,) logprobs and (P, K) likeliest tokens of the prompt, each None unless asked for."""
    length = len(task.tokens)
    logprobs_P = np.full(length, np.nan, np.float32) if task.prompt_logprobs else None
    topk = TopK.empty(length, task.topk_prompt) if task.topk_prompt else None
    if logprobs_P is None and topk is None:
        return None, None
    positions = range(max(1, length - (task.prompt_logprobs_last_n or length)), length)
    draws = [draw(task.tokens[:at], forced(task.tokens[at], task.topk_prompt)) for at in positions]
    for at, drawn in zip(positions, await together(draws), strict=True):
        if logprobs_P is not None:
            logprobs_P[at] = drawn.logprobs[0]
        if topk is not None:
            topk.token_ids[at], topk.logprobs[at] = drawn.topk_ids[0], drawn.topk_logprobs[0]
    return logprobs_P, topk


async def score_targets(task: SampleTask, draw: Draw) -> NDArray[np.float32] | None:
    """(P-1, K) logprobs of the given tokens, 0 where none is given; None unless asked for."""
    target_P_K = task.target_prompt
    if target_P_K is None:
        return None
    logprobs_P_K = np.zeros(target_P_K.shape, np.float32)
    cells = [tuple(cell) for cell in np.argwhere(target_P_K >= 0)]
    draws = [draw(task.tokens[: cell[0] + 1], forced(int(target_P_K[cell]))) for cell in cells]
    for cell, drawn in zip(cells, await together(draws), strict=True):
        logprobs_P_K[cell] = drawn.logprobs[0]
    return logprobs_P_K


async def draw_alternatives(task: SampleTask, draw: Draw) -> AltTokens | None:
    """K draws at each position after the first, by seeds apart from those of the samples."""
    if not task.alt_tokens_k:
        return None
    rows, columns = len(task.tokens) - 1, task.alt_tokens_k
    different = 1 if task.temperature == 0 else columns
    keys = seeds(task.seed, -1 - np.arange(rows * different))
    drawn = await together(
        [draw(task.tokens[: index // different + 1], drawing(task, key, 1)) for index, key in enumerate(keys)]
    )
    tokens = np.array([one.tokens[0] for one in drawn], np.int64).reshape(rows, different)
    logprobs = np.array([one.logprobs[0] for one in drawn], np.float32).reshape(rows, different)
    shape = (rows, columns)
    return AltTokens(np.broadcast_to(tokens, shape).copy(), np.broadcast_to(logprobs, shape).copy())


async def together(work: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """All results in order; when one fails or the caller is cancelled, the others have ended first."""
    tasks = [asyncio.create_task(part) for part in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        await end(tasks)


async def end(tasks: Sequence[asyncio.Task[Any]]) -> None:
    """Cancel and wait."""
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)

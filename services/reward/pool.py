"""Processes that grade, and the clock over them: the runner of the graders that are ours.

`score` gives items to processes and follows each item by item. A process that is silent for longer than an item
may take is killed and replaced, as is one that died; the items behind go on in another. What happened decides
what becomes of the item at hand:

- while the rollout's own code ran, it is `invalid`: the rollout passed a limit;
- while the grader's code ran, it is a `timeout` or an `error`.

Errors and timeouts are tried again after a while: those that cost a process in a fresh one, the others in another than
before if one is idle then. A few items go to a process at a time, so that one slow item holds up few others. A call
that is cancelled leaves no process at its work. It does not know where items come from.
"""

import asyncio
import os
from collections.abc import Sequence
from typing import Any

from events import tasks
from rekindle.types import rewards
from rekindle.types.rewards import Score, ScoreItem
from services.reward.process import Process
from services.reward.runner import Verdict, pause
from services.reward.shard import Shard

LOAD_SECONDS = 60.0
"""For a process to start and load a grader: libraries are large and machines busy."""
GRACE = 1.0
"""Seconds beyond an item's limit: a grader that keeps its own time may say so itself."""
MEMORY_BYTES = 2 * 2**30
ITEMS_AT_ONCE = 8
"""Items that one process is given at a time."""


class Pool:
    """`async with Pool(size) as pool: scores = await pool.score(tenant, grader, items, {})`, from any tasks."""

    def __init__(self, size: int, *, memory_bytes: int = MEMORY_BYTES, modules: Sequence[str] = ()) -> None:
        """`modules` are imported by the processes at their start, to register graders."""
        self._size = size
        self._arguments = [str(memory_bytes), str(os.getpid()), *modules]
        self._idle: asyncio.Queue[Process | None] = asyncio.Queue()
        self._started: set[Process] = set()

    async def __aenter__(self) -> "Pool":
        for _ in range(self._size):
            self._idle.put_nowait(await self._start())
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.gather(*(process.end() for process in self._started))

    async def _start(self) -> Process:
        self._started = {process for process in self._started if not process.ended}
        process = await Process.start(self._arguments)
        self._started.add(process)
        return process

    async def score(
        self, tenant: str, spec: rewards.Single, items: Sequence[ScoreItem], columns: dict[str, Any]
    ) -> list[Score]:
        """One final score for each item, in their order; `columns` are shared by all.

        Raises OSError if no process can be started.
        """
        shards = [
            Shard(spec, items[start : start + ITEMS_AT_ONCE], columns)
            for start in range(0, len(items), ITEMS_AT_ONCE)
        ]
        await tasks.together(*map(self._settle, shards))
        return [score for shard in shards for score in shard.in_order()]

    async def _settle(self, shard: Shard) -> None:
        last: Process | None = None
        while indices := shard.unsettled():
            if failures := shard.failures(indices[0]):
                await asyncio.sleep(pause(failures))
            last = await self._work(shard, indices, last)

    async def _work(self, shard: Shard, indices: list[int], last: Process | None) -> Process:
        """Have one process do what it can; another takes its place if it is lost or this is cancelled."""
        process = await self._take(last)
        fit = False
        try:
            if process is None or process.ended:
                process = await self._start()
            fit = await _follow(process, shard, indices)
        finally:
            if fit:
                self._idle.put_nowait(process)
            else:
                self._idle.put_nowait(None)  # started when it is needed
                if process is not None:
                    process.kill()
        return process

    async def _take(self, last: Process | None) -> Process | None:
        """One that is idle, or the place of one; not the last one if there is a choice."""
        process = await self._idle.get()
        if process is None or process is not last or self._idle.empty():
            return process
        self._idle.put_nowait(process)
        return self._idle.get_nowait()


async def _follow(process: Process, shard: Shard, indices: list[int]) -> bool:
    """Read what a process says of these items until it has settled each or is lost; whether it can go on."""
    process.send(shard.request(indices))
    answer = await process.answer(LOAD_SECONDS)
    if answer is None or not answer["ready"]:
        reason = await process.last_words() if answer is None else answer["reason"]
        for index in indices:
            shard.begin(index)
            verdict = Verdict("timeout" if process.overran else "error", None, f"loading: {reason}")
            shard.settle(index, verdict, 0.0)
        return answer is not None
    for index in indices:
        shard.begin(index)
        while (answer := await process.answer(shard.seconds + GRACE)) is not None and "phase" in answer:
            shard.mark(answer["phase"])
        if answer is None:
            overran = f"took longer than {shard.seconds:g} s"
            reason = overran if process.overran else await process.last_words()
            shard.broken(index, reason, overran=process.overran, seconds=process.silence)
            return False
        verdict = Verdict(answer["outcome"], answer["value"], answer["reason"])
        shard.settle(index, verdict, answer["seconds"])
    return True

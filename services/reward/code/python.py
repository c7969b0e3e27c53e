"""The runner of `python`: a completion's program on its row's tests, each in processes of its own.

The share of tests that pass is the value. The tests count in their order: after the second in which the program
overran its time, the others count as not passed, so that a program that hangs costs two limits and not sixty-four.
"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any

from events import tasks
from rekindle.types import rewards
from rekindle.types.rewards import PythonParams, Score, ScoreItem
from services.reward import versions
from services.reward.code import trial
from services.reward.code.place import Place
from services.reward.code.rows import Test, tests_of
from services.reward.code.trial import BrokenTest, Tried
from services.reward.graders.base import unfenced
from services.reward.guests.program import EXTRACT
from services.reward.runner import Verdict, settle
from services.reward.sandbox import Limits, SandboxError

MOST_OVERRUN = 2
EXTRACTED_BYTES = 2**24


class PythonRunner:
    """Runs programs in a sandbox."""

    def __init__(self, sandbox: Place, cores: asyncio.Semaphore) -> None:
        """`cores`: how many tests run at once, of all calls together."""
        self._sandbox = sandbox
        self._cores = cores

    async def score(
        self, tenant: str, spec: rewards.Single, items: Sequence[ScoreItem], columns: dict[str, Any]
    ) -> list[Score]:
        """As `Runner.score`."""
        assert isinstance(spec, rewards.Python), f"{spec.type} is not of this runner"
        version = versions.version(spec)
        return await tasks.together(*(self._settle(version, spec, item, columns) for item in items))

    async def _settle(
        self, version: str, spec: rewards.Python, item: ScoreItem, columns: dict[str, Any]
    ) -> Score:
        async def attempt() -> Verdict:
            try:
                return await self._verdict(spec, item.completion, {**columns, **item.columns})
            except (BrokenTest, ValueError) as error:
                return Verdict("error", None, str(error), hopeless=True)
            except SandboxError as error:
                return Verdict("error", None, str(error))

        return await settle(version, attempt)

    async def _verdict(self, spec: rewards.Python, completion: str, row: Mapping[str, Any]) -> Verdict:
        """Raises ValueError or BrokenTest for what is wrong with the row, SandboxError."""
        tests = tests_of(spec.params, row)
        source = await self._source(spec.params, completion)
        if isinstance(source, Verdict):
            return source
        if not source.strip():
            return Verdict("invalid", spec.invalid_value, "there is no program")
        return judge(spec, await self._try_all(source, tests, spec.params), len(tests))

    async def _source(self, params: PythonParams, completion: str) -> bytes | Verdict:
        if params.pattern is None:
            return unfenced(completion).encode(errors="replace")
        limits = Limits(seconds=params.seconds, cpu_seconds=params.seconds, output_bytes=EXTRACTED_BYTES)
        order = json.dumps([params.pattern, completion]).encode()
        async with self._cores:
            ended = await self._sandbox.run(EXTRACT, order, limits=limits)
        if ended.how == "exit" and ended.code == 0:
            return ended.report
        outcome: rewards.Outcome = "timeout" if ended.how in ("time", "cpu") else "error"
        return Verdict(outcome, None, f"the search for the program {trial.how(ended, limits)}")

    async def _try_all(self, source: bytes, tests: Sequence[Test], params: PythonParams) -> list[Tried]:
        """What the tests say in their order, up to where no more can be said: the first one goes alone."""
        tried = [await self._try(source, tests[0], params)]
        if tried[0].syntax:
            return tried
        others = [asyncio.create_task(self._try(source, test, params)) for test in tests[1:]]
        try:
            for other in others:
                if sum(one.overran for one in tried) == MOST_OVERRUN:
                    break
                tried.append(await other)
        finally:
            await tasks.end(*others)
        return tried

    async def _try(self, source: bytes, test: Test, params: PythonParams) -> Tried:
        async with self._cores:
            return await trial.attempt(self._sandbox, source, test, params)


def judge(spec: rewards.Python, tried: Sequence[Tried], count: int) -> Verdict:
    """What the tests of an item come to; those of the `count` that were not tried are not passed."""
    reason = next(
        (f"test {number} of {count}: {one.reason}" for number, one in enumerate(tried, 1) if not one.passed),
        None,
    )
    if not any(one.ended for one in tried):
        if tried[0].syntax:
            reason = f"the program does not compile: {tried[0].reason}"
        return Verdict("invalid", spec.invalid_value, reason)
    passed = sum(one.passed for one in tried)
    if spec.params.all_or_nothing:
        return Verdict("scored", float(passed == count), reason)
    return Verdict("scored", passed / count, reason)

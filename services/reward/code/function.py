"""The runner of `function`: a user's own reward function, called in the sandbox for several items at once.

If a call fails, each of its items is tried alone, so that one bad row harms no other.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

from events import tasks
from events.failure import NotFound
from rekindle.types import rewards
from rekindle.types.rewards import Score, ScoreItem
from services.reward import versions
from services.reward.code.place import Place
from services.reward.code.trial import how
from services.reward.functions import Code
from services.reward.guests.function import CALL
from services.reward.runner import MOST, Verdict, as_score, settle
from services.reward.sandbox import Ended, Limits, SandboxError

MEMORY_BYTES = 2**30
OUTPUT_BYTES = 4 * 2**20
THREADS = 8
NOT_APPLICABLE = Verdict("invalid", None, "does not apply")


Find = Callable[[str, str, str], Awaitable[Code]]
"""(tenant, name, version) → its code. Raises NotFound."""


class FunctionRunner:
    """Calls functions in a sandbox."""

    def __init__(self, sandbox: Place, cores: asyncio.Semaphore, find: Find) -> None:
        """`cores`: how many calls run at once, of all callers together."""
        self._sandbox = sandbox
        self._cores = cores
        self._find = find

    async def score(
        self, tenant: str, spec: rewards.Single, items: Sequence[ScoreItem], columns: dict[str, Any]
    ) -> list[Score]:
        """As `Runner.score`."""
        assert isinstance(spec, rewards.Function), f"{spec.type} is not of this runner"
        assert spec.params.version is not None, "the edge says which version"
        try:
            code = await self._find(tenant, spec.params.name, spec.params.version)
        except NotFound as error:  # it has just been unregistered
            gone = as_score(Verdict("error", None, str(error)), versions.version(spec), 0.0, 1)
            return [gone] * len(items)
        return await self.call(code, spec, items, columns)

    async def call(
        self, code: Code, spec: rewards.Function, items: Sequence[ScoreItem], columns: dict[str, Any]
    ) -> list[Score]:
        """One final score for each item, by a function that need not be registered."""
        version = versions.version(spec)
        if len(items) > 1:
            verdicts, seconds = await self._verdicts(code, spec, items, columns)
            if all(one.final for one in verdicts):
                return [as_score(one, version, seconds, 1) for one in verdicts]
        alone = (settle(version, partial(self._alone, code, spec, item, columns)) for item in items)
        return await tasks.together(*alone)

    async def _alone(
        self, code: Code, spec: rewards.Function, item: ScoreItem, columns: dict[str, Any]
    ) -> Verdict:
        ((verdict,), _) = await self._verdicts(code, spec, [item], columns)
        return verdict

    async def _verdicts(
        self, code: Code, spec: rewards.Function, items: Sequence[ScoreItem], columns: dict[str, Any]
    ) -> tuple[list[Verdict], float]:
        """One call: a verdict for each item, the same for all if the call failed; and its seconds."""
        seconds = spec.params.seconds
        limits = Limits(
            seconds=seconds,
            cpu_seconds=seconds,
            memory_bytes=MEMORY_BYTES,
            output_bytes=OUTPUT_BYTES,
            threads=THREADS,
        )
        try:
            async with self._cores:
                ended = await self._sandbox.run(CALL, payload(code, items, columns), limits=limits)
        except SandboxError as error:
            return [Verdict("error", None, str(error))] * len(items), 0.0
        return verdicts(ended, limits, len(items)), ended.seconds


def payload(code: Code, items: Sequence[ScoreItem], columns: dict[str, Any]) -> bytes:
    """The call, as `guests.function` takes it: a list for each column that any item has."""
    rows = [{**columns, **item.columns} for item in items]
    names = dict.fromkeys(name for row in rows for name in row)
    order = {
        "source": code.source,
        "function": code.function,
        "prompts": [item.prompt for item in items],
        "completions": [item.completion for item in items],
        "columns": {name: [row.get(name) for row in rows] for name in names},
    }
    return json.dumps(order).encode()


def verdicts(ended: Ended, limits: Limits, count: int) -> list[Verdict]:
    """What a call came to, for each of its `count` items."""
    if ended.how in ("time", "cpu"):
        return [Verdict("timeout", None, f"the function {how(ended, limits)}")] * count
    if ended.how != "exit" or ended.code != 0:
        return [Verdict("error", None, f"the function {how(ended, limits)}")] * count
    found = _read(ended.report, count)
    if isinstance(found, str):
        return [Verdict("error", None, found)] * count
    return [NOT_APPLICABLE if one is None else Verdict("scored", float(one)) for one in found]


def _read(report: bytes, count: int) -> list[float | None] | str:
    """The rewards, or what went wrong: the function's own code may have written the report."""
    try:
        match json.loads(report):
            case {"error": str() as error}:
                return error
            case {"rewards": list() as found} if len(found) == count and all(map(_is_reward, found)):
                return found
    except (ValueError, RecursionError):
        pass
    return "the function ended without its rewards"


def _is_reward(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return value is None or (number and abs(value) < MOST)  # no NaN is, and any whole number can be asked

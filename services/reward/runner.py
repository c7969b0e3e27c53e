"""What scores items by one grader: processes of ours, the sandbox, or somebody outside.

An attempt gives a verdict. `settle` is the rule for all of them: errors and timeouts are tried again, after a while,
`ATTEMPTS` times in all, unless that is hopeless; `scored` and `invalid` are final.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from rekindle.types import rewards
from rekindle.types.rewards import MAX_REASON, Score, ScoreItem

ATTEMPTS = 3
"""How often an error or timeout is tried in all."""
BACKOFF = 0.2
"""Seconds before the second attempt, doubled before each one after it."""
MOST = 1e300
"""Below which rewards of others must be: weighted sums of many are finite still."""


class Runner(Protocol):
    """Scores items by graders of some types."""

    async def score(
        self, tenant: str, spec: rewards.Single, items: Sequence[ScoreItem], columns: dict[str, Any]
    ) -> list[Score]:
        """One final score for each item, in their order; `columns` are shared by all, an item's own win."""
        ...


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one attempt gave. Example: Verdict("scored", 1.0)."""

    outcome: rewards.Outcome
    value: float | None = None
    reason: str | None = None
    hopeless: bool = False
    """Whether an error or timeout would only come again."""

    @property
    def final(self) -> bool:
        """Whether another attempt could say nothing else."""
        return self.hopeless or self.outcome in ("scored", "invalid")


def pause(failures: int) -> float:
    """Seconds to wait after so many failures."""
    return float(BACKOFF * 2 ** (failures - 1))


def as_score(verdict: Verdict, version: str, seconds: float, attempts: int) -> Score:
    """A verdict that stands; `seconds` is the wall clock of its attempt."""
    reason = verdict.reason or (None if verdict.outcome == "scored" else "no reason was given")
    return Score(
        outcome=verdict.outcome,
        value=verdict.value,
        reason=reason and cut(reason),
        grader_version=version,
        seconds=seconds,
        attempts=attempts,
    )


def cut(reason: str) -> str:
    """Short, and text that can be stored: errors quote what they met."""
    text = reason.encode(errors="replace").decode()
    return text if len(text) <= MAX_REASON else f"{text[: MAX_REASON - 3]}..."


async def settle(version: str, attempt: Callable[[], Awaitable[Verdict]]) -> Score:
    """Make attempts until a verdict stands. What `attempt` raises is not caught."""
    for number in range(1, ATTEMPTS + 1):
        begun = time.perf_counter()
        verdict = await attempt()
        seconds = time.perf_counter() - begun
        if verdict.final or number == ATTEMPTS:
            break
        await asyncio.sleep(pause(number))
    return as_score(verdict, version, seconds, number)

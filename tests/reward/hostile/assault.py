"""Runs attacks through the real graders, and tells what they earned and what they got."""

import asyncio
import dataclasses
import json
import os
from collections.abc import Sequence

from events import tasks
from rekindle.types import rewards
from rekindle.types.rewards import Score, ScoreItem
from services.reward.code.function import FunctionRunner
from services.reward.code.place import GUESTS
from services.reward.code.python import PythonRunner
from services.reward.functions import Code
from services.reward.sandbox import Ended, Level, Limits, Sandbox
from tests.reward.hostile import naive
from tests.reward.hostile.attack import Attack, Evidence
from tests.reward.hostile.observer import Seen
from tests.reward.hostile.world import World

PRELOAD = (*GUESTS, naive.__name__)
NOTHING: frozenset[str] = frozenset()
VERSION = "0" * 16
INVALID = -1.0
CORES = 64
"""As many guests as want to; that attacks do not come all at once is seen to by `Siege`."""
MEMORY = 2**28
"""Of a program: what several take at the same time must be there."""
AT_ONCE = 6
"""Attacks at the same time: most wait for a clock."""


class Place:
    """A sandbox that leaves mechanisms out, and keeps what one could see of its guests."""

    def __init__(self, sandbox: Sandbox, without: frozenset[str] = NOTHING, observe: bool = False) -> None:
        self._sandbox = sandbox
        self._without = without
        self._observe = observe
        self.seen = Seen()
        self.ended: list[Ended] = []

    async def run(
        self, entry: str, payload: bytes, *, limits: Limits, stdin: bytes = b"", fds: Sequence[int] = ()
    ) -> Ended:
        own = dataclasses.replace(limits)  # by which the observer knows its guests
        looking = [asyncio.create_task(self.seen.look(self._sandbox, own))] if self._observe else []
        try:
            ended = await self._sandbox.attempt(entry, payload, own, self._without, stdin, fds)
        finally:
            await tasks.end(*looking)
        self.ended.append(ended)
        return ended


@dataclasses.dataclass(frozen=True, slots=True)
class Result:
    """What became of an attack."""

    outcome: str
    """As `Attack.outcome`; "a reward" is more than it should have."""
    reason: str
    got: bool
    """Whether it got what it wanted."""

    def is_as_expected(self, attack: Attack) -> bool:
        return self.outcome in attack.outcome.split(" or ") and not self.got


class Siege:
    """Attacks on one sandbox, several at the same time."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self._gate = asyncio.Semaphore(AT_ONCE)

    async def attack(self, attack: Attack, without: frozenset[str] = NOTHING) -> Result:
        """With these mechanisms left out."""
        async with self._gate:
            place = Place(self.sandbox, without, observe=attack.observed)
            with World(self.sandbox) as world:
                program = world.fill(attack.program)
                for _ in range(attack.runs):
                    score = await _score(place, attack, program)
                got = attack.gain(Evidence(score, place.ended, world, place.seen))
                return Result(_outcome(score), f"{score.reason}", got)

    async def with_and_without(self, attack: Attack) -> tuple[bool, bool]:
        """Whether it gets what it wants while nothing but `by` stops it, and without that."""
        held = await self.attack(attack, frozenset(attack.also))
        free = await self.attack(attack, frozenset({*attack.also, attack.by}))
        return held.got, free.got

    async def fools(self, attack: Attack) -> bool:
        """Whether it passes its test where both run in one process."""
        (test,) = attack.row
        payload = json.dumps([attack.program, test]).encode()
        ended = await self.sandbox.run(naive.TOGETHER, payload, limits=Limits(seconds=5.0))
        return (ended.how, ended.code) == ("exit", 0)


def sandbox(namespaces: bool = False, without: frozenset[str] = NOTHING) -> Sandbox:
    """As in an ordinary pod, if not told otherwise."""
    floor = Level.NONE if without else Level.CONFINED
    return Sandbox(PRELOAD, floor=floor, namespaces=namespaces, without=without)


def switchable(attack: Attack, found: Sandbox) -> bool:
    """Whether this machine allows to see what happens without `by`."""
    in_force = {layer.name for layer in found.layers if layer.in_force}
    root = os.geteuid() == 0
    return (
        attack.mechanical
        and attack.switched
        and attack.possible
        and attack.by in in_force
        and ("root" not in attack.needs or root)
        and ("unprivileged" not in attack.needs or not root)
    )


async def _score(place: Place, attack: Attack, program: str) -> Score:
    if attack.kind == "function":
        return await _call(place, program, attack.seconds)
    return await grade(place, program, attack.row, attack.seconds)


async def grade(place: Place, program: str, tests: list[object], seconds: float) -> Score:
    """By the grader `python`."""
    params = rewards.PythonParams(seconds=seconds, memory_bytes=MEMORY)
    spec = rewards.Python(params=params, invalid_value=INVALID)
    items = [ScoreItem(prompt="", completion=program, columns={"tests": tests})]
    (score,) = await PythonRunner(place, asyncio.Semaphore(CORES)).score("hostile", spec, items, {})
    return score


async def _call(place: Place, source: str, seconds: float) -> Score:
    """By the grader `function`."""

    async def find(tenant: str, name: str, version: str) -> Code:
        return Code(source, "f")

    spec = rewards.Function(params=rewards.FunctionParams(name="f", version=VERSION, seconds=seconds))
    items = [ScoreItem(prompt="p", completion="c")]
    runner = FunctionRunner(place, asyncio.Semaphore(CORES), find)
    (score,) = await runner.score("hostile", spec, items, {})
    return score


def _outcome(score: Score) -> str:
    if score.outcome == "scored":
        return "a reward" if score.value else "0"
    return score.outcome

"""What an attack is: a program, what it tries, what stops it, and how one sees from outside whether it got it."""

import os
import platform
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from textwrap import dedent
from typing import Any, Literal

from rekindle.types.rewards import Score
from services.reward.sandbox import MECHANISMS, Ended
from tests.reward.hostile.observer import Seen, lives
from tests.reward.hostile.world import World

PAIR = {"stdin": "2 3\n", "stdout": "5\n"}
ASSERTION = "assert add(2, 3) == 5"

APART = "two processes"
VALUES = "plain values"
OUTSIDE = "judged outside"
CHECKED = "checked report"
ALONE = "own process"
FACTS = "verdict by facts"
DESIGN = {
    APART: "program and test run in processes of their own, and only that of the test says that it passed",
    VALUES: "what a program answers arrives as a value of a builtin type, or as a reference that equals nothing",
    OUTSIDE: "expected output never enters the sandbox; what was printed is compared by the service",
    CHECKED: "the report of a reward function is read as a stranger's",
    ALONE: "a crash is the program's own, and nothing that it has spoilt is there in the next run",
    FACTS: "what is the program's doing is told from what the service saw, never from what the program says",
}
"""What stops an attack beside the mechanisms of the sandbox, and cannot be switched off."""

Kind = Literal["script", "solution", "function"]
Outcome = Literal["0", "invalid", "0 or invalid", "error", "timeout"]


@dataclass(frozen=True, slots=True)
class Evidence:
    """What an attack left to be seen outside of it."""

    score: Score
    """Of the last run."""
    ended: list[Ended]
    """Every guest's end, in no order."""
    world: World
    seen: Seen


Gain = Callable[[Evidence], bool]
"""Whether it got what it wanted."""


@dataclass(frozen=True, slots=True)
class Saw:
    """A gain that shows while the guest lives."""

    enough: Gain

    def __call__(self, evidence: Evidence) -> bool:
        return self.enough(evidence)


def rewarded(evidence: Evidence) -> bool:
    """A number that it should not have."""
    return evidence.score.value is not None and evidence.score.value > 0


def finished(evidence: Evidence) -> bool:
    """It ran to its end by itself; for programs that cannot, if what they try fails."""
    return all((one.how, one.code) == ("exit", 0) for one in evidence.ended)


def told(evidence: Evidence) -> bool:
    """The secret is in what it said."""
    return _said(evidence, evidence.world.secret.encode())


def tells(words: bytes) -> Gain:
    """These words, which stand only where it may not read, are in what it said."""
    return lambda evidence: _said(evidence, words)


def _said(evidence: Evidence, words: bytes) -> bool:
    return any(words in one.stdout + one.stderr + one.report for one in evidence.ended)


def reached(evidence: Evidence) -> bool:
    """Something arrived at a socket of the service."""
    return evidence.world.reached()


def hurt(evidence: Evidence) -> bool:
    """A process of the service was ended by a signal."""
    return evidence.world.hurt()


def touched(evidence: Evidence) -> bool:
    """A file of the service is not as it was."""
    return evidence.world.touched()


def left(evidence: Evidence) -> bool:
    """There is a file where it may not write."""
    return evidence.world.left()


def outlived(evidence: Evidence) -> bool:
    """A process that it has named is still there when the guest is gone; no longer after this."""
    (ended,) = evidence.ended
    process = int(ended.stdout or 0)
    if process == 0 or not lives(process):
        return False
    os.kill(process, signal.SIGKILL)
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Attack:
    """One hostile program. Words in capitals that `World` knows are filled in where it stands."""

    name: str
    tries: str
    """To be read after "it"."""
    program: str
    by: str
    """What stops it: a mechanism of the sandbox, or one of DESIGN."""
    also: tuple[str, ...] = ()
    """Mechanisms that would stop it as well."""
    outcome: Outcome = "invalid"
    """What it earns with everything in force; `0` is a score of 0."""
    says: str = ""
    """A regular expression that is found in the reason then."""
    gain: Gain = rewarded
    switched: bool = True
    """Whether it is also run without `by`, and must succeed; not where that would harm the machine. Of programs that
    a test calls: whether they pass where both run in one process."""
    kind: Kind = "script"
    tests: Any = None
    """None: the usual one of its kind."""
    seconds: float = 20.0
    """Its limit: short only for what would never end."""
    runs: int = 1
    needs: frozenset[str] = field(default_factory=frozenset)
    """`root`: only the superuser can switch it; `x86_64`."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "program", dedent(self.program).strip() + "\n")
        assert {self.by, *self.also} <= MECHANISMS.keys() | DESIGN.keys(), f"{self.name}: by what?"

    @property
    def mechanical(self) -> bool:
        """Whether a mechanism stops it that can be left out."""
        return self.by in MECHANISMS

    @property
    def cheats(self) -> bool:
        """Whether it passes where program and test run in one process."""
        return self.kind == "solution" and self.switched and not self.mechanical

    @property
    def observed(self) -> bool:
        """Whether its guests must be looked at while they live."""
        return isinstance(self.gain, Saw)

    @property
    def possible(self) -> bool:
        """Whether it can be tried on this processor."""
        return "x86_64" not in self.needs or platform.machine() == "x86_64"

    @property
    def row(self) -> list[Any]:
        """The column of its tests."""
        tests = self.tests or (PAIR if self.kind == "script" else ASSERTION)
        return tests if isinstance(tests, list) else [tests]

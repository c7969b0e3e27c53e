"""Every interleaving of a small model, breadth first, with the shortest way to whatever goes wrong.

A model says where it begins, what can happen next, and what must never be true. Exploration visits every
reachable state once (states that differ in names alone count as one) and ends at the first violation. When
there is none, it looks for traps: states from which no end that the model calls settled can be reached any more.
It knows nothing of what is modelled.
"""

import gc
from collections import deque
from collections.abc import Hashable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, TypeVar

S = TypeVar("S", bound=Hashable)

TRAP = "nothing that can still happen settles every command"


class Model(Protocol[S]):
    """A transition system: pure functions of immutable states."""

    def initial(self) -> S: ...

    def actions(self, state: S) -> Iterable[tuple[str, S]]:
        """What can happen, in words, and the state that follows."""
        ...

    def violated(self, state: S) -> str | None:
        """The invariant that `state` breaks, in words."""
        ...

    def settled(self, state: S) -> bool:
        """Whether everything has come to its end."""
        ...

    def key(self, state: S) -> Hashable:
        """Equal for states that differ in names alone."""
        ...


@dataclass(frozen=True, slots=True)
class Counterexample:
    """The shortest way from the beginning to a broken invariant."""

    steps: tuple[str, ...]
    broken: str

    def __str__(self) -> str:
        lines = [f"{number:3}. {step}" for number, step in enumerate(self.steps, 1)]
        return "\n".join([*lines, f"  => {self.broken}"])


@dataclass(frozen=True, slots=True)
class Exploration:
    """What was visited, and what was found."""

    states: int
    transitions: int
    settled: int
    """States in which everything has come to its end."""
    counterexample: Counterexample | None

    def __str__(self) -> str:
        found = f"\n{self.counterexample}" if self.counterexample else ""
        return f"{self.states} states, {self.transitions} transitions, {self.settled} settled{found}"


class _Visited:
    """States in the order in which they were found, and how."""

    def __init__(self) -> None:
        self.numbers: dict[Hashable, int] = {}
        self.origin: list[tuple[int, str]] = []
        """By number: the state before, and what happened there."""
        self.before: list[list[int]] = []
        """By number: every state that leads here in one step."""
        self.settled: list[int] = []

    def add(self, key: Hashable, parent: int, step: str) -> tuple[int, bool]:
        """(number of the state, whether it is new)."""
        number = self.numbers.setdefault(key, len(self.origin))
        new = number == len(self.origin)
        if new:
            self.origin.append((parent, step))
            self.before.append([])
        if parent >= 0:
            self.before[number].append(parent)
        return number, new

    def way_to(self, number: int) -> tuple[str, ...]:
        steps = []
        while number > 0:
            number, step = self.origin[number]
            steps.append(step)
        return tuple(reversed(steps))

    def trap(self) -> int | None:
        """The first state from which no settled one can be reached."""
        free = set(self.settled)
        todo = list(self.settled)
        while todo:
            for parent in self.before[todo.pop()]:
                if parent not in free:
                    free.add(parent)
                    todo.append(parent)
        return next((number for number in range(len(self.origin)) if number not in free), None)

    def report(self, transitions: int, number: int | None, broken: str) -> Exploration:
        found = None if number is None else Counterexample(self.way_to(number), broken)
        return Exploration(len(self.origin), transitions, len(self.settled), found)


def explore(model: Model[S], *, most: int = 1_000_000) -> Exploration:
    """Visit every reachable state of `model`. Raises RuntimeError beyond `most` states."""
    with _uncollected():
        return _explore(model, most)


@contextmanager
def _uncollected() -> Iterator[None]:
    """States are millions of tuples without a cycle: a collector would look for one in a third of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _explore(model: Model[S], most: int) -> Exploration:
    visited = _Visited()
    first = model.initial()
    visited.add(model.key(first), -1, "")
    frontier = deque([(0, first)])
    transitions = 0
    while frontier:
        number, state = frontier.popleft()
        if (broken := model.violated(state)) is not None:
            return visited.report(transitions, number, broken)
        if model.settled(state):
            visited.settled.append(number)
        for step, successor in model.actions(state):
            transitions += 1
            child, new = visited.add(model.key(successor), number, step)
            if new:
                frontier.append((child, successor))
        if len(visited.origin) > most:
            raise RuntimeError(f"more than {most} states: the bounds are too wide")
    return visited.report(transitions, visited.trap(), TRAP)

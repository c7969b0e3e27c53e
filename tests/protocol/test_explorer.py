"""The explorer finds what is there: the shortest way to a broken invariant, and states without a way out."""

from collections.abc import Iterable
from dataclasses import dataclass

import pytest

from tests.protocol.explorer import TRAP, explore


@dataclass(frozen=True)
class Counter:
    """Counts up by one or two; may stop for ever at `hole`."""

    end: int
    forbidden: int = -1
    hole: int = -1

    def initial(self) -> int:
        return 0

    def actions(self, state: int) -> Iterable[tuple[str, int]]:
        if state == self.hole:
            return []
        return [(f"+{step}", state + step) for step in (1, 2) if state + step <= self.end]

    def violated(self, state: int) -> str | None:
        return "forbidden" if state == self.forbidden else None

    def settled(self, state: int) -> bool:
        return state == self.end

    def key(self, state: int) -> int:
        return state


def test_every_state_and_every_transition_is_visited_once() -> None:
    found = explore(Counter(end=4))
    assert (found.states, found.transitions, found.settled, found.counterexample) == (5, 7, 1, None)


def test_a_broken_invariant_comes_with_the_shortest_way_to_it() -> None:
    found = explore(Counter(end=9, forbidden=5)).counterexample
    assert found is not None
    assert found.broken == "forbidden"
    assert sorted(found.steps) == ["+1", "+2", "+2"]
    assert str(found).splitlines()[-1] == "  => forbidden"


def test_a_state_that_leads_nowhere_is_a_trap() -> None:
    found = explore(Counter(end=4, hole=3)).counterexample
    assert found is not None
    assert found.broken == TRAP
    assert sum(int(step) for step in found.steps) == 3


def test_bounds_that_are_too_wide_are_an_error() -> None:
    with pytest.raises(RuntimeError, match="more than 50 states"):
        explore(Counter(end=1000), most=50)

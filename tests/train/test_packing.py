"""The plan of passes: nothing lost, nothing over the budget, kinds apart."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.train.packing import Item, halve, plan


def items(*lengths: int, run: int = 0, forward_only: bool = False) -> list[Item]:
    return [Item(run, index, run, length, forward_only) for index, length in enumerate(lengths)]


def test_small_runs_share_one_pass():
    both = items(3, 5, run=0) + items(4, run=1)
    assert len(plan(both, budget=12)) == 1


def test_a_datum_above_the_budget_has_a_pass_of_its_own():
    assert [[item.tokens for item in part] for part in plan(items(9, 2, 3), budget=5)] == [[2, 3], [9]]


def test_datums_without_gradient_have_passes_of_their_own():
    both = items(3, run=0) + items(3, run=1, forward_only=True)
    assert [part[0].forward_only for part in plan(both, budget=100)] == [False, True]


@given(
    lengths=st.lists(st.tuples(st.integers(1, 40), st.integers(0, 3), st.booleans()), max_size=60),
    budget=st.integers(1, 100),
)
def test_every_datum_is_in_one_pass_within_the_budget(lengths: list[tuple[int, int, bool]], budget: int):
    every = [Item(0, index, run, length, only) for index, (length, run, only) in enumerate(lengths)]
    passes = plan(every, budget)
    assert sorted((item for part in passes for item in part), key=lambda item: item.datum) == every
    for part in passes:
        assert len(part) == 1 or sum(item.tokens for item in part) <= budget
        assert len({item.forward_only for item in part}) == 1


@given(st.lists(st.integers(1, 40), min_size=2, max_size=30))
def test_halves_keep_every_datum_and_are_never_empty(lengths: list[int]):
    every = items(*lengths)
    first, second = halve(every)
    assert first and second and first + second == every


@pytest.mark.parametrize(("lengths", "cut"), [((9, 1, 1), 1), ((1, 1, 9), 2), ((2, 2, 2, 2), 2)])
def test_halves_are_about_equal(lengths: tuple[int, ...], cut: int):
    assert len(halve(items(*lengths))[0]) == cut

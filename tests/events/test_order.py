"""The order of a run's commands does not depend on how they arrive."""

import random
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from events import catalog
from events.order import Entry, RunOrder

START = datetime(2026, 1, 1, tzinfo=UTC)


def entry(number: int, sequence: int, type_: str = catalog.OPTIM_STEP) -> Entry:
    return Entry(number, sequence, type_, START + timedelta(seconds=sequence))


def given_by(order: RunOrder) -> list[Entry]:
    taken = []
    while (next_one := order.take()) is not None:
        taken.append(next_one)
    return taken


ARRIVALS = st.lists(st.integers(0, 12), max_size=60)


@given(ARRIVALS)
def test_the_first_entry_of_each_number_is_given_in_number_order(numbers: list[int]) -> None:
    order, taken = RunOrder(), []
    for sequence, number in enumerate(numbers):
        order.add(entry(number, sequence))
        taken += given_by(order)
    unbroken = next(n for n in range(len(numbers) + 1) if n not in numbers)
    assert [one.number for one in taken] == list(range(unbroken))
    assert [one.sequence for one in taken] == [numbers.index(n) for n in range(unbroken)]


@given(st.integers(1, 12), st.lists(st.integers(0, 40), max_size=30), st.randoms(use_true_random=False))
def test_every_interleaving_with_duplicates_gives_the_same_numbers(
    count: int, extra: list[int], shuffle: random.Random
) -> None:
    numbers = [*range(count), *(n % count for n in extra)]
    shuffle.shuffle(numbers)
    order, taken = RunOrder(), []
    for sequence, number in enumerate(numbers):
        order.add(entry(number, sequence))
        taken += given_by(order)
    assert [one.number for one in taken] == list(range(count))


@given(ARRIVALS)
def test_add_says_whether_the_entry_counts(numbers: list[int]) -> None:
    order, seen = RunOrder(), set()
    for sequence, number in enumerate(numbers):
        assert order.add(entry(number, sequence)) == (number not in seen)
        seen.add(number)
        given_by(order)


@given(ARRIVALS)
def test_a_gap_is_reported_exactly_while_something_waits_in_vain(numbers: list[int]) -> None:
    order = RunOrder()
    for sequence, number in enumerate(numbers):
        order.add(entry(number, sequence))
        given_by(order)
        seen = set(numbers[: sequence + 1])
        missing = next(n for n in range(100) if n not in seen)
        later = [n for n in seen if n > missing]
        gap = order.gap()
        if not later:
            assert gap is None
        else:
            assert gap is not None
            assert gap.number == missing
            assert gap.since == START + timedelta(seconds=min(numbers.index(n) for n in later))


def test_no_gap_while_the_next_entry_is_there_but_not_taken() -> None:
    order = RunOrder()
    order.add(entry(2, 0))
    order.add(entry(0, 1))
    assert order.gap() is None
    assert order.take() == entry(0, 1)
    order.take()
    gap = order.gap()
    assert gap is not None
    assert (gap.number, gap.since) == (1, START)


def test_an_entry_behind_the_head_is_late_and_ignored() -> None:
    order = RunOrder()
    order.add(entry(0, 0, catalog.RELEASED))
    order.take()
    assert not order.add(entry(0, 1))
    assert order.take() is None


def test_rejections_and_releases_take_their_place_without_being_commands() -> None:
    assert not entry(0, 0, catalog.REJECTED).is_command
    assert not entry(0, 0, catalog.RELEASED).is_command
    assert entry(0, 0, catalog.FORWARD_BACKWARD).is_command

"""The order in which a run's commands are applied is a function of the stream alone.

Whatever is posted twice, rejected at an edge, given up by a tombstone or delivered again by a reader that begins
anew: number order, and of each number the first entry.
"""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from events import catalog
from events.order import Entry, RunOrder

START = datetime(2026, 1, 1, tzinfo=UTC)
TYPES = (catalog.FORWARD_BACKWARD, catalog.OPTIM_STEP, catalog.REJECTED, catalog.RELEASED)

STREAMS = st.lists(st.tuples(st.integers(0, 8), st.sampled_from(TYPES)), max_size=40).map(
    lambda posted: [
        Entry(number, sequence, type_, START + timedelta(seconds=sequence))
        for sequence, (number, type_) in enumerate(posted, 1)
    ]
)


def first_of_each(stream: Iterable[Entry]) -> list[Entry]:
    """The order as the design says it: the first entry of 0, of 1, ... up to the first number that has none."""
    first: dict[int, Entry] = {}
    for entry in stream:
        first.setdefault(entry.number, entry)
    unbroken = next(number for number in range(len(first) + 1) if number not in first)
    return [first[number] for number in range(unbroken)]


def applied(deliveries: Iterable[tuple[Entry, int]]) -> list[Entry]:
    """What a holder applies that is given these entries and takes so many after each, and the rest at the end."""
    order, taken = RunOrder(), []
    for entry, eager in deliveries:
        order.add(entry)
        taken += [one for _ in range(eager) if (one := order.take()) is not None]
    while (one := order.take()) is not None:
        taken.append(one)
    return taken


@st.composite
def redelivered(draw: st.DrawFn) -> tuple[list[Entry], list[tuple[Entry, int]]]:
    """(stream, deliveries): in stream order, but now and then from an earlier place again."""
    stream = draw(STREAMS)
    deliveries = []
    place = 0
    for back in draw(st.lists(st.integers(0, 40), max_size=4)):
        reached = draw(st.integers(place, len(stream)))
        deliveries += stream[place:reached]
        place = max(0, reached - back)
    deliveries += stream[place:]
    eager = draw(st.lists(st.integers(0, 3), min_size=len(deliveries), max_size=len(deliveries)))
    return stream, list(zip(deliveries, eager, strict=True))


@given(redelivered())
def test_duplicates_rejections_tombstones_and_redeliveries_give_one_order(
    case: tuple[list[Entry], list[tuple[Entry, int]]],
) -> None:
    stream, deliveries = case
    assert applied(deliveries) == first_of_each(stream)


@given(STREAMS, st.integers(0, 40))
def test_a_later_entry_never_changes_what_was_given(stream: list[Entry], seen: int) -> None:
    before = applied((entry, 1) for entry in stream[:seen])
    after = applied((entry, 1) for entry in stream)
    assert after[: len(before)] == before


@given(STREAMS, st.integers(0, 8))
def test_a_tombstone_counts_exactly_if_it_came_before_the_command(stream: list[Entry], number: int) -> None:
    """What the trainer that gives a number up must read back, since clients' posts are not fenced."""
    tombstone = Entry(number, len(stream) + 1, catalog.RELEASED, START + timedelta(seconds=len(stream) + 1))
    late = Entry(number, len(stream) + 2, catalog.OPTIM_STEP, START + timedelta(seconds=len(stream) + 2))
    posted_before = any(entry.number == number for entry in stream)
    given_for = [one for one in applied((e, 0) for e in [*stream, tombstone, late]) if one.number == number]
    assert all((one == tombstone) != posted_before for one in given_for)
    assert late not in given_for


@given(STREAMS)
def test_only_commands_are_work_but_every_number_takes_its_place(stream: list[Entry]) -> None:
    taken = applied((entry, 0) for entry in stream)
    assert [one.number for one in taken] == list(range(len(taken)))
    work = [one for one in taken if one.is_command]
    assert {one.type for one in work} <= {catalog.FORWARD_BACKWARD, catalog.OPTIM_STEP}
    assert [one for one in taken if one not in work] == [
        one for one in taken if one.type in (catalog.REJECTED, catalog.RELEASED)
    ]


@given(STREAMS)
def test_a_gap_is_the_number_whose_tombstone_lets_the_next_one_through(stream: list[Entry]) -> None:
    order = RunOrder()
    for entry in stream:
        order.add(entry)
    while order.take() is not None:
        pass
    gap = order.gap()
    if gap is None:
        assert len(first_of_each(stream)) == len({entry.number for entry in stream})
        return
    tombstone = Entry(gap.number, len(stream) + 1, catalog.RELEASED, gap.since)
    assert order.add(tombstone)
    assert order.take() == tombstone
    assert gap.since == min(entry.time for entry in stream if entry.number > gap.number)

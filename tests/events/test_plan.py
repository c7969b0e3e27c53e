"""What the dispatcher decides, over any sequence of things that can happen."""

import itertools
import math
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from events.dispatcher import plan
from events.dispatcher.plan import LONGEST_PAUSE, LONGEST_REST, Scale, Slots

scales = st.builds(Scale, most=st.integers(1, 64), capacity=st.floats(0.5, 1e5))
backlogs = st.floats(0.0, 1e7) | st.just(0.0)


@given(scales, backlogs)
def test_no_more_slots_than_the_bound_nor_than_the_work_needs(scale: Scale, backlog: float) -> None:
    count = plan.wanted(scale, backlog)
    assert 0 <= count <= scale.most
    assert (count == 0) == (backlog <= 0)
    assert count == scale.most or count * scale.capacity >= backlog * (1 - 1e-9)
    assert count <= max(1, math.ceil(backlog / scale.capacity))


@given(scales, backlogs, backlogs)
def test_more_work_never_asks_for_fewer_slots(scale: Scale, one: float, other: float) -> None:
    assert plan.wanted(scale, min(one, other)) <= plan.wanted(scale, max(one, other))


@dataclass
class World:
    """A service that answers or refuses, and the dispatcher's picture of it."""

    scale: Scale
    slots: Slots = field(default_factory=Slots)
    now: float = 0.0
    open: int = 0

    def plan(self) -> int:
        count = plan.to_open(self.scale, self.slots, self.now)
        assert count >= 0
        self.slots = plan.posted(self.slots, count)
        self.open += count
        return count


steps = st.lists(
    st.one_of(
        st.tuples(st.just("read"), st.floats(0, 100)),
        st.tuples(st.just("heard"), st.floats(0, 100)),
        st.tuples(st.just("answered"), st.none()),
        st.tuples(st.just("refused"), st.none()),
        st.tuples(st.just("rest"), st.none()),
        st.tuples(st.just("later"), st.floats(0, 10)),
    ),
    max_size=60,
)


def apply(world: World, what: str, value: float | None) -> None:
    match what:
        case "read":
            world.slots = plan.read(world.slots, value or 0.0)
        case "heard":
            world.slots = plan.heard(world.slots, value or 0.0)
        case "rest":
            world.slots = plan.rest(world.slots)
        case "later":
            world.now += value or 0.0
        case "answered" if world.open:
            world.slots, world.open = plan.answered(world.slots), world.open - 1
        case "refused" if world.open:
            world.slots, world.open = plan.refused(world.slots, world.now), world.open - 1


@settings(max_examples=300, deadline=None)
@given(st.builds(Scale, most=st.integers(1, 8), capacity=st.floats(1, 20)), steps)
def test_whatever_happens_slots_are_bounded_counted_and_come_back(
    scale: Scale, happenings: list[tuple[str, float | None]]
) -> None:
    world = World(scale)
    for what, value in happenings:
        apply(world, what, value)
        world.plan()
        assert world.slots.open == world.open, "every activation that was posted is counted until it ends"
        assert 0 <= world.open <= scale.most
        assert world.slots.not_before <= world.now + (LONGEST_REST if world.slots.resting else LONGEST_PAUSE)
    # From any state: once it answers again and there is work, all slots that the work needs are open.
    world.slots = plan.read(world.slots, 50.0)
    while world.open:
        apply(world, "answered", None)
    world.now += LONGEST_REST
    world.plan()
    if world.slots.refusals:
        apply(world, "answered", None)
        world.plan()
    assert world.open == plan.wanted(scale, 50.0)
    # And without work nothing more is opened.
    world.slots = plan.read(world.slots, 0.0)
    assert world.plan() == 0


@given(st.integers(1, 100))
def test_refusals_are_answered_by_longer_and_longer_pauses(count: int) -> None:
    slots, now = plan.read(Slots(), 5.0), 0.0
    pauses = []
    for _ in range(count):
        now = max(now, slots.not_before)
        assert plan.to_open(Scale(5, 1.0), slots, now) == (5 if not slots.refusals else 1)
        slots = plan.refused(plan.posted(slots, 1), now)
        assert plan.to_open(Scale(5, 1.0), slots, now) == 0
        pauses.append(slots.not_before - now)
    assert all(a <= b * 1.001 for a, b in itertools.pairwise(pauses))
    assert pauses[-1] <= LONGEST_PAUSE + 1e-9
    assert plan.answered(plan.posted(slots, 1)).refusals == 0


def test_a_service_that_was_given_up_is_tried_seldom_until_somebody_waits_or_it_answers() -> None:
    scale, now = Scale(1, 1.0), 0.0
    slots = plan.rest(plan.read(Slots(), 5.0))
    for _ in range(20):
        now = max(now, slots.not_before)
        slots = plan.refused(plan.posted(slots, plan.to_open(scale, slots, now)), now)
    assert slots.not_before - now == LONGEST_REST
    assert plan.to_open(scale, plan.heard(slots, 1.0), now) == 1, "at once for what is new"
    slots = plan.answered(plan.posted(slots, 1))
    assert not slots.resting and plan.to_open(scale, slots, now) == 1


def test_refusals_of_one_moment_count_once() -> None:
    slots = plan.posted(plan.read(Slots(), 8.0), 8)
    for _ in range(8):
        slots = plan.refused(slots, 1.0)
    assert slots.open == 0 and slots.refusals == 1


def test_two_dispatchers_together_open_no_more_than_twice_the_bound() -> None:
    scale = Scale(most=3, capacity=1.0)
    both = [World(scale, plan.read(Slots(), 100.0)) for _ in range(2)]
    assert sum(one.plan() for one in both) == 6
    assert all(one.plan() == 0 for one in both)

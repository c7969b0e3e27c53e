"""How a budget is divided: whoever has the least in hand comes next."""

import asyncio
import contextlib

from hypothesis import given
from hypothesis import strategies as st

from events.shares import Room
from events.tasks import end


class Guests:
    """Tasks that hold places until they are told to go."""

    def __init__(self, room: Room) -> None:
        self.room = room
        self.inside: list[str] = []
        self.gates: dict[str, asyncio.Event] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def _stay(self, name: str, cost: int) -> None:
        async with self.room.place(name[0], cost):
            self.inside.append(name)
            try:
                await self.gates[name].wait()
            finally:
                self.inside.remove(name)

    async def come(self, *names: str, cost: int = 1) -> None:
        for name in names:
            self.gates[name] = asyncio.Event()
            self.tasks[name] = asyncio.create_task(self._stay(name, cost))
            await asyncio.sleep(0)

    async def go(self, name: str) -> None:
        self.gates[name].set()
        await self.tasks.pop(name)
        await asyncio.sleep(0)

    async def close(self) -> None:
        await end(*self.tasks.values())


async def test_who_has_less_in_hand_comes_before_who_came_first():
    guests = Guests(Room(3))
    await guests.come("a1", "a2", "a3", "a4", "a5", "b1", "b2")
    assert guests.inside == ["a1", "a2", "a3"]
    for gone, inside in (("a1", ["a2", "a3", "b1"]), ("a2", ["a3", "b1", "a4"]), ("a3", ["b1", "a4", "b2"])):
        await guests.go(gone)
        assert guests.inside == inside
    await guests.close()


async def test_with_room_for_one_tenants_take_turns():
    guests, served = Guests(Room(1)), []
    await guests.come("a1", "a2", "a3", "b1", "b2", "c1")
    while guests.inside:
        served += guests.inside
        await guests.go(guests.inside[0])
    assert served == ["a1", "b1", "c1", "a2", "b2", "a3"]


async def test_what_is_dearer_than_all_runs_alone_and_is_not_passed_for_ever():
    guests = Guests(Room(3))
    await guests.come("a1", "a2")
    await guests.come("b1", cost=10)
    await guests.come("a3")
    assert guests.inside == ["a1", "a2"]
    await guests.go("a1")
    assert guests.inside == ["a2"]
    await guests.go("a2")
    assert guests.inside == ["b1"] and guests.room.left == -7
    await guests.go("b1")
    assert guests.inside == ["a3"] and guests.room.left == 2
    await guests.close()


async def test_who_goes_away_while_waiting_leaves_the_room_to_others():
    guests = Guests(Room(1))
    await guests.come("a1", "b1", "c1")
    await end(guests.tasks.pop("b1"))
    await guests.go("a1")
    assert guests.inside == ["c1"]
    await end(guests.tasks.pop("c1"))
    assert guests.room.left == 1


async def test_who_is_called_off_at_the_moment_of_admission_holds_nothing():
    room = Room(1)
    first = contextlib.AsyncExitStack()
    await first.enter_async_context(room.place("a", 1))
    waiting = asyncio.create_task(room.place("b", 1).__aenter__())
    await asyncio.sleep(0)
    await first.aclose()  # admits it
    waiting.cancel()
    await asyncio.wait([waiting])
    assert room.left == 1


def test_shares_fill_what_is_left_evenly_and_whoever_is_alone_gets_all():
    room = Room(10)
    assert room.shares({"a": 100}, 1.0) == {"a": 10}
    assert room.shares({"a": 100, "b": 100}, 1.0) == {"a": 5, "b": 5}
    assert room.shares({"a": 100, "b": 2, "c": 0}, 1.0) == {"a": 8, "b": 2}
    assert room.shares({"a": 100}, 3.0) == {"a": 3}
    assert room.shares({"a": 100}, 50.0) == {"a": 1}
    assert room.shares({}, 1.0) == {} and room.shares({"a": 0}, 1.0) == {}


async def test_shares_make_up_for_what_tenants_have_in_hand():
    room = Room(10)
    async with room.place("a", 4):
        assert room.shares({"a": 100, "b": 100}, 1.0) == {"a": 1, "b": 5}


@given(
    st.integers(1, 50),
    st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 60), max_size=6),
    st.floats(0.5, 20),
)
def test_shares_never_pass_what_waits_or_the_room_and_waste_nothing(
    budget: int, pending: dict[str, int], cost: float
):
    shares = Room(budget).shares(pending, cost)
    most = max(1, int(budget / cost))
    assert all(0 < count <= pending[tenant] for tenant, count in shares.items())
    assert shares.total() == min(most, sum(pending.values()))
    hungry = [shares[tenant] for tenant, count in pending.items() if shares[tenant] < count]
    assert not hungry or min(hungry) >= max(shares.values()) - 1

"""Of two who drive a run one is told that it is overtaken, and has changed nothing."""

import uuid
from collections.abc import AsyncIterator

import pytest

from events.bus import Bus
from events.failure import BusUnavailable, NotFound, Overtaken
from rekindle.types.rl import MetricsRow
from services.data.rl.state import State
from services.data.rl.store import Hold, Store
from tests.data.lab import Lab


@pytest.fixture
async def bus(lab: Lab) -> AsyncIterator[Bus]:
    bus = await Bus.connect(lab.nats_url, name="test")
    yield bus
    await bus.close()


@pytest.fixture
async def store(bus: Bus) -> AsyncIterator[Store]:
    store = Store(bus, "local", f"rl-{uuid.uuid4().hex[:16]}")
    await store.begin(State())
    yield store
    await store.remove()


async def test_a_run_begins_once(store: Store):
    hold = await Hold.take(store)
    await hold.commit(State(cursor=3))
    await store.begin(State())
    standing, _ = await store.read()
    assert (standing.state.cursor, (await store.control()).order) == (3, 1)


async def test_who_takes_a_run_ends_the_writing_of_whoever_had_it(store: Store):
    first = await Hold.take(store)
    await first.commit(State(cursor=1))
    second = await Hold.take(store)
    with pytest.raises(Overtaken):
        await first.commit(State(cursor=2))
    with pytest.raises(Overtaken):
        await first.write_row(MetricsRow(row=0))
    await second.commit(State(cursor=3))
    await second.write_row(MetricsRow(row=0, step=0))
    standing, _ = await store.read()
    assert standing.state.cursor == 3
    assert [row.step for row in await store.rows(-1, 10)] == [0]


async def test_drivers_that_get_nowhere_are_counted(store: Store):
    for count in (1, 2, 3):
        hold = await Hold.take(store)
        assert hold.starts == count
    await hold.commit(State(cursor=1))
    assert (await Hold.take(store)).starts == 1


async def test_a_write_whose_acknowledgement_was_lost_is_ours(store: Store, monkeypatch: pytest.MonkeyPatch):
    hold = await Hold.take(store)
    append, lost = store.bus.append, 0

    async def lose_one(*given: object, **options: object) -> int:
        nonlocal lost
        sequence = await append(*given, **options)  # type: ignore[arg-type]
        if not lost:
            lost += 1
            raise BusUnavailable("no acknowledgement")
        return sequence

    monkeypatch.setattr(store.bus, "append", lose_one)
    await hold.commit(State(cursor=1))
    await hold.commit(State(cursor=2))
    assert lost == 1
    assert (await store.read())[0].state.cursor == 2


async def test_the_owners_words_are_numbered_and_the_last_one_stands(store: Store):
    assert (await store.say("pause")).order == 2
    assert (await store.say("pause")).order == 2
    assert (await store.say("run")).order == 3
    assert (await store.say("run", anew=True)).order == 4
    assert (await store.say("cancel", remove=True)).order == 5
    assert (await store.say("run")).what == "cancel"


async def test_rows_are_read_from_where_one_was(store: Store):
    hold = await Hold.take(store)
    for number in range(12):
        await hold.write_row(MetricsRow(row=number))
    assert [row.row for row in await store.rows(8, 100)] == [9, 10, 11]
    assert [row.row for row in await store.rows(-1, 2)] == [0, 1]


async def test_news_is_found_without_looking_at_all_that_is_known(
    store: Store, monkeypatch: pytest.MonkeyPatch
):
    hold = await Hold.take(store)
    await hold.write_row(MetricsRow(row=70))
    read: list[int] = []

    async def row(number: int) -> MetricsRow | None:
        read.append(number)
        return await Store.row(store, number)

    monkeypatch.setattr(store, "row", row)
    assert [row.row for row in await store.rows(69, 1000)] == [70]
    assert read[0] == 70 and min(read) == 70
    read.clear()
    assert await store.rows(70, 1000) == [] and read == [71]


async def test_a_run_that_is_removed_is_nobodys(store: Store):
    hold = await Hold.take(store)
    await store.remove()
    with pytest.raises(Overtaken):
        await hold.commit(State(cursor=1))
    with pytest.raises(NotFound):
        await Hold.take(store)
    assert await store.rows(-1, 10) == []

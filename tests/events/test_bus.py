"""What the bus promises, against a real server."""

import asyncio
import time
from datetime import UTC, datetime, timedelta

import pytest
from nats.js.api import AckPolicy, ConsumerConfig, StreamConfig

from events import envelope, streams
from events.bus import Bus
from events.failure import BusUnavailable, Conflict, StreamFull
from events.pull import Puller
from events.reads import parse_time
from events.tasks import end
from tests.events.nats_process import NatsProcess


def event(data: bytes = b"{}", id_: str = "1") -> envelope.CloudEvent:
    return envelope.make_event("t", id=id_, tenant="local", service="test", subject="s", data=data)


@pytest.fixture
async def stream(bus: Bus, unique: str) -> str:
    """A stream of the test's own; its subjects begin with its name."""
    config = StreamConfig(name=unique, subjects=[f"{unique}.>"], allow_direct=True)
    await bus.ensure_stream(config)
    return unique


async def test_what_is_appended_can_be_read_back_at_once(bus: Bus, stream: str) -> None:
    first = await bus.append(f"{stream}.a", event(b"1"))
    last = await bus.append(f"{stream}.a", event("ü€".encode()))
    stored = await bus.last(stream, f"{stream}.a")
    assert stored is not None
    assert (stored.sequence, stored.subject, stored.event.get_data()) == (last, f"{stream}.a", "ü€".encode())
    oldest = await bus.first(stream, f"{stream}.a")
    assert oldest is not None
    assert (oldest.sequence, oldest.event.get_data()) == (first, b"1")
    at = await bus.at(stream, first)
    assert at is not None
    assert at.time == oldest.time
    assert abs(stored.time.timestamp() - time.time()) < 60


async def test_what_is_not_there_is_none(bus: Bus, stream: str) -> None:
    assert await bus.last(stream, f"{stream}.a") is None
    assert await bus.first(stream, f"{stream}.a") is None
    assert await bus.at(stream, 99) is None
    assert await bus.subjects(stream, f"{stream}.>") == []
    assert await bus.last_of_each(stream, f"{stream}.>") == []


async def test_a_stream_that_does_not_exist_holds_nothing(bus: Bus, unique: str) -> None:
    assert await bus.last(unique, "x") is None
    assert await bus.first(unique, "x") is None
    assert await bus.subjects(unique, "x.>") == []
    assert await bus.last_of_each(unique, "x.>") == []
    await bus.purge(unique, "x.>")


async def test_a_purged_entry_is_gone(bus: Bus, stream: str) -> None:
    await bus.append(f"{stream}.a", event())
    await bus.append(f"{stream}.b", event())
    await bus.purge(stream, f"{stream}.a")
    assert await bus.subjects(stream, f"{stream}.>") == [f"{stream}.b"]
    assert await bus.at(stream, 1) is None


async def test_a_compare_and_set_that_loses_is_a_conflict(bus: Bus, stream: str) -> None:
    place = await bus.append(f"{stream}.a", event(), expect_last=0)
    with pytest.raises(Conflict):
        await bus.append(f"{stream}.a", event(), expect_last=0)
    await bus.append(f"{stream}.b", event(), expect_last=0)
    await bus.append(f"{stream}.a", event(), expect_last=place)
    with pytest.raises(Conflict):
        await bus.append(f"{stream}.a", event(), expect_last=place)


async def test_of_many_who_write_a_subject_first_one_wins(bus: Bus, stream: str) -> None:
    tries = (bus.append(f"{stream}.a", event(), expect_last=0) for _ in range(20))
    ends = await asyncio.gather(*tries, return_exceptions=True)
    assert sum(isinstance(end, int) for end in ends) == 1
    assert sum(isinstance(end, Conflict) for end in ends) == 19


async def test_a_fenced_write_is_refused_after_a_take_over(bus: Bus, stream: str) -> None:
    lease = await bus.append(f"{stream}.lease", event(id_="epoch 1"), expect_last=0)
    await bus.append(f"{stream}.result.1", event(), fence=(f"{stream}.lease", lease))
    await bus.append(f"{stream}.result.2", event(), fence=(f"{stream}.lease", lease))
    newer = await bus.append(f"{stream}.lease", event(id_="epoch 2"), expect_last=lease)
    with pytest.raises(Conflict):
        await bus.append(f"{stream}.result.3", event(), fence=(f"{stream}.lease", lease))
    assert await bus.last(stream, f"{stream}.result.3") is None
    await bus.append(f"{stream}.result.3", event(), fence=(f"{stream}.lease", newer))


async def test_a_result_is_written_once(bus: Bus, unique: str) -> None:
    await bus.append(f"result.sample.t.{unique}.1", event(b"first"))
    with pytest.raises(StreamFull):
        await bus.append(f"result.sample.t.{unique}.1", event(b"second"))
    stored = await bus.last(streams.RESULTS, f"result.sample.t.{unique}.1")
    assert stored is not None
    assert stored.event.get_data() == b"first"


async def test_a_full_stream_says_so(bus: Bus, unique: str) -> None:
    config = StreamConfig(name=unique, subjects=[f"{unique}.>"], max_msgs=1, discard="new")
    await bus.ensure_stream(config)
    await bus.append(f"{unique}.a", event())
    with pytest.raises(StreamFull):
        await bus.append(f"{unique}.b", event())


async def test_the_newest_of_thousands_of_subjects_are_found(bus: Bus, stream: str) -> None:
    count = 1200
    for data in (b"old", b"new"):
        for start in range(0, count, 200):
            numbers = range(start, start + 200)
            await asyncio.gather(*(bus.append(f"{stream}.k.{n}", event(data, str(n))) for n in numbers))
    found = await bus.last_of_each(stream, f"{stream}.k.*")
    assert {int(one.event.get_id()) for one in found} == set(range(count))
    assert {one.event.get_data() for one in found} == {b"new"}
    assert len(found) == len(await bus.subjects(stream, f"{stream}.k.*")) == count


async def test_the_newest_of_each_are_found_however_large_they_are(bus: Bus, stream: str) -> None:
    large = bytes(400_000)
    for n in range(200):
        await bus.append(f"{stream}.{n}", event(large))
    found = await bus.last_of_each(stream, f"{stream}.>")
    assert len(found) == 200
    assert all(one.event.get_data() == large for one in found)


async def test_streams_are_made_by_many_at_once_and_changed_later(nats: NatsProcess, unique: str) -> None:
    buses = [await Bus.connect(nats.url, name=f"bus {n}") for n in range(3)]
    await asyncio.gather(*(bus.ensure_run_stream(unique) for bus in buses))
    await asyncio.gather(*(bus.ensure_shared_streams() for bus in buses))
    config = StreamConfig(name=unique, subjects=[f"{unique}.>"])
    await buses[0].ensure_stream(config)
    await buses[1].ensure_stream(config.evolve(max_msgs=5))
    assert (await buses[2].js.stream_info(unique)).config.max_msgs == 5
    for bus in buses:
        await bus.close()


async def test_a_silent_server_is_unavailable_and_never_empty(own_nats: NatsProcess) -> None:
    bus = await Bus.connect(own_nats.url, name="test", timeout=0.3)
    await bus.ensure_run_stream("m")
    stream = streams.runs("m", 1).name
    assert stream is not None
    own_nats.freeze()
    for attempt in (
        bus.append("run.m.x", event()),
        bus.last(stream, "x"),
        bus.first(stream, "x"),
        bus.at(stream, 1),
        bus.subjects(stream, ">"),
        bus.last_of_each(stream, ">"),
        bus.purge(stream, ">"),
        bus.ensure_stream(streams.runs("n", 1)),
    ):
        with pytest.raises(BusUnavailable):
            await attempt
    own_nats.thaw()
    await bus.close()


async def test_after_a_restart_everything_is_there_and_listeners_are_told(own_nats: NatsProcess) -> None:
    bus = await Bus.connect(own_nats.url, name="test", timeout=0.3)
    await bus.ensure_shared_streams()
    back = asyncio.Event()
    forget = bus.on_reconnect(back.set)
    await bus.append("record.x", event(b"kept"))
    own_nats.stop()
    with pytest.raises(BusUnavailable):
        await bus.last(streams.RECORDS, "record.x")
    with pytest.raises(BusUnavailable):
        await bus.append("record.y", event())
    own_nats.start()
    await asyncio.wait_for(back.wait(), 20)
    stored = await bus.last(streams.RECORDS, "record.x")
    assert stored is not None
    assert stored.event.get_data() == b"kept"
    await bus.append("record.z", event())
    assert bus.reconnects == 1
    forget()
    await bus.close()


async def test_listening_hears_what_is_stored_and_nothing_after_its_end(bus: Bus, unique: str) -> None:
    heard: asyncio.Queue[str] = asyncio.Queue()
    stop = await bus.listen(f"stored.result.sample.t.{unique}.*", heard.put_nowait)
    await bus.append(f"result.sample.t.{unique}.1", event())
    assert await asyncio.wait_for(heard.get(), 10) == f"stored.result.sample.t.{unique}.1"
    with pytest.raises(StreamFull):
        await bus.append(f"result.sample.t.{unique}.1", event())
    await bus.append(f"result.sample.t.{unique}.2", event())
    assert await asyncio.wait_for(heard.get(), 10) == f"stored.result.sample.t.{unique}.2"
    await stop()
    await bus.append(f"result.sample.t.{unique}.3", event())
    await bus.client.flush()
    assert heard.empty()


@pytest.mark.parametrize(
    ("text", "microsecond"),
    [
        ("2026-01-02T03:04:05Z", 0),
        ("2026-01-02T03:04:05.5Z", 500_000),
        ("2026-01-02T03:04:05.123456789Z", 123_456),
    ],
)
def test_times_of_the_server_are_read_whatever_their_precision(text: str, microsecond: int) -> None:
    moment = parse_time(text)
    assert (moment.second, moment.microsecond, moment.utcoffset().total_seconds()) == (5, microsecond, 0)  # type: ignore[union-attr]


async def test_a_walk_sees_every_entry_in_order_over_many_pages(bus: Bus, unique: str) -> None:
    for number in range(150):
        await bus.append(f"facts.{unique}.walk.{number % 3}", event(id_=str(number)))
    seen = [stored.event.get_id() async for stored in bus.walk("FACTS", f"facts.{unique}.walk.*")]
    assert seen == [str(number) for number in range(150)]
    one = [stored.event.get_id() async for stored in bus.walk("FACTS", f"facts.{unique}.walk.1")]
    assert one == [str(number) for number in range(1, 150, 3)]
    assert [stored async for stored in bus.walk("FACTS", f"facts.{unique}.nothing")] == []


async def test_what_is_appended_for_later_arrives_then_and_once(bus: Bus, unique: str) -> None:
    subject = f"data.{unique}.owner.0"
    late, soon = (datetime.now(UTC) + timedelta(seconds=seconds) for seconds in (600, 1))
    await bus.append_later(subject, event(id_="first"), late)
    assert await bus.first("DATA", subject) is None
    await bus.append_later(subject, event(id_="second"), soon)
    config = ConsumerConfig(durable_name=unique, filter_subject=subject, ack_policy=AckPolicy.EXPLICIT)
    await bus.ensure_consumer("DATA", config)
    puller = await Puller(bus, "DATA", unique).start()
    await puller.want(2)
    delivery = await puller.next(timeout=20.0)
    assert delivery is not None
    assert delivery.event.get_id() == "second"
    assert await bus.subjects("DATA", f"later.{subject}") == []
    await delivery.message.ack_sync()
    await puller.close()


async def test_who_follows_news_misses_what_cannot_be_read_and_goes_on(bus: Bus, unique: str) -> None:
    subject = f"news.{unique}"
    news = bus.follow(subject)
    coming = asyncio.ensure_future(anext(news))
    await asyncio.sleep(0)
    for said in (b"nonsense", b"{" * 100_000, b'{"specversion": "1.0"}'):
        await bus.client.publish(subject, said)
    head, data = envelope.to_message(event(id_="good"))
    await bus.client.publish(subject, data, headers=head)
    async with asyncio.timeout(10):
        assert (await coming).get_id() == "good"
    await news.aclose()


async def test_an_entry_may_have_a_header_by_which_the_server_says_that_there_is_none(
    bus: Bus, unique: str
) -> None:
    subjects = [f"data.{unique}.owner.{number}" for number in (1, 2)]
    for subject in subjects:
        await bus.append(subject, event(id_=subject), headers={"Status": "404 Message Not Found"})
    for subject in subjects:
        stored = await bus.first("DATA", subject)
        assert stored is not None and stored.event.get_id() == subject
    assert [one.subject async for one in bus.walk("DATA", f"data.{unique}.>")] == subjects
    filter_ = f"data.{unique}.>"
    config = ConsumerConfig(durable_name=unique, filter_subject=filter_, ack_policy=AckPolicy.EXPLICIT)
    await bus.ensure_consumer("DATA", config)
    puller = await Puller(bus, "DATA", unique).start()
    await puller.want(2)
    for subject in subjects:
        delivery = await puller.next(timeout=20.0)
        assert delivery is not None and delivery.event.get_id() == subject
    await puller.close()
    await bus.remove_consumer("DATA", unique)
    await bus.purge("DATA", filter_)


async def test_the_connection_outlives_a_puller_whose_end_is_cut_short(bus: Bus, unique: str) -> None:
    config = ConsumerConfig(durable_name=unique, filter_subject=f"data.{unique}.>")
    await bus.ensure_consumer("DATA", config)
    for turns in range(8):
        puller = await Puller(bus, "DATA", unique).start()
        closing = asyncio.create_task(puller.close())
        for _ in range(turns):
            await asyncio.sleep(0)
        await end(closing)
        await bus.subjects("DATA", f"data.{unique}.>")

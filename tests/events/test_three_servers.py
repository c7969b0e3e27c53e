"""What a single server promises a run's holder holds on three, while their leader dies: every entry is on all of R3."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from events import catalog, envelope, names
from events.blobs import FolderBlobs
from events.bus import Bus
from events.envelope import CloudEvent
from events.failure import BusUnavailable
from events.lease import Head, LeaseLost, RunHolder
from events.order import Entry
from events.records import LoraShape, RunRecord
from events.runlog import LogReader, RunLog
from services.local.nats_server import free_port, server_binary
from tests.events.nats_process import NatsProcess

TENANT, BASE = "t", "base"
STREAM = names.run_stream(BASE)
RUN = RunRecord(
    run_id="run:train:0",
    session_id="run",
    base=BASE,
    lora=LoraShape(rank=8, seed=0),
    created=datetime(2026, 1, 1, tzinfo=UTC),
)
ROOT = names.run_root(BASE, TENANT, RUN.run_id)

CONFIG = """\
server_name: n{index}
host: 127.0.0.1
port: {port}
jetstream {{ store_dir: "{store}" }}
cluster {{ name: c, host: 127.0.0.1, port: {route}, routes: [{routes}] }}
"""


@pytest.fixture
def three(tmp_path: Path) -> Iterator[list[NatsProcess]]:
    """A cluster of three servers on this machine."""
    ports, routes = [free_port() for _ in range(3)], [free_port() for _ in range(3)]
    servers = []
    for index in range(3):
        folder = tmp_path / f"n{index}"
        folder.mkdir()
        config = folder / "conf"
        others = ", ".join(f'"nats://127.0.0.1:{route}"' for route in routes)
        place = {"port": ports[index], "route": routes[index], "routes": others}
        config.write_text(CONFIG.format(index=index, store=folder / "js", **place))
        url = f"nats://127.0.0.1:{ports[index]}"
        servers.append(NatsProcess(folder, [server_binary(), "--config", str(config)], url))
    for server in servers:
        server.start()
    yield servers
    for server in servers:
        server.stop()


@pytest.fixture
async def buses(three: list[NatsProcess]) -> AsyncIterator[list[Bus]]:
    """A connection to each, once the run stream has a leader."""
    opened = [await Bus.connect(server.url, name="test", replicas=3, timeout=1.0) for server in three]
    async with asyncio.timeout(60):
        while True:
            try:
                await opened[0].ensure_run_stream(BASE)
                break
            except BusUnavailable:
                continue  # no leader yet
    yield opened
    for bus in opened:
        await bus.close()


async def hold(bus: Bus, blobs: FolderBlobs) -> RunHolder:
    return await RunHolder.take(bus, blobs, BASE, TENANT, ROOT)


async def result(holder: RunHolder, number: int) -> None:
    await holder.write(f"{ROOT}.result.{number}", event(catalog.RESOLVED, f"run:{number}", b"{}"))


async def until_in_doubt(holder: RunHolder, number: int) -> int:
    """Write results one by one until silence has made the holder take a new epoch, and one more; the next number."""
    epoch = holder.epoch
    while holder.epoch == epoch:
        await result(holder, number)
        number += 1
    await result(holder, number)
    return number + 1


async def head(holder: RunHolder, number: int) -> None:
    found = Head(number=number, blob=f"snapshots/{number}-{holder.epoch}", epoch=holder.epoch)
    said = found.model_dump_json().encode()
    await holder.write(f"{ROOT}.head", event(catalog.HEAD, f"run@{number}-{holder.epoch}", said))


def event(type_: str, id: str, data: bytes) -> CloudEvent:
    return envelope.make_event(type_, id=id, tenant=TENANT, service="train", subject="run", data=data)


async def standing(bus: Bus, kind: str) -> dict[int, int]:
    """How many entries there are on each numbered subject."""
    info = await bus.js.stream_info(STREAM, subjects_filter=f"{ROOT}.{kind}.*")
    return {int(subject.rpartition(".")[2]): n for subject, n in (info.state.subjects or {}).items()}


async def commands(bus: Bus, most: int) -> list[Entry]:
    """The first commands of the log."""
    found: list[Entry] = []
    async with asyncio.timeout(30):
        async for _, entry in LogReader(bus, BASE).entries():
            found.append(entry)
            if len(found) == most:
                break
    return found


async def test_the_fence_holds_on_three_servers_whose_leader_is_killed(
    three: list[NatsProcess], buses: list[Bus], blobs: FolderBlobs
) -> None:
    info = await buses[0].js.stream_info(STREAM)
    leading = int(str(info.cluster.leader)[1])  # type: ignore[union-attr]
    one, two = (bus for index, bus in enumerate(buses) if index != leading)
    log = RunLog(one, blobs)
    for number in range(6):
        await log.submit(TENANT, RUN, number, catalog.OPTIM_STEP, b"{}")
    entries = await commands(two, 6)
    first = await hold(one, blobs)
    for number in range(3):
        await result(first, number)
        assert number in await standing(two, "result"), "seen by all as soon as it is acknowledged"
    await head(first, 1)
    await first.purge(entries[:2], entries[2].sequence)

    writing = asyncio.create_task(until_in_doubt(first, 3))
    while len(await standing(two, "result")) < 20:
        assert not writing.done(), "so far all has gone well"
    three[leading].kill()
    written = await writing
    assert await standing(two, "result") == dict.fromkeys(range(written), 1)

    second = await hold(two, blobs)
    for attempt in (
        result(first, written),
        head(first, 5),
        first.purge(entries[2:], entries[5].sequence + 1),
    ):
        with pytest.raises(LeaseLost):
            await attempt
    assert (await second.head()).number == 1
    assert set(await standing(two, "cmd")) == {2, 3, 4, 5}
    assert await second.resolved() == set(range(written))
    await result(second, written)
    await head(second, 3)
    await second.purge(entries[2:4], entries[4].sequence)
    three[leading].start()
    assert (await second.head()).epoch == second.epoch > first.epoch
    async with asyncio.timeout(30):  # a reader may meet the server that is still catching up
        while [entry.number for entry in await commands(one, 2)] != [4, 5]:
            pass

"""A real NATS server for the tests of the arrows, and connections to it."""

import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from events.blobs import FolderBlobs
from events.bus import Bus
from events.record_store import Records
from tests.events.nats_process import NatsProcess
from tests.s3_server import Bucket, running_bucket


@pytest.fixture(scope="session")
def nats(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsProcess]:
    """One server for the session; tests keep apart by names of their own."""
    with NatsProcess(tmp_path_factory.mktemp("nats")) as server:
        yield server


@pytest.fixture
def own_nats(tmp_path: Path) -> Iterator[NatsProcess]:
    """A server that the test may stop."""
    with NatsProcess(tmp_path / "own") as server:
        yield server


@pytest.fixture
async def bus(nats: NatsProcess) -> AsyncIterator[Bus]:
    bus = await Bus.connect(nats.url, name="test")
    await bus.ensure_shared_streams()
    yield bus
    await bus.close()


@pytest.fixture
def blobs(tmp_path: Path) -> FolderBlobs:
    return FolderBlobs(tmp_path / "blobs")


@pytest.fixture
def records(bus: Bus) -> Records:
    return Records(bus)


@pytest.fixture
def unique() -> str:
    """A name that no other test has."""
    return uuid.uuid4().hex[:12]


@pytest.fixture(scope="module")
def bucket() -> Iterator[Bucket]:
    """A bucket of S3 that the environment leads to."""
    with running_bucket() as running, pytest.MonkeyPatch.context() as patch:
        for name, value in running.environment.items():
            patch.setenv(name, value)
        yield running

"""A fake server and its client, closed afterwards; and a client of the real stack."""

from collections.abc import Iterator

import pytest

from rekindle import ServiceClient
from tests.sdk.cli_server import CliServer
from tests.sdk.fake_server import FakeServer
from tests.stack import Stack


@pytest.fixture
def fake() -> FakeServer:
    return FakeServer()


@pytest.fixture
def faked(fake: FakeServer) -> Iterator[ServiceClient]:
    with fake.service() as service:
        yield service


@pytest.fixture(scope="module")
def rekindled(stack: Stack) -> Iterator[ServiceClient]:
    """The SDK's client of the session's stack."""
    with ServiceClient(stack.url) as service:
        yield service


@pytest.fixture
def cli() -> CliServer:
    return CliServer()

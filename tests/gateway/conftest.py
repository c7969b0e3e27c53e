"""A wire to the session's stack, and a run on it."""

import json
from collections.abc import Iterator

import psutil
import pytest

from tests.gateway.wire import Run, Wire, connect
from tests.stack import Stack


@pytest.fixture(scope="session")
def wire(stack: Stack) -> Iterator[Wire]:
    with connect(stack.url, stack.base_model) as opened:
        yield opened


@pytest.fixture(scope="module")
def run(wire: Wire) -> Run:
    """One run for a whole file: each mistake must leave it fit for the next one."""
    return wire.run()


@pytest.fixture(scope="session")
def gateway(stack: Stack) -> psutil.Process:
    """The gateway's process."""
    rows = json.loads((stack.data_dir / "processes.json").read_text())
    return psutil.Process(next(row["pid"] for row in rows if row["service"] == "gateway"))

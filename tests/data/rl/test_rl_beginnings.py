"""Whoever dies while a run begins, or ends for good, leaves nothing half done that anybody sees."""

import asyncio
import uuid
from collections.abc import AsyncIterator

import pytest

from events.edge import Edge
from events.keys import LOCAL_TENANT
from events.records import RlRunRecord
from events.streams import RL
from rekindle.types.rl import RlRunSpec
from services.data.rl import create as create_module
from services.data.rl.create import create
from services.data.rl.drive import drive
from services.data.rl.queue import DriveCommand
from services.data.rl.state import State
from services.data.rl.store import Store
from tests.data.lab import Lab
from tests.data.rl.test_rl_api import dataset, delete, spec
from tests.data.rl.town import settings_for

__all__ = ["dataset"]


class Died(Exception):
    """The edge did, there."""


@pytest.fixture
async def edge(lab: Lab) -> AsyncIterator[Edge]:
    edge = await Edge.open(settings_for(lab.nats_url, lab.blobs), "test")
    yield edge
    await edge.bus.close()


async def die(*_: object) -> None:
    raise Died


@pytest.fixture
def run_id() -> str:
    return f"rl-{uuid.uuid4().hex[:16]}"


def shown(lab: Lab, run_id: str) -> bool:
    listed = run_id in [run["id"] for run in lab.http.get("rl_runs").json()["runs"]]
    assert (lab.http.get(f"rl_runs/{run_id}").status_code == 200) is listed
    return listed


async def until_phase(lab: Lab, run_id: str, phase: str) -> None:
    async with asyncio.timeout(30):
        while lab.http.get(f"rl_runs/{run_id}").json().get("phase") != phase:  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def test_a_run_whose_maker_dies_before_it_is_queued_is_not_there_until_it_is_asked_for_again(
    lab: Lab, dataset: str, edge: Edge, run_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = RlRunSpec.of(spec(dataset))
    with monkeypatch.context() as patch, pytest.raises(Died):
        patch.setattr(create_module, "queue_drive", die)
        await create(edge, LOCAL_TENANT, run_id, wanted)
    assert await edge.records.get(RlRunRecord, LOCAL_TENANT, run_id) and not shown(lab, run_id)
    await create(edge, LOCAL_TENANT, run_id, wanted)
    assert shown(lab, run_id)
    delete(lab, run_id)


async def test_a_run_whose_maker_dies_after_it_is_queued_goes_on(
    lab: Lab, dataset: str, edge: Edge, run_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(Died):
        patch.setattr(create_module, "begin", die)
        await create(edge, LOCAL_TENANT, run_id, RlRunSpec.of(spec(dataset)))
    await until_phase(lab, run_id, "running")
    assert lab.http.post(f"rl_runs/{run_id}/cancel").status_code == 200
    await until_phase(lab, run_id, "cancelled")
    delete(lab, run_id)


async def test_what_is_left_of_a_run_without_a_record_goes_with_its_next_command(
    edge: Edge, run_id: str
) -> None:
    store = Store(edge.bus, LOCAL_TENANT, run_id)
    await store.begin(State())
    await drive(edge, LOCAL_TENANT, DriveCommand(run_id=run_id, order=1))
    assert await edge.bus.subjects(RL, store.subject(">")) == []

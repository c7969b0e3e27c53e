"""Who watches a run hears of a row or another phase as soon as there is one, and asks nothing meanwhile."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from events.edge import Edge
from events.keys import LOCAL_TENANT
from rekindle.types.rl import MetricsQuery, MetricsRow
from services.data.rl.news import rows_or_phase
from services.data.rl.state import State
from services.data.rl.store import Hold, Store
from tests.data.lab import Lab
from tests.data.rl.test_rl_api import dataset, delete, spec
from tests.data.rl.town import settings_for

__all__ = ["dataset"]
WAITING = MetricsQuery(wait=3600.0, phase="running")


@pytest.fixture
async def edge(lab: Lab) -> AsyncIterator[Edge]:
    edge = await Edge.open(settings_for(lab.nats_url, lab.blobs), "test")
    yield edge
    await edge.bus.close()


@pytest.fixture
async def store(edge: Edge) -> AsyncIterator[Store]:
    store = Store(edge.bus, LOCAL_TENANT, f"rl-{uuid.uuid4().hex[:16]}")
    await store.begin(State())
    yield store
    await store.remove()


async def waiting(
    edge: Edge, store: Store, query: MetricsQuery = WAITING
) -> "asyncio.Task[list[MetricsRow]]":
    """A poll that has found nothing yet."""
    poll = asyncio.create_task(rows_or_phase(edge, store, query))
    for _ in range(3):
        await store.read()
    assert not poll.done()
    return poll


async def test_a_row_ends_the_wait_and_a_state_in_the_same_phase_does_not(edge: Edge, store: Store) -> None:
    poll, hold = await waiting(edge, store), await Hold.take(store)
    await hold.commit(State(cursor=1))
    assert await store.read() and not poll.done()
    await hold.write_row(MetricsRow(row=0, step=0))
    assert [row.row for row in await poll] == [0]
    assert [row.row for row in await rows_or_phase(edge, store, WAITING)] == [0], "there already"
    poll = await waiting(edge, store, WAITING.model_copy(update={"after": 0}))
    await hold.write_row(MetricsRow(row=1, step=1))
    assert [row.row for row in await poll] == [1]


async def test_another_phase_ends_the_wait(edge: Edge, store: Store) -> None:
    poll, hold = await waiting(edge, store), await Hold.take(store)
    await hold.commit(State(phase="paused", reason="so"))
    assert await poll == []
    assert await rows_or_phase(edge, store, WAITING) == [], "it is another than the known one"


async def test_a_wait_ends_with_its_time_and_with_the_process(edge: Edge, store: Store) -> None:
    assert await rows_or_phase(edge, store, MetricsQuery(wait=0.05, phase="running")) == []
    poll = await waiting(edge, store)
    edge.futures.release()
    assert await poll == []


def test_a_poll_over_http_hears_of_a_pause(lab: Lab, dataset: str) -> None:
    run_id = lab.http.post("rl_runs", json=spec(dataset)).json()["id"]

    def poll(**query: object) -> object:
        return lab.http.get(f"rl_runs/{run_id}/metrics", params=query, timeout=60).json()

    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(poll, wait=20, phase="running")
        assert lab.http.post(f"rl_runs/{run_id}/pause").status_code == 200
        assert answer.result(60) == {"rows": [], "next": -1}
    assert lab.http.get(f"rl_runs/{run_id}").json()["phase"] == "paused"
    assert lab.http.get(f"rl_runs/{run_id}/metrics", params={"wait": -1}).status_code == 400
    delete(lab, run_id)

"""A run that is deleted leaves nothing, and nothing of another run that gets its id goes with it."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from events import catalog, envelope, names
from events.checkpoints import Checkpoints
from events.commands import ReleaseCommand
from events.edge import Edge
from events.keys import LOCAL_TENANT
from events.record_store import Records
from events.records import LoraShape, ModelRecord, RlRunRecord, RowsRef, RunRecord, SessionRecord
from events.streams import CHECKPOINT, RL
from rekindle.types.rl import RlRunSpec
from services.checkpoint.release import Release
from services.data.rl import create as create_module
from services.data.rl import drive as drive_module
from services.data.rl import ids
from services.data.rl.create import Fixed, create
from services.data.rl.drive import drive
from services.data.rl.messages import Create, Publish
from services.data.rl.publish import TrainingLog
from services.data.rl.queue import DriveCommand
from services.data.rl.store import Store
from tests.data.rl.rl_world import make_spec
from tests.data.rl.town import settings_for
from tests.events.nats_process import NatsProcess

MODEL = ModelRecord(name="tiny", source="tiny", arch="qwen3", vocab_size=64, context_length=64)
ROWS = RowsRef(name="sums", version=1, sha256="0" * 64, blob="rows", rows=9)
SPEC = make_spec()


@pytest.fixture(scope="module")
def nats(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsProcess]:
    with NatsProcess(tmp_path_factory.mktemp("nats")) as server:
        yield server


@pytest.fixture
async def edge(nats: NatsProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Edge]:
    async def fix(edge: Edge, tenant: str, spec: RlRunSpec) -> Fixed:
        return Fixed(spec, MODEL, LoraShape(rank=8, seed=0), ROWS, None)

    monkeypatch.setattr(create_module, "fix", fix)
    edge = await Edge.open(settings_for(nats.url, tmp_path / "blobs"), "test")
    edge.activity.ready.set()
    yield edge
    await edge.bus.close()


@pytest.fixture
def run_id() -> str:
    return f"rl-{uuid.uuid4().hex[:16]}"


async def train(edge: Edge, run: RlRunRecord) -> None:
    """Its session, its training run and a sampler of it."""
    nothing: Any = None
    log = TrainingLog(edge, LOCAL_TENANT, run, nothing, nothing)
    await log.create(Create())
    await log.weights(Publish(version=0, seq=1))


async def say_delete(edge: Edge, run: RlRunRecord) -> DriveCommand:
    word = await Store(edge.bus, LOCAL_TENANT, run.session_id).say("cancel", remove=True)
    return DriveCommand(run_id=run.run_id, session=run.session, order=word.order)


async def release_all(edge: Edge) -> None:
    """What the checkpoint service has been told to, at last."""
    release = Release(edge.bus, edge.blobs, edge.records, Checkpoints(edge.bus, edge.records))
    async for stored in edge.bus.walk(CHECKPOINT, "checkpoint.>"):
        if stored.event.get_type() == catalog.RELEASE:
            command = ReleaseCommand.model_validate_json(envelope.data_of(stored.event))
            await release(LOCAL_TENANT, command)
    await edge.bus.purge(CHECKPOINT, "checkpoint.>")


async def log_of(edge: Edge, run: RlRunRecord) -> list[str]:
    root = names.run_root(run.base, LOCAL_TENANT, run.training_run)
    return await edge.bus.subjects(names.run_stream(run.base), f"{root}.>")


def then(does: Callable[..., Awaitable[None]], after: Callable[[], Awaitable[None]]) -> Any:
    async def both(*arguments: Any, **options: Any) -> None:
        await does(*arguments, **options)
        await after()

    return both


@pytest.mark.parametrize(
    ("where", "stage"), [(drive_module, "end_session"), (Records, "forget_this"), (Store, "remove")]
)
async def test_a_run_that_gets_the_id_of_one_that_is_being_deleted_keeps_all_that_it_makes(
    edge: Edge, run_id: str, monkeypatch: pytest.MonkeyPatch, where: Any, stage: str
) -> None:
    old = await create(edge, LOCAL_TENANT, run_id, SPEC)
    await train(edge, old)
    command = await say_delete(edge, old)
    made: list[RlRunRecord] = []

    async def ask_again() -> None:
        try:
            made.append(await create(edge, LOCAL_TENANT, run_id, SPEC))
        except create_module.Busy:
            return
        await train(edge, made[0])

    with monkeypatch.context() as patch:
        patch.setattr(where, stage, then(getattr(where, stage), ask_again))
        await drive(edge, LOCAL_TENANT, command)
    if not made:
        await ask_again()
    await drive_module._remove(edge, LOCAL_TENANT, old, Store(edge.bus, LOCAL_TENANT, old.session_id))
    await release_all(edge)

    (new,) = made
    assert await edge.records.get_anew(RlRunRecord, LOCAL_TENANT, run_id) == new != old
    assert (await Store(edge.bus, LOCAL_TENANT, new.session_id).read())[0].state.phase == "running"
    assert len(await log_of(edge, new)) == 2 and await log_of(edge, old) == []
    assert (await edge.records.get(RunRecord, LOCAL_TENANT, new.training_run)).closed is False
    assert (await edge.records.get(SessionRecord, LOCAL_TENANT, new.session_id)).ended is None
    assert ids.sampler(new.session_id, 0) != ids.sampler(old.session_id, 0)
    assert await edge.bus.subjects(RL, names.rl_subject(LOCAL_TENANT, old.session_id, ">")) == []


async def test_a_run_that_is_being_deleted_is_in_the_way_of_another_until_it_is_gone(
    edge: Edge, run_id: str
) -> None:
    old = await create(edge, LOCAL_TENANT, run_id, SPEC)
    command = await say_delete(edge, old)
    for spec in (SPEC, make_spec(steps=2)):
        with pytest.raises(create_module.Busy, match="is being deleted"):
            await create(edge, LOCAL_TENANT, run_id, spec)
    await drive(edge, LOCAL_TENANT, command)
    assert (await create(edge, LOCAL_TENANT, run_id, make_spec(steps=2))).spec.steps == 2


async def test_a_run_that_is_deleted_while_it_begins_is_not_driven_for_ever_unseen(
    edge: Edge, run_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = await create(edge, LOCAL_TENANT, run_id, SPEC)
    store = Store(edge.bus, LOCAL_TENANT, run.session_id)
    begin = drive_module.begin

    async def begin_late(store: Store, run: RlRunRecord) -> None:
        await drive(edge, LOCAL_TENANT, await say_delete(edge, run))
        await begin(store, run)

    monkeypatch.setattr(drive_module, "begin", begin_late)
    async with asyncio.timeout(30):
        await drive(edge, LOCAL_TENANT, DriveCommand(run_id=run_id, session=run.session, order=1))
    assert await edge.bus.subjects(RL, store.subject(">")) == []


async def test_records_from_before_runs_had_sessions_of_their_own_are_read() -> None:
    run = RlRunRecord(
        run_id="rl-0123456789abcdef",
        spec=SPEC,
        digest="",
        base="tiny",
        lora=LoraShape(rank=8, seed=0),
        dataset=ROWS,
        created=datetime(2026, 1, 2, tzinfo=UTC),
    )
    assert (run.session_id, run.training_run) == (run.run_id, f"{run.run_id}:train:0")

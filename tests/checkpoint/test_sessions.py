"""Open sessions whose clients have died end by themselves; those that live keep what they need and no more."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest

from events import envelope, idle, ids, names
from events.blobs import FolderBlobs
from events.bus import Bus
from events.checkpoints import CheckpointEntry, Checkpoints, entry_event
from events.failure import NotFound
from events.record_store import Records
from events.records import LoraShape, RunRecord, SamplerRecord, SessionRecord
from events.streams import CHECKPOINT, RESULTS
from rekindle.types import TinkerPath
from services.checkpoint.release import Release
from services.checkpoint.sessions import Sessions
from tests.events.nats_process import NatsProcess

T, BASE = "anne", "org/tiny"
NOW = datetime.now(UTC)
PATIENCE = timedelta(days=7)
DAYS_2, DAYS_8 = NOW + timedelta(days=2), NOW + timedelta(days=8)


@pytest.fixture(scope="module")
def nats(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsProcess]:
    with NatsProcess(tmp_path_factory.mktemp("nats")) as server:
        yield server


@dataclass
class Home:
    """A session of one run, and who looks after it."""

    bus: Bus
    blobs: FolderBlobs
    records: Records
    session: str

    @property
    def run(self) -> str:
        return ids.model_id(self.session, 0)

    @property
    def sessions(self) -> Sessions:
        return Sessions(
            Release(self.bus, self.blobs, self.records, Checkpoints(self.bus, self.records)), PATIENCE
        )

    async def begin(self) -> None:
        await self.bus.ensure_run_stream(BASE)
        await self.records.create(T, self.session, SessionRecord(session_id=self.session, created=NOW))
        run = RunRecord(
            run_id=self.run, session_id=self.session, base=BASE, lora=LoraShape(rank=2, seed=0), created=NOW
        )
        await self.records.create(T, self.run, run)

    async def sampler(self, number: int, *, named: bool = False, at: datetime = NOW) -> SamplerRecord:
        """With its weights, unnamed unless said."""
        path = TinkerPath(self.run, "sampler_weights", f"kept-{number}" if named else f"unnamed-{number:06d}")
        blob = f"{names.token(T)}/{self.session}/{path.name}"
        await self.blobs.put(blob, b"weights")
        entry = CheckpointEntry(
            run_id=self.run, base=BASE, kind="sampler_weights", name=path.name, number=number, step=number,
            lora=LoraShape(rank=2, seed=0), blob=blob, size_bytes=7, created=at, ephemeral=not named,
        )  # fmt: skip
        subject = names.checkpoint_subject(BASE, T, self.run, "sampler_weights", path.name)
        await self.bus.append(subject, entry_event(T, "train", entry))
        sampler = SamplerRecord(
            sampler_id=ids.sampler_id(self.session, number), session_id=self.session, base=BASE,
            path=str(path), ephemeral=not named, created=at,
        )  # fmt: skip
        return await self.records.create(T, sampler.sampler_id, sampler)

    async def has(self, sampler: SamplerRecord) -> bool:
        """Whether the sampler and its weights are there, both or none."""
        entry = TinkerPath.parse(str(sampler.path))
        try:
            await self.records.get(SamplerRecord, T, sampler.sampler_id)
            await self.blobs.get(f"{names.token(T)}/{self.session}/{entry.name}")
        except NotFound:
            with pytest.raises(NotFound):
                await Checkpoints(self.bus, self.records).find(T, entry)
            return False
        return True

    async def is_planned(self) -> bool:
        later = names.later_subject(names.look_subject(T, self.session))
        return await self.bus.last(CHECKPOINT, later) is not None

    async def standing(self) -> SessionRecord | None:
        try:
            return await self.records.get(SessionRecord, T, self.session)
        except NotFound:
            return None


@pytest.fixture
async def home(nats: NatsProcess, tmp_path: Path) -> AsyncIterator[Home]:
    bus = await Bus.connect(nats.url, name="test")
    await bus.ensure_shared_streams()
    home = Home(bus, FolderBlobs(tmp_path / "blobs"), Records(bus), str(uuid4()))
    await home.begin()
    yield home
    await bus.close()


async def test_a_session_of_which_nothing_was_heard_for_days_ends_with_all_that_is_unnamed(
    home: Home,
) -> None:
    sampler = await home.sampler(1)
    await idle.plan_look(home.bus, T, home.session, NOW)
    await home.sessions.look(T, home.session, DAYS_8)
    assert await home.standing() is None and not await home.is_planned()
    with pytest.raises(NotFound):
        await home.records.get_anew(SamplerRecord, T, sampler.sampler_id)
    with pytest.raises(NotFound):
        await home.records.get_anew(RunRecord, T, home.run)


async def test_its_named_checkpoints_stay(home: Home) -> None:
    named = await home.sampler(1, named=True)
    await home.sessions.look(T, home.session, DAYS_8)
    standing = await home.standing()
    assert standing is not None and standing.ended == "expired"
    await Checkpoints(home.bus, home.records).find(T, TinkerPath.parse(str(named.path)))


async def test_a_client_that_was_heard_keeps_its_session_and_is_looked_after_again(home: Home) -> None:
    session = await home.standing()
    assert session is not None
    await idle.notice(home.records, T, session, NOW + timedelta(days=6))
    await home.sessions.look(T, home.session, DAYS_8)
    standing = await home.standing()
    assert standing is not None and standing.ended is None and await home.is_planned()


async def test_a_word_is_kept_once_an_hour(home: Home) -> None:
    session = await home.standing()
    assert session is not None
    await idle.notice(home.records, T, session, NOW + timedelta(minutes=50))
    assert await home.standing() == session
    await idle.notice(home.records, T, session, NOW + timedelta(minutes=70))
    standing = await home.standing()
    assert standing is not None and standing.seen == NOW + timedelta(minutes=70)


async def test_a_command_is_a_sign_of_life_too(home: Home) -> None:
    """The entry that the run's log got just now is within the patience of a look in six days."""
    await home.sampler(1)
    await home.sessions.look(T, home.session, datetime.now(UTC) + timedelta(days=6, hours=23))
    assert (await home.standing()) is not None


async def test_a_client_that_speaks_while_it_is_being_ended_goes_on(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    sessions, heard = home.sessions, DAYS_8 - timedelta(minutes=1)
    last_heard = Sessions._last_heard

    async def late(self: Sessions, tenant: str, session: SessionRecord) -> datetime:
        found = await last_heard(self, tenant, session)
        await idle.notice(home.records, T, session, heard)
        return found

    monkeypatch.setattr(Sessions, "_last_heard", late)
    await sessions.look(T, home.session, DAYS_8)
    standing = await home.standing()
    assert standing is not None and (standing.ended, standing.seen) == (None, heard)
    assert await home.is_planned()


async def test_unnamed_weights_go_a_day_later_but_for_the_newest_and_those_in_use(home: Home) -> None:
    old, used, shared, newest = [await home.sampler(n, at=NOW + timedelta(seconds=n)) for n in range(4)]
    named = await home.sampler(4, named=True)
    reader = shared.model_copy(update={"sampler_id": ids.sampler_id(home.session, 9), "ephemeral": False})
    await home.records.create(T, reader.sampler_id, reader)
    await home.sessions.look(T, home.session, NOW + timedelta(hours=23))
    assert all([await home.has(one) for one in (old, used, shared, newest, named)])
    result = envelope.make_event("test", id="1", tenant=T, service="sample", subject="s", data=b"{}")
    await home.bus.append(names.result_subject("sample", T, used.sampler_id, 0), result)
    answered = await home.bus.last(RESULTS, names.result_filter("sample", T, used.sampler_id))
    assert answered is not None
    await home.sessions.look(T, home.session, answered.time + timedelta(hours=24))
    assert [await home.has(one) for one in (old, used, shared, newest, named)] == [
        False,
        True,
        True,
        True,
        True,
    ]
    await home.sessions.look(T, home.session, answered.time + timedelta(hours=25))
    assert [await home.has(one) for one in (used, shared, newest, named)] == [False, True, True, True]


async def test_a_session_that_is_over_is_no_longer_looked_after(home: Home) -> None:
    await home.sessions.look(T, "nobody", NOW)
    await home.sessions.look(T, home.session, DAYS_8)
    await home.sessions.look(T, home.session, DAYS_8)
    assert not await home.is_planned()

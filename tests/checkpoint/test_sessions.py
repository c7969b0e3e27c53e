"""Open sessions whose clients have died end by themselves; those that live keep what they need and no more."""

import asyncio
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
from events.failure import BlobsUnavailable, NotFound
from events.idle import LookCommand
from events.reads import Stored
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

    async def sampler(
        self,
        number: int,
        *,
        named: bool = False,
        at: datetime = NOW,
        called: str | None = None,
        saved: bool = True,
    ) -> SamplerRecord:
        """With its weights, unnamed unless said."""
        name = called or (f"kept-{number}" if named else f"unnamed-{number:06d}")
        path = TinkerPath(self.run, "sampler_weights", name)
        if saved:
            await self.save(path, number, named, at)
        sampler = SamplerRecord(
            sampler_id=ids.sampler_id(self.session, number), session_id=self.session, base=BASE,
            path=str(path), ephemeral=not named, created=at,
        )  # fmt: skip
        return await self.records.create(T, sampler.sampler_id, sampler)

    async def save(self, path: TinkerPath, number: int, named: bool, at: datetime) -> None:
        """As the run's trainer."""
        blob = f"{names.token(T)}/{self.session}/{path.name}"
        await self.blobs.put(blob, b"weights")
        entry = CheckpointEntry(
            run_id=self.run, base=BASE, kind="sampler_weights", name=path.name, number=number, step=number,
            lora=LoraShape(rank=2, seed=0), blob=blob, size_bytes=7, created=at, ephemeral=not named,
        )  # fmt: skip
        subject = names.checkpoint_subject(BASE, T, self.run, "sampler_weights", path.name)
        await self.bus.append(subject, entry_event(T, "train", entry))

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

    async def look(self, at: datetime, due: datetime | None = None) -> None:
        await self.sessions.look(T, LookCommand(session_id=self.session, due=due), at)

    async def ask(self, sampler: SamplerRecord) -> None:
        """Queue a sample that nobody draws."""
        event = envelope.make_event("test", id="1", tenant=T, service="sample", subject="s", data=b"{}")
        await self.bus.append(names.sample_subject(BASE, T, self.run, sampler.sampler_id, 0), event)

    async def answer(self, sampler: SamplerRecord) -> datetime:
        """Have a sample drawn; when that was."""
        result = envelope.make_event("test", id="1", tenant=T, service="sample", subject="s", data=b"{}")
        await self.bus.append(names.result_subject("sample", T, sampler.sampler_id, 0), result)
        answered = await self.bus.last(RESULTS, names.result_filter("sample", T, sampler.sampler_id))
        assert answered is not None
        return answered.time

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
    await home.look(DAYS_8)
    assert await home.standing() is None and not await home.is_planned()
    with pytest.raises(NotFound):
        await home.records.get_anew(SamplerRecord, T, sampler.sampler_id)
    with pytest.raises(NotFound):
        await home.records.get_anew(RunRecord, T, home.run)


async def test_its_named_checkpoints_stay(home: Home) -> None:
    named = await home.sampler(1, named=True)
    await home.look(DAYS_8)
    standing = await home.standing()
    assert standing is not None and standing.ended == "expired"
    await Checkpoints(home.bus, home.records).find(T, TinkerPath.parse(str(named.path)))


async def test_a_client_that_was_heard_keeps_its_session_and_is_looked_after_again(home: Home) -> None:
    session = await home.standing()
    assert session is not None
    await idle.notice(home.records, T, session, NOW + timedelta(days=6))
    await home.look(DAYS_8)
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
    await home.look(datetime.now(UTC) + timedelta(days=6, hours=23))
    assert (await home.standing()) is not None


async def test_a_sample_is_a_sign_of_life_for_longer_than_it_is_kept(home: Home) -> None:
    """Who asks for samples and says nothing else: each look tells the next what it knows."""
    answered = await home.answer(await home.sampler(1))
    await home.look(answered + timedelta(hours=12))
    planned = await home.bus.last(CHECKPOINT, names.later_subject(names.look_subject(T, home.session)))
    assert planned is not None
    known = LookCommand.model_validate_json(envelope.data_of(planned.event))
    assert known.heard is not None and known.heard >= answered
    heard = known.model_copy(update={"heard": NOW + timedelta(days=5), "due": DAYS_8})
    await home.sessions.look(T, heard, DAYS_8)
    standing = await home.standing()
    assert standing is not None and standing.ended is None


async def test_a_client_that_speaks_while_it_is_being_ended_goes_on(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = DAYS_8 - timedelta(minutes=1)
    last_heard = Sessions._last_heard

    async def late(self: Sessions, tenant: str, session: SessionRecord) -> datetime:
        found = await last_heard(self, tenant, session)
        await idle.notice(home.records, T, session, heard)
        return found

    monkeypatch.setattr(Sessions, "_last_heard", late)
    await home.look(DAYS_8)
    standing = await home.standing()
    assert standing is not None and (standing.ended, standing.seen) == (None, heard)
    assert await home.is_planned()


async def test_unnamed_weights_go_a_day_later_but_for_the_newest_and_those_in_use(home: Home) -> None:
    old, used, shared, newest = [await home.sampler(n, at=NOW + timedelta(seconds=n)) for n in range(4)]
    named = await home.sampler(4, named=True)
    reader = shared.model_copy(update={"sampler_id": ids.sampler_id(home.session, 9), "ephemeral": False})
    await home.records.create(T, reader.sampler_id, reader)
    await home.look(NOW + timedelta(hours=23))
    assert all([await home.has(one) for one in (old, used, shared, newest, named)])
    answered = await home.answer(used)
    await home.look(answered + timedelta(hours=24))
    assert [await home.has(one) for one in (old, used, shared, newest, named)] == [
        False,
        True,
        True,
        True,
        True,
    ]
    await home.look(answered + timedelta(hours=25))
    assert [await home.has(one) for one in (used, shared, newest, named)] == [False, True, True, True]


async def test_a_session_that_is_over_is_no_longer_looked_after(home: Home) -> None:
    await home.sessions.look(T, LookCommand(session_id="nobody"), NOW)
    await home.look(DAYS_8)
    await home.look(DAYS_8)
    assert not await home.is_planned()


async def test_days_in_which_the_bus_was_away_end_no_session_and_drop_no_weights(home: Home) -> None:
    """The look that was due meanwhile comes before the client has had a chance to say a word."""
    old, _ = await home.sampler(1), await home.sampler(2)
    await home.look(DAYS_8, due=NOW + timedelta(days=1))
    standing = await home.standing()
    assert standing is not None and standing.ended is None and await home.is_planned()
    assert await home.has(old)
    await home.look(DAYS_8, due=DAYS_8 - timedelta(seconds=5))
    assert await home.standing() is None


async def test_the_clock_of_a_gateway_that_is_days_behind_ends_no_session(home: Home) -> None:
    """The bus knows when its word came."""
    session = await home.standing()
    assert session is not None
    behind = {"created": NOW - timedelta(days=30), "seen": NOW - timedelta(days=30)}
    await home.records.replace(T, home.session, session.model_copy(update=behind))
    await home.look(NOW + timedelta(days=6))
    standing = await home.standing()
    assert standing is not None and standing.ended is None


async def test_a_look_has_the_time_of_the_bus_until_somebody_has_done_it(home: Home) -> None:
    assert await idle.said_at(home.bus, T, home.session) is None
    await idle.plan_look(home.bus, T, home.session, datetime.now(UTC) - idle.LOOK)
    async with asyncio.timeout(30):
        while (said := await idle.said_at(home.bus, T, home.session)) is None:  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.02)
    assert said >= NOW
    await home.bus.purge(CHECKPOINT, names.look_subject(T, home.session))
    assert await idle.said_at(home.bus, T, home.session) is None


async def test_weights_that_one_of_several_samplers_uses_stay_for_it(home: Home) -> None:
    idles, busy = [await home.sampler(n, called="inflight") for n in (1, 2)]
    await home.sampler(3)
    answered = await home.answer(busy)
    await home.look(answered + timedelta(hours=24))
    assert await home.has(busy) and await home.has(idles)


async def test_weights_that_somebody_waits_to_sample_from_stay_however_long(home: Home) -> None:
    waited, _ = await home.sampler(1), await home.sampler(2)
    await home.ask(waited)
    await home.look(DAYS_2)
    assert await home.has(waited)


async def test_a_save_that_waits_for_its_trainer_keeps_its_sampler_and_the_newest_there_is(
    home: Home,
) -> None:
    there = await home.sampler(1)
    coming = [await home.sampler(n, saved=False) for n in (2, 3)]
    await home.look(DAYS_2)
    assert await home.has(there)
    for sampler in coming:
        assert await home.records.get_anew(SamplerRecord, T, sampler.sampler_id) == sampler


async def test_weights_whose_files_could_not_be_removed_go_the_next_time(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, newest = await home.sampler(1), await home.sampler(2)

    async def refuse(self: FolderBlobs, key: str) -> None:
        raise BlobsUnavailable("the store is away")

    with monkeypatch.context() as broken:
        broken.setattr(FolderBlobs, "delete", refuse)
        with pytest.raises(BlobsUnavailable):
            await home.look(DAYS_2)
    assert await home.is_planned(), "it is looked after, whatever becomes of this look"
    await home.look(DAYS_2)
    assert (await home.has(old), await home.has(newest)) == (False, True)


async def test_a_checkpoint_that_is_saved_while_its_session_is_released_stays(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until the run's lease is taken its trainer may still answer a save."""
    seize, path = Release._seize, TinkerPath(home.run, "sampler_weights", "kept")
    await home.sampler(1)

    async def late(self: Release, tenant: str, run: RunRecord, root: str) -> None:
        await home.save(path, 2, True, NOW)
        await seize(self, tenant, run, root)

    monkeypatch.setattr(Release, "_seize", late)
    await home.look(DAYS_8)
    entry = await Checkpoints(home.bus, home.records).find(T, path)
    assert await home.blobs.get(f"{names.token(T)}/{home.session}/{path.name}") and not entry.deleted


async def test_a_replica_that_lags_hides_no_checkpoint_from_a_release(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = await home.sampler(1, named=True)

    async def nothing_yet(self: Bus, stream: str, subjects: list[str]) -> list[Stored]:
        found = await last_of(self, stream, subjects)
        return [one for one in found if ".checkpoint." not in one.subject]

    last_of = Bus._last_of
    monkeypatch.setattr(Bus, "_last_of", nothing_yet)
    monkeypatch.setattr(home.bus, "_replicas", 3)
    await home.look(DAYS_8)
    await Checkpoints(home.bus, home.records).find(T, TinkerPath.parse(str(named.path)))

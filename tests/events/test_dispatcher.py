"""The dispatcher on a real NATS, with services that do as the test says."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from cloudevents.core.v1.event import CloudEvent
from prometheus_client import REGISTRY

from events import catalog, envelope, ids, liveness, names
from events.blobs import FolderBlobs
from events.bus import Bus
from events.dispatcher import plan
from events.dispatcher import service as service_module
from events.dispatcher.backlog import (
    DRIVEN_RUNS,
    DataBacklog,
    QueueBacklog,
    RunBacklog,
    backlog_of,
    queue_of,
)
from events.dispatcher.dispatcher import Dispatcher
from events.dispatcher.post import make_client
from events.dispatcher.service import ActivatedService
from events.failure import Failure, NotFound
from events.futures import Futures
from events.lease import RunHolder
from events.platform import ServiceSpec, ServiceStatus, Verdict
from events.reads import Stored
from events.record_store import Records
from events.records import LoraShape, RunRecord, SamplerRecord, ServiceRecord
from events.runlog import RunLog
from events.scoring import SHARD_ITEMS, SHARDING, commands_of, submit
from events.streams import CHECKPOINT, DATA, REWARD, SAMPLE
from events.tasks import end
from events.worker import MOST_OUTSIDE
from rekindle.types import ServiceInfo
from rekindle.types.keys import EVERYONE
from rekindle.types.rewards import ScoreItem, ScoreRequest

TENANT = "local"
GAP = 300.0
MATH = {"type": "math", "params": {"column": "answer"}}
JUDGE = {"type": "remote", "params": {"url": "https://judge.example/score"}}
JUDGES, BOTH = (
    {"type": "weighted", "params": {"graders": [{"weight": 0.5, "grader": one} for one in parts]}}
    for parts in ((JUDGE, JUDGE), (JUDGE, MATH))
)


@dataclass
class Service:
    """A stub: holds activations until it is told to answer, or refuses them."""

    status: int = 200
    held: int = 0
    most: int = 0
    posts: int = 0
    answer: asyncio.Event = field(default_factory=asyncio.Event)
    url: str = ""

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = next(line for line in head.lower().split(b"\r\n") if b"content-length" in line)
                await reader.readexactly(int(length.partition(b":")[2]))
                await self.respond(writer)
        writer.close()

    async def respond(self, writer: asyncio.StreamWriter) -> None:
        self.posts += 1
        if self.status == 200:
            self.held += 1
            self.most = max(self.most, self.held)
            try:
                await self.answer.wait()
            finally:
                self.held -= 1
        writer.write(b"HTTP/1.1 %d x\r\ncontent-length: 0\r\n\r\n" % self.status)
        await writer.drain()


@pytest.fixture
async def stub() -> AsyncIterator[Service]:
    service = Service()
    server = await asyncio.start_server(service.handle, "127.0.0.1", 0)
    service.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    yield service
    service.answer.set()
    server.close()


@dataclass
class Platform:
    """Says what the test says."""

    found: dict[str, ServiceStatus] = field(default_factory=dict)
    specs: list[ServiceSpec] = field(default_factory=list)

    async def services(self) -> list[ServiceSpec]:
        return self.specs

    async def status(self) -> dict[str, ServiceStatus]:
        return self.found


class Lab:
    """One base model and a client's view of it."""

    def __init__(self, bus: Bus, blobs: FolderBlobs, unique: str) -> None:
        self.bus, self.blobs, self.base = bus, blobs, f"model-{unique}"
        self.records, self.log = Records(bus), RunLog(bus, blobs)
        self.platform = Platform()
        self.futures = Futures(bus, blobs, self.records)

    def spec(self, kind: str, url: str, **options: float) -> ServiceSpec:
        name = names.service_name(kind, self.base)
        return ServiceSpec(name=name, kind=kind, base=self.base, url=url, **options)

    async def run(self, name: str = "a") -> RunRecord:
        run_id = f"{self.base}-{name}:train:0"
        lora = LoraShape(rank=1, seed=0)
        record = RunRecord(
            run_id=run_id, session_id=self.base, base=self.base, lora=lora, created=datetime.now(UTC)
        )
        return await self.records.create(TENANT, run_id, record)

    async def command(self, run: RunRecord, number: int) -> None:
        await self.log.submit(TENANT, run, number, catalog.OPTIM_STEP, b"{}")

    async def resolve(self, run: RunRecord, *numbers: int) -> None:
        root = names.run_root(self.base, TENANT, run.run_id)
        holder = await RunHolder.take(self.bus, self.blobs, self.base, TENANT, root)
        for number in numbers:
            event = envelope.make_event(
                catalog.RESOLVED,
                id=ids.future_id(run.run_id, number),
                tenant=TENANT,
                service="train",
                subject=run.run_id,
                data=b"{}",
            )
            await holder.write(f"{root}.result.{number}", event)

    async def sampler(self) -> str:
        sampler_id = f"{self.base}:sample:0"
        record = SamplerRecord(
            sampler_id=sampler_id,
            session_id=self.base,
            base=self.base,
            path=None,
            created=datetime.now(UTC),
        )
        await self.records.create(TENANT, sampler_id, record)
        return sampler_id

    async def sample(self, sampler_id: str, number: int, tokens: int | None = None) -> None:
        extra = {} if tokens is None else {"tokens": str(tokens)}
        event = envelope.make_event(
            catalog.SAMPLE,
            id=ids.future_id(sampler_id, number),
            tenant=TENANT,
            service="gateway",
            subject=sampler_id,
            data=b"{}",
            **extra,
        )
        subject = names.sample_subject(self.base, TENANT, self.base, sampler_id, number)
        await self.bus.append(subject, event)

    def dispatcher(self, http: httpx.AsyncClient, *specs: ServiceSpec) -> Dispatcher:
        self.platform.specs = list(specs)
        return Dispatcher(self.bus, self.blobs, self.platform, http, GAP)

    @contextlib.asynccontextmanager
    async def dispatching(self, *specs: ServiceSpec, count: int = 1) -> AsyncIterator[None]:
        async with make_client("") as http:
            running = [asyncio.create_task(self.dispatcher(http, *specs).run()) for _ in range(count)]
            try:
                yield
                for task in running:
                    assert not task.done(), task.exception()
            finally:
                await end(*running)


@pytest.fixture
def lab(bus: Bus, blobs: FolderBlobs, unique: str, monkeypatch: pytest.MonkeyPatch) -> Lab:
    monkeypatch.setattr(service_module, "LOOK_SECONDS", 0.3)
    return Lab(bus, blobs, unique)


async def until(condition: "object") -> None:
    async with asyncio.timeout(20):
        while not condition():  # type: ignore[operator]  # noqa: ASYNC110
            await asyncio.sleep(0.01)


# The backlog


async def test_a_queue_s_backlog_is_what_is_not_acknowledged(lab: Lab) -> None:
    backlog = QueueBacklog(lab.bus, queue_of("sample", lab.base), capacity=8.0)
    assert await backlog.read() == 0
    sampler = await lab.sampler()
    for number in range(3):
        await lab.sample(sampler, number)
    assert await backlog.read() == 3.0, "without a consumer: all that lies there"
    place = queue_of("sample", lab.base)
    consumer = await lab.bus.js.pull_subscribe(place.filter, durable=f"test-{lab.base}", stream=place.stream)
    (one,) = await consumer.fetch(1)
    assert await backlog.read() == 3.0, "in hand is not done"
    await one.ack_sync()
    assert await backlog.read() == 2.0


async def test_a_queue_s_backlog_is_reckoned_in_tokens_as_far_as_they_are_known(lab: Lab) -> None:
    backlog = QueueBacklog(lab.bus, queue_of("sample", lab.base), capacity=800.0)
    sampler = await lab.sampler()
    await lab.sample(sampler, 0)
    assert await backlog.read() == 100.0
    for _ in range(200):
        backlog.hear("sample.x", {"ce-tokens": "5000"})
    assert await backlog.read() == pytest.approx(5000, rel=1e-3)


async def test_hundreds_of_driven_runs_ask_for_one_replica(lab: Lab) -> None:
    backlog, scale = DataBacklog(lab.bus, queue_of("data", None), capacity=8.0), plan.Scale(9, 8.0)
    others = await backlog.read()

    async def queue(owner: str, type_: str) -> str:
        subject = names.data_subject(lab.base, owner, 1)
        command = envelope.make_event(
            type_, id=owner, tenant=lab.base, service="data", subject="x", data=b"{}"
        )
        await lab.bus.append(subject, command)
        return subject

    runs = [ids.rl_id(f"{lab.base}{number}") for number in range(DRIVEN_RUNS)]
    subjects = await asyncio.gather(*(queue(run, catalog.DRIVE) for run in runs))
    driven = await backlog.read() - others
    assert (driven, plan.wanted(scale, driven)) == (pytest.approx(8.0), 1)
    assert 0 < backlog.hear(names.queued(subjects[0]), {}) == pytest.approx(driven / DRIVEN_RUNS)
    await queue(ids.data_id("ab"), catalog.DERIVE)
    assert await backlog.read() - others - driven == pytest.approx(1.0), "it works, and does not wait"
    await lab.bus.purge(DATA, f"data.{names.token(lab.base)}.>")


@pytest.mark.parametrize(
    ("grader", "each"), [(MATH, 1.0), (BOTH, 1.0), (JUDGE, 4.0 / MOST_OUTSIDE), (JUDGES, 4.0 / MOST_OUTSIDE)]
)
async def test_shards_that_only_wait_for_somebody_outside_ask_for_no_replica_more(
    lab: Lab, grader: dict[str, Any], each: float
) -> None:
    spec = ServiceSpec(name="reward", kind="reward", url="http://x", most=8, capacity=4.0)
    backlog = backlog_of(spec, lab.bus, GAP)
    others, heard, shards = await backlog.read(), [], 9
    stop = await lab.bus.hear(backlog.subject, lambda *said: heard.append(backlog.hear(*said)))
    items = tuple(ScoreItem(prompt="", completion="") for _ in range(SHARD_ITEMS * shards))
    request = ScoreRequest.model_validate(
        {"grader": grader, "items": items, "columns": {"answer": "1"}, "idempotency_key": lab.base}
    )
    commands, digest = commands_of(request)
    await submit(lab.bus, lab.blobs, lab.base, lab.base, request.grader, commands, digest)
    assert await backlog.read() - others == pytest.approx(shards * each)
    while not heard:  # noqa: ASYNC110 - nothing tells
        await asyncio.sleep(0)
    assert heard[0] == pytest.approx(each)
    await stop()
    await lab.bus.purge(REWARD, f"reward.{names.token(lab.base)}.>")


async def test_runs_count_that_have_a_command_without_a_result(lab: Lab) -> None:
    backlog = RunBacklog(lab.bus, lab.base, GAP)
    assert await backlog.read() == 0, "not even a stream"
    one, other, third = await lab.run("a"), await lab.run("b"), await lab.run("c")
    for run in (one, other, third):
        await lab.command(run, 0)
    await lab.command(other, 1)
    assert await backlog.read() == 3
    await lab.resolve(one, 0)
    await lab.resolve(other, 0)
    assert await backlog.read() == 2
    await lab.resolve(other, 1)
    await lab.resolve(third, 0)
    assert await backlog.read() == 0


async def test_rejections_and_runs_behind_a_gap_wake_nobody_until_the_gap_is_given_up(lab: Lab) -> None:
    patient, impatient = RunBacklog(lab.bus, lab.base, GAP), RunBacklog(lab.bus, lab.base, 0.0)
    run = await lab.run()
    await lab.command(run, 0)
    await lab.resolve(run, 0)
    await lab.log.reject(TENANT, run, 1, "wrong")
    assert await patient.read() == 0
    await lab.command(run, 3)
    assert await patient.read() == 0, "2 is missing"
    assert await impatient.read() == 1
    await lab.command(run, 2)
    assert await patient.read() == 1


async def test_what_a_snapshot_contains_is_no_gap(lab: Lab) -> None:
    backlog = RunBacklog(lab.bus, lab.base, GAP)
    run = await lab.run()
    await lab.log.reject(TENANT, run, 0, "wrong")
    await lab.command(run, 1)
    await lab.resolve(run, 1)
    await lab.command(run, 2)
    root, stream = names.run_root(lab.base, TENANT, run.run_id), names.run_stream(lab.base)
    head = envelope.make_event(
        catalog.RECORD, id="h", tenant=TENANT, service="train", subject="r", data=b'{"number": 1}'
    )
    await lab.bus.append(f"{root}.head", head)
    for number in (0, 1):
        await lab.bus.purge(stream, f"{root}.cmd.{number}")
    assert await backlog.read() == 1


# What everybody may know


async def test_how_a_service_fares_stands_in_its_record(lab: Lab, stub: Service) -> None:
    spec = lab.spec("sample", stub.url)
    lab.platform.found[spec.name] = ServiceStatus(state="ready", replicas=2)
    gone = ServiceRecord(about=ServiceInfo(name=f"train-{lab.base}", kind="train"))
    await lab.records.replace(EVERYONE, gone.about.name, gone)
    sampler = await lab.sampler()

    async def until_known(**wanted: object) -> None:
        async with asyncio.timeout(20):
            while not await fares(wanted):  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    async def fares(wanted: dict[str, object]) -> bool:
        with contextlib.suppress(NotFound):
            about = (await lab.records.get(ServiceRecord, EVERYONE, spec.name)).about
            assert (about.kind, about.base_model, about.reason) == ("sample", lab.base, None)
            return wanted.items() <= about.model_dump().items()
        return False

    async with lab.dispatching(spec):
        await until_known(state="ready", replicas=2, queued=0, activations=0)
        with pytest.raises(NotFound):
            await lab.records.get(ServiceRecord, EVERYONE, gone.about.name)
        for number in range(3):
            await lab.sample(sampler, number, tokens=5000)
        await until_known(queued=3, activations=1)
        await lab.bus.purge(SAMPLE, names.sample_filter(lab.base))
        stub.answer.set()
        lab.platform.found[spec.name] = ServiceStatus(state="zero", replicas=0)
        await until_known(state="zero", replicas=0, queued=0, activations=0)


# Activations


async def test_an_activation_is_posted_at_once_and_again_while_there_is_work(lab: Lab, stub: Service) -> None:
    run = await lab.run()
    async with lab.dispatching(lab.spec("train", stub.url, most=8)):
        await asyncio.sleep(0.5)
        assert stub.posts == 0, "no work, no activation"
        await lab.command(run, 0)
        await until(lambda: stub.held == 1)
        stub.answer.set()
        await until(lambda: stub.posts > 2)
        stub.answer.clear()
        await lab.resolve(run, 0)
        await until(lambda: stub.held == 1)
        stub.answer.set()
        await until(lambda: stub.held == 0)
        posts = stub.posts
        await asyncio.sleep(1.0)
        assert stub.posts == posts, "no work is left"
    assert stub.most == 1, "never overlapped"


async def test_a_trainer_gets_a_slot_for_each_run_with_work_up_to_its_bound(lab: Lab, stub: Service) -> None:
    async with lab.dispatching(lab.spec("train", stub.url, most=3)):
        for name in "abcde":
            await lab.command(await lab.run(name), 0)
        await until(lambda: stub.held == 3)
        await asyncio.sleep(0.7)
        assert stub.most == 3


async def test_a_sampler_gets_as_many_slots_as_its_tokens_need(lab: Lab, stub: Service) -> None:
    sampler = await lab.sampler()
    for number in range(40):
        await lab.sample(sampler, number, tokens=100)
    async with lab.dispatching(lab.spec("sample", stub.url, most=64, capacity=100.0)):
        # 12.5 each is the first guess; 100 is what new commands say
        await until(lambda: stub.held == 5)
        for number in range(40, 140):
            await lab.sample(sampler, number, tokens=100)
        await until(lambda: stub.held == 64)


async def test_a_service_that_refuses_is_asked_again_with_pauses(lab: Lab, stub: Service) -> None:
    stub.status = 503
    await lab.command(await lab.run(), 0)
    async with lab.dispatching(lab.spec("train", stub.url, most=8)):
        await until(lambda: stub.posts >= 3)
        assert stub.posts < 20
        stub.status = 200
        await until(lambda: stub.held == 1)


async def test_a_service_that_is_not_there_is_asked_again(lab: Lab, stub: Service) -> None:
    await lab.command(await lab.run(), 0)
    url, stub.url = stub.url, ""
    spec = lab.spec("train", "http://127.0.0.1:9", most=8)
    async with lab.dispatching(spec):
        await asyncio.sleep(0.5)
    async with lab.dispatching(lab.spec("train", url)):
        await until(lambda: stub.held == 1)


class SlowBacklog:
    """Work that is always there, and takes as long to read as the test says."""

    subject, depth = "nothing.>", 1

    def __init__(self) -> None:
        self.reading, self.may_end = asyncio.Event(), asyncio.Event()
        self.may_end.set()

    def hear(self, subject: str, headers: Mapping[str, str]) -> float:
        return 1.0

    async def read(self) -> float:
        self.reading.set()
        await self.may_end.wait()
        return 1.0

    async def waiting(self, before: datetime) -> list[Stored]:
        return []


async def test_an_activation_that_ends_while_the_backlog_is_read_is_counted(lab: Lab, stub: Service) -> None:
    backlog = SlowBacklog()

    async def nothing_known() -> None:
        pass

    async with make_client("") as http:
        one = ActivatedService(lab.bus, lab.spec("train", stub.url), backlog, http, nothing_known)
        running = asyncio.create_task(one.run())
        await until(lambda: stub.held == 1)
        backlog.may_end.clear()
        backlog.reading.clear()
        await backlog.reading.wait()
        stub.answer.set()
        await until(lambda: stub.held == 0 and one.slots.open == 0)
        stub.answer.clear()
        backlog.may_end.set()
        await until(lambda: stub.held == 1)
        await end(running)


async def test_two_dispatchers_hold_each_their_own(lab: Lab, stub: Service) -> None:
    async with lab.dispatching(lab.spec("train", stub.url, most=2), count=2):
        await lab.command(await lab.run(), 0)
        await until(lambda: stub.held == 2)
        await asyncio.sleep(0.5)
        assert stub.most == 2


async def test_services_are_followed_as_they_come_and_change(lab: Lab, stub: Service) -> None:
    sampler = await lab.sampler()
    async with lab.dispatching():
        await lab.sample(sampler, 0)
        spec = lab.spec("sample", stub.url)
        lab.platform.specs = [spec]
        await until(lambda: stub.held == 1)
        for number in range(1, 40):
            await lab.sample(sampler, number)
        lab.platform.specs = [spec.model_copy(update={"most": 3, "seconds": 99.0})]
        await until(lambda: stub.held == 3)
        assert stub.posts == 3, "as a rollout changes bounds and timeouts: what was open stays open"


async def test_a_service_that_is_gone_is_activated_no_more(lab: Lab, stub: Service) -> None:
    gone, stays = lab.spec("train", stub.url), lab.spec("sample", stub.url)
    async with make_client("") as http:
        dispatcher = lab.dispatcher(http, gone, stays)
        await dispatcher._follow()
        before = {service.spec.name: service for service in dispatcher.services}
        assert set(before) == {gone.name, stays.name}
        lab.platform.specs = [stays]
        await dispatcher._follow()
        assert dispatcher.services == [before[stays.name]], "and the other goes on as it was"
        moved = stays.model_copy(update={"url": "http://127.0.0.1:1"})
        lab.platform.specs = [moved]
        await dispatcher._follow()
        assert [service.spec for service in dispatcher.services] == [moved]
        await end(*(task for _, task in dispatcher._kept.values()))


async def test_a_service_that_leaves_while_others_are_told_of_is_counted_no_more(
    lab: Lab, stub: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    stays, gone = lab.spec("sample", stub.url), lab.spec("train", stub.url)
    async with make_client("") as http:
        dispatcher = lab.dispatcher(http, stays, gone)
        await dispatcher._follow()
        say = dispatcher._say

        async def slowly(service: ActivatedService, status: ServiceStatus | None) -> None:
            await say(service, status)
            lab.platform.specs = [stays]
            await dispatcher._follow()

        monkeypatch.setattr(dispatcher, "_say", slowly)
        await dispatcher._check()
        counts = [
            REGISTRY.get_sample_value("rekindle_queue_commands", {"service": spec.name})
            for spec in (stays, gone)
        ]
        assert counts == [0.0, None]
        await end(*(task for _, task in dispatcher._kept.values()))


# The platform's word


async def test_a_verdict_fails_what_waits_and_not_what_comes_later(lab: Lab, stub: Service) -> None:
    sampler, run = await lab.sampler(), await lab.run()
    specs = [lab.spec("train", stub.url), lab.spec("sample", stub.url)]
    await lab.command(run, 0)
    await lab.command(run, 1)
    await lab.sample(sampler, 0)
    verdict = Verdict(at=datetime.now(UTC) + timedelta(seconds=0.05), reason="no memory")
    await asyncio.sleep(0.1)
    await lab.sample(sampler, 1)
    await lab.command(run, 2)
    lab.platform.found = {spec.name: ServiceStatus(state="failed", verdict=verdict) for spec in specs}
    async with lab.dispatching(*specs, count=2):
        for owner, number in ((run.run_id, 0), (run.run_id, 1), (sampler, 0)):
            found = await lab.futures.wait(TENANT, ids.future_id(owner, number), 20.0)
            assert isinstance(found, Failure) and found.category == "server"
            assert "cannot start: no memory" in found.message
        for owner, number in ((run.run_id, 2), (sampler, 1)):
            assert await lab.futures.wait(TENANT, ids.future_id(owner, number), 0.2) is None
        assert await lab.bus.subjects(SAMPLE, names.sample_filter(lab.base)) == [
            names.sample_subject(lab.base, TENANT, lab.base, sampler, 1)
        ]
        await until(lambda: stub.held == 4)  # both of both are tried again, for what came later


async def test_what_cannot_be_read_in_a_queue_ends_no_dispatcher(
    lab: Lab, stub: Service, unique: str
) -> None:
    """Where the reward service was broken into, anything may lie there."""
    request, ours = f"score:{unique}", "/rekindle/t/x"
    spec = ServiceSpec(name=f"reward-{unique}", kind="reward", url=stub.url)
    odd = [("1", ours, catalog.SCORE), (f"{request}:1", "x", catalog.SCORE), (f"{request}:1", ours, "odd")]
    for shard, (id, source, type_) in enumerate(odd, start=11):
        event = CloudEvent({"id": id, "source": source, "type": type_}, b"")
        await lab.bus.append(names.reward_subject(lab.base, request, shard), event)
    await lab.bus.js.publish(names.reward_subject(lab.base, request, 14), b"[" * 100_000)
    await SHARDING.submit(lab.bus, lab.blobs, lab.base, request, [b"{}"], digest="")
    verdict = Verdict(at=datetime.now(UTC) + timedelta(seconds=0.05), reason="no memory")
    await asyncio.sleep(0.1)
    lab.platform.found = {spec.name: ServiceStatus(state="failed", verdict=verdict)}
    async with lab.dispatching(spec):
        found = await lab.futures.wait(lab.base, ids.future_id(request, 0), 20.0)
        assert isinstance(found, Failure) and "no memory" in found.message
    await lab.bus.purge(REWARD, f"reward.{names.token(lab.base)}.>")


class SlowlyJudged(SlowBacklog):
    """Work that nobody waits for, as far as is known; to find that out takes as long as the test says."""

    async def waiting(self, before: datetime) -> list[Stored]:
        self.reading.set()
        await self.may_end.wait()
        return []


async def test_what_comes_while_a_service_is_given_up_is_not_left_waiting(lab: Lab, stub: Service) -> None:
    backlog = SlowlyJudged()
    spec = lab.spec("sample", stub.url)
    async with make_client("") as http:
        lab.platform.specs = [spec]
        dispatcher = Dispatcher(lab.bus, lab.blobs, lab.platform, http, 3600.0)
        await dispatcher._follow()
        service = dispatcher.services[0]
        service.backlog = backlog
        backlog.may_end.clear()
        verdict = Verdict(at=datetime.now(UTC), reason="broken")
        lab.platform.found = {spec.name: ServiceStatus(state="failed", verdict=verdict)}
        judging = asyncio.create_task(dispatcher._check())
        await backlog.reading.wait()  # for what waits since before the verdict
        backlog.reading.clear()
        backlog.may_end.set()
        backlog.may_end.clear()
        await backlog.reading.wait()  # for whether anybody waits
        service._hear("nothing.1", {})
        backlog.may_end.set()
        await judging
        assert not service.slots.resting
        await end(*service._posts, *(task for _, task in dispatcher._kept.values()))


async def test_work_that_nobody_waits_for_outlasts_a_verdict_and_is_tried_seldom(
    lab: Lab, stub: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "LONGEST_PAUSE", 0.1)
    stub.status = 503
    await lab.bus.purge(CHECKPOINT, "checkpoint.>")
    spec = ServiceSpec(name=f"checkpoint-{lab.base}", kind="checkpoint", url=stub.url)

    async def leave(id: str) -> None:
        event = envelope.make_event(
            catalog.RELEASE, id=id, tenant=TENANT, service="gateway", subject=id, data=b"{}"
        )
        await lab.bus.append(names.release_subject(TENANT, id), event)

    await leave(f"{lab.base}-1")
    async with lab.dispatching(spec):
        await until(lambda: stub.posts > 10)
        lab.platform.found = {
            spec.name: ServiceStatus(state="failed", verdict=Verdict(at=datetime.now(UTC), reason="broken"))
        }
        await asyncio.sleep(1.0)
        posts = stub.posts
        await asyncio.sleep(1.5)
        assert stub.posts == posts, "it is tried all the time"
        assert len(await lab.bus.subjects(CHECKPOINT, "checkpoint.>")) == 1, "it is kept"
        stub.status = 200
        await leave(f"{lab.base}-2")
        await until(lambda: stub.held == 1)
    await lab.bus.purge(CHECKPOINT, "checkpoint.>")


async def test_what_a_dead_replica_held_is_free_at_once(lab: Lab, stub: Service, unique: str) -> None:
    living, dead = f"{unique}-1", f"{unique}-2"
    beating = [asyncio.create_task(liveness.beat(lab.bus, name)) for name in (living, dead)]
    async with asyncio.timeout(20):
        while not (await liveness.lives(lab.bus, living) and await liveness.lives(lab.bus, dead)):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    await end(beating[1])
    spec = lab.spec("train", stub.url)
    lab.platform.found = {spec.name: ServiceStatus(state="starting", dead=[dead])}
    async with lab.dispatching(spec), asyncio.timeout(8):
        while await liveness.lives(lab.bus, dead):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert await liveness.lives(lab.bus, living)
    await end(beating[0])


async def test_waiting_clients_hear_which_service_starts(lab: Lab, stub: Service) -> None:
    sampler = await lab.sampler()
    spec = lab.spec("sample", stub.url)
    future = ids.future_id(sampler, 0)
    lab.platform.found = {spec.name: ServiceStatus(state="starting", reason="ended 2 times at its start")}
    await lab.sample(sampler, 0)
    async with lab.dispatching(spec):

        async def said() -> str | None:
            return await lab.futures.why_waiting(TENANT, future, GAP)

        async with asyncio.timeout(20):
            while (reason := await said()) is None:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert reason == f"starting {spec.name} (ended 2 times at its start)"
        lab.platform.found = {spec.name: ServiceStatus(state="ready")}
        async with asyncio.timeout(20):
            while await said() is not None:  # noqa: ASYNC110
                await asyncio.sleep(0.05)

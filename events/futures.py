"""From a request id to its one result.

A result is a record on a subject that derives from the request id, so that any replica can answer any poll and
a restart loses nothing. A gateway keeps one subscription on "a result was stored" and a table of waiters; a
poll costs a waiter and one or two direct reads, never a consumer.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from cloudevents.core.v1.event import CloudEvent

from events import catalog, claims, envelope, ids, metrics, names
from events.blobs import Blobs
from events.bus import Bus
from events.failure import Failure, NotFound, RekindleError
from events.lease import read_head
from events.record_store import Records
from events.records import RunRecord, SamplerRecord, ServiceRecord
from events.streams import DATA, RESULTS, SAMPLE, SCORES
from rekindle.types.keys import EVERYONE

LATER_LOOKED_AT = 16
"""Of the operations behind a missing one: the first that was stored starts the wait."""

OTHERS = ""
"""In place of a result's subject: those who wait for something else."""


class Gone(RekindleError):
    """The result was kept for its time and is no longer there, or the work never was: submit again."""


@dataclass(frozen=True, slots=True)
class Result:
    """A future that resolved well."""

    content_type: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Place:
    """Where a future's command and result stand."""

    command_stream: str
    command_subject: str
    result_stream: str
    result_subject: str
    kind: str
    """`train`, or the work queue: `sample`, `reward`, `data`."""


class Futures:
    """Waits for results on behalf of any number of polls."""

    def __init__(self, bus: Bus, blobs: Blobs, records: Records) -> None:
        self._bus = bus
        self._blobs = blobs
        self._records = records
        self._waiting: defaultdict[str, set[asyncio.Event]] = defaultdict(set)
        self._released = False
        self._listens = False
        self._starting = asyncio.Lock()

    async def start(self) -> None:
        self._bus.on_reconnect(self._look_again)

    async def _listen(self) -> None:
        """Hear of results from the first wait on: a service that nobody polls is not woken by each of them."""
        async with self._starting:
            if not self._listens:
                await self._bus.listen(f"{names.STORED}.>", self._stored)
                self._listens = True

    def _stored(self, subject: str) -> None:
        for event in self._waiting.get(subject.removeprefix(f"{names.STORED}."), ()):
            event.set()

    def _look_again(self) -> None:
        """What was stored while the connection was away was announced to nobody."""
        for events in self._waiting.values():
            for event in events:
                event.set()

    def release(self) -> None:
        """The process ends: whoever waits hears that there is no result yet, and asks the next process."""
        self._released = True
        self._look_again()

    @property
    def released(self) -> bool:
        """Whether polls shall end: the process does."""
        return self._released

    def wake(self, event: asyncio.Event) -> Callable[[], None]:
        """Set `event` whenever a poll of whatever kind must look again: the connection is back, or the process ends.

        Returns what ends that.
        """
        self._waiting[OTHERS].add(event)
        return lambda: self._forget(OTHERS, event)

    async def wait(self, tenant: str, request_id: str, seconds: float) -> Result | Failure | None:
        """The result, or None when there is none after `seconds`.

        Raises NotFound for an unknown training future, Gone for an unknown one of a work queue, ValueError for an
        id that is none.
        """
        owner, number = ids.split_future_id(request_id)
        place = await self._place(tenant, owner, number)
        if isinstance(place, Failure):
            return place
        await self._listen()
        woken = asyncio.Event()
        self._waiting[place.result_subject].add(woken)
        try:
            with metrics.POLLS_WAITING.track_inprogress():
                found = await self._result(place) or await self._without_work(place, request_id)
                deadline = _now() + seconds
                while found is None and not self._released and await _until(woken, deadline - _now()):
                    woken.clear()
                    found = await self._result(place)
                return found or await self._result(place)
        finally:
            self._forget(place.result_subject, woken)

    def _forget(self, subject: str, woken: asyncio.Event) -> None:
        self._waiting[subject].discard(woken)
        if not self._waiting[subject]:
            del self._waiting[subject]

    async def _place(self, tenant: str, owner: str, number: int) -> Place | Failure:
        """Where to look; a run or sampler that was rejected at its creation has failed already."""
        if ":sample:" in owner:
            return await self._sample_place(tenant, owner, number)
        if owner.startswith("score:"):
            manifest = names.manifest_subject("reward", tenant, owner)
            result = names.result_subject("reward", tenant, owner, number)
            return Place(SCORES, manifest, SCORES, result, "reward")
        if owner.startswith("data:"):
            command = names.data_subject(tenant, owner, number)
            return Place(DATA, command, RESULTS, names.result_subject("data", tenant, owner, number), "data")
        run = await self._records.get(RunRecord, tenant, owner)
        if run.rejected is not None:
            return run.rejected
        stream = names.run_stream(run.base)
        command = names.run_subject(run.base, tenant, owner, "cmd", number)
        result = names.run_subject(run.base, tenant, owner, "result", number)
        return Place(stream, command, stream, result, "train")

    async def _sample_place(self, tenant: str, owner: str, number: int) -> Place | Failure:
        try:
            sampler = await self._records.get(SamplerRecord, tenant, owner)
        except NotFound as error:
            raise Gone(str(error)) from error
        if sampler.rejected is not None:
            return sampler.rejected
        command = names.sample_subject(sampler.base, tenant, sampler.owner, owner, number)
        return Place(
            SAMPLE, command, RESULTS, names.result_subject("sample", tenant, owner, number), "sample"
        )

    async def _result(self, place: Place) -> Result | Failure | None:
        stored = await self._bus.first(place.result_stream, place.result_subject)
        return None if stored is None else await self.read(stored.event)

    async def read(self, event: CloudEvent) -> Result | Failure:
        """What a result event says."""
        data = await claims.data_of(self._blobs, event)
        if event.get_type() == catalog.RESOLVED:
            return Result(event.get_datacontenttype() or envelope.JSON, data)
        return Failure.model_validate_json(data)

    async def _without_work(self, place: Place, request_id: str) -> Result | Failure | None:
        """A command that is its own result (rejected, released); raises when there is no command."""
        command = await self._bus.first(place.command_stream, place.command_subject)
        if command is None:
            found = await self._result(place)  # it may have resolved, and gone, between the two looks
            if found is None and place.kind == "train":
                raise NotFound(f"request {request_id!r} is not known")
            if found is None:
                raise Gone(f"request {request_id!r} is not known, or its result has expired")
            return found
        if command.event.get_type() in (catalog.REJECTED, catalog.RELEASED):
            return await self.read_failure(command.event)
        return None

    async def read_failure(self, event: CloudEvent) -> Failure:
        return Failure.model_validate_json(await claims.data_of(self._blobs, event))

    async def why_waiting(self, tenant: str, request_id: str, patience: float) -> str | None:
        """Which earlier number a command waits for, or which service to start; None when it waits for none."""
        owner, number = ids.split_future_id(request_id)
        if ":train:" not in owner:
            return await self._why_service(tenant, owner)
        run = await self._records.get(RunRecord, tenant, owner)
        gap = await self._why_gap(tenant, run, number, patience)
        return gap or await self._word_of("train", run.base)

    async def _why_service(self, tenant: str, owner: str) -> str | None:
        if ":sample:" in owner:
            sampler = await self._records.get(SamplerRecord, tenant, owner)
            return await self._word_of("sample", sampler.base)
        return await self._word_of(ids.QUEUES.get(owner.partition(":")[0], ""), None)

    async def _word_of(self, kind: str, base: str | None) -> str | None:
        """What the dispatcher says of a service."""
        try:
            found = await self._records.get(ServiceRecord, EVERYONE, names.service_name(kind, base))
        except NotFound:
            return None  # nobody activates it
        return found.about.reason

    async def _why_gap(self, tenant: str, run: RunRecord, number: int, patience: float) -> str | None:
        owner = run.run_id
        root = names.run_root(run.base, tenant, owner)
        subjects = await self._bus.subjects(names.run_stream(run.base), f"{root}.cmd.*")
        numbers = {int(subject.rpartition(".")[2]) for subject in subjects}
        head = await read_head(self._bus, names.run_stream(run.base), root)
        missing = next((n for n in range(head.number + 1, number) if n not in numbers), None)
        if missing is None:
            return None
        later = sorted(n for n in numbers if n > missing)[:LATER_LOOKED_AT]
        stored = [await self._bus.first(names.run_stream(run.base), f"{root}.cmd.{n}") for n in later]
        since = min((one.time for one in stored if one is not None), default=datetime.now(UTC))
        waited = (datetime.now(UTC) - since).total_seconds()
        left = max(0, round(patience - waited))
        return f"waiting for operation {missing}, which has not arrived; given up in {left} s"


def _now() -> float:
    return asyncio.get_running_loop().time()


async def _until(event: asyncio.Event, seconds: float) -> bool:
    """Whether it was set in time."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True

"""Who may write a run's results: leases, the fence, and the head from which a log is replayed.

Taking a run appends an epoch to its lease by compare-and-set; every later write of the holder is refused once
another epoch stands there. A head says that a snapshot holds the effect of every command up to a number; what
lies below it may be purged. Nothing here knows what the results are, or when a snapshot is worth its price.
"""

import asyncio
import secrets

from cloudevents.core.v1.event import CloudEvent
from pydantic import BaseModel, ConfigDict
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay, wait_exponential_jitter

from events import catalog, claims, envelope, names
from events.blobs import Blobs
from events.bus import Bus
from events.failure import BusUnavailable, Conflict, RekindleError, StreamFull
from events.order import Entry
from events.reads import Stored
from events.retry import again_when_unavailable

WRITE_SECONDS = 60.0
"""How long a result that cannot be written is tried again."""


class LeaseLost(RekindleError):
    """Somebody else holds the run now: drop it from memory and retry nothing."""


class Lease(BaseModel):
    """The right to a run. Example: Lease(epoch=3, holder="9f…", replica="train-0", suspect=17, deaths=1)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epoch: int
    holder: str
    """Of this one taking: after silence its writer finds itself."""
    replica: str = ""
    """The process; whether it lives permits a take-over and protects nothing."""
    suspect: int | None = None
    """The first command without a result when a dead holder's run was taken."""
    deaths: int = 0
    """How many holders in a row have died with `suspect` unresolved."""


class Head(BaseModel):
    """What a snapshot contains. Example: Head(number=41, blob="local-…/snapshots/41-3", epoch=3)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int
    """Every command up to this one, each with a durable result; -1 = none."""
    blob: str | None
    """Folder of the state; None = there is none, as after a failed creation."""
    epoch: int
    released: bool = False
    """The holder of that epoch has let go of the run."""
    answer: str | None = None
    """JSON result of command `number`, written only after this head."""


async def read_lease(bus: Bus, stream: str, root: str) -> tuple[Lease, int] | None:
    """The standing lease and its place in the stream."""
    stored = await bus.last(stream, f"{root}.lease")
    return None if stored is None else (_lease(stored), stored.sequence)


async def read_head(bus: Bus, stream: str, root: str) -> Head:
    """The newest head; number -1 where there is no snapshot yet."""
    stored = await bus.last(stream, f"{root}.head")
    if stored is None:
        return Head(number=-1, blob=None, epoch=0)
    return Head.model_validate_json(envelope.data_of(stored.event))


async def read_resolved(bus: Bus, stream: str, root: str) -> set[int]:
    """The numbers that have a result."""
    subjects = await bus.subjects(stream, f"{root}.result.*")
    return {int(subject.rpartition(".")[2]) for subject in subjects}


def _lease(stored: Stored) -> Lease:
    return Lease.model_validate_json(envelope.data_of(stored.event))


class RunHolder:
    """The right to write one run's results, under one epoch.

    Writes of a run go out one at a time, each awaited. After silence the holder takes a new epoch, so that nothing
    of the old one can still arrive, and looks before it writes again.
    """

    def __init__(
        self, bus: Bus, blobs: Blobs, base: str, tenant: str, root: str, lease: Lease, sequence: int
    ) -> None:
        self._tenant = tenant
        self._bus = bus
        self._blobs = blobs
        self._stream = names.run_stream(base)
        self.root = root
        self.lease = lease
        self._fence = (f"{root}.lease", sequence)
        self._lock = asyncio.Lock()

    @property
    def epoch(self) -> int:
        return self.lease.epoch

    @classmethod
    async def take(
        cls,
        bus: Bus,
        blobs: Blobs,
        base: str,
        tenant: str,
        root: str,
        *,
        replica: str = "",
        suspect: int | None = None,
        deaths: int = 0,
    ) -> "RunHolder":
        """Take the run: append the next epoch. Raises Conflict when somebody else took it meanwhile."""
        wanted = Lease(epoch=0, holder=secrets.token_hex(8), replica=replica, suspect=suspect, deaths=deaths)
        lease, sequence = await _append_epoch(bus, names.run_stream(base), tenant, root, wanted)
        return cls(bus, blobs, base, tenant, root, lease, sequence)

    async def payload(self, entry: Entry) -> tuple[CloudEvent, bytes]:
        """The command of an entry and its data."""
        stored = await self._read(entry.sequence)
        return stored.event, await claims.data_of(self._blobs, stored.event)

    @again_when_unavailable
    async def resolved(self) -> set[int]:
        """The numbers of this run that have a result. Under our lease no others come but our own."""
        return await read_resolved(self._bus, self._stream, self.root)

    @again_when_unavailable
    async def head(self) -> Head:
        """Where the log begins. Under our lease nobody else moves it."""
        return await read_head(self._bus, self._stream, self.root)

    @again_when_unavailable
    async def result(self, number: int) -> Stored | None:
        """The result of a command, None when it has none yet."""
        return await self._bus.first(self._stream, f"{self.root}.result.{number}")

    @again_when_unavailable
    async def _read(self, sequence: int) -> Stored:
        stored = await self._bus.at(self._stream, sequence)
        if stored is None:
            raise LeaseLost(f"{self.root}: entry {sequence} was purged; another holder has moved the head")
        return stored

    @again_when_unavailable
    async def purge(self, entries: list[Entry], before: int) -> None:
        """Remove these settled commands, and whatever else of the run's commands lies below `before`.

        `before`: a place in the stream below which no command above the head lies. Raises LeaseLost when the run has
        another holder. The stream cannot fence a purge: one that is overtaken after that look removes only what a
        head contains that was fenced.
        """
        standing = await read_lease(self._bus, self._stream, self.root)
        if standing is None or standing[0].holder != self.lease.holder:
            raise LeaseLost(f"{self.root}: epoch {self.epoch} is over")
        await self._bus.purge(self._stream, f"{self.root}.cmd.*", before=before)
        for entry in entries:
            if entry.sequence >= before:
                await self._bus.purge(self._stream, f"{self.root}.cmd.{entry.number}")
            if entry.claim is not None:
                await self._blobs.delete(entry.claim)

    async def write(self, subject: str, event: CloudEvent) -> None:
        """Write one fenced entry. Raises LeaseLost when the run has another holder."""
        async with self._lock:
            doubtful = False
            async for attempt in AsyncRetrying(
                retry=retry_if_exception_type((BusUnavailable, StreamFull)),
                wait=wait_exponential_jitter(multiplier=0.02, max=2.0, jitter=0.05),
                stop=stop_after_delay(WRITE_SECONDS),
                reraise=True,
            ):
                with attempt:
                    if doubtful and await self._stands(subject, event):
                        return
                    doubtful = True
                    await self._append(subject, event)

    async def _append(self, subject: str, event: CloudEvent) -> None:
        try:
            await self._bus.append(subject, event, fence=self._fence)
        except Conflict as error:
            raise LeaseLost(f"{self.root}: epoch {self.epoch} is over") from error

    async def _stands(self, subject: str, event: CloudEvent) -> bool:
        """Whether a write whose acknowledgement was lost has happened, and can no longer happen from now on.

        It may still be on its way: a new epoch, appended upon our own, shuts the door behind it.
        """
        try:
            self.lease, sequence = await _append_epoch(
                self._bus, self._stream, self._tenant, self.root, self.lease, upon=self._fence[1]
            )
        except Conflict as error:
            raise LeaseLost(f"{self.root}: epoch {self.epoch} is over") from error
        self._fence = (self._fence[0], sequence)
        last = await self._bus.last(self._stream, subject)
        return last is not None and last.event.get_id() == event.get_id()


@again_when_unavailable
async def _append_epoch(
    bus: Bus, stream: str, tenant: str, root: str, wanted: Lease, *, upon: int | None = None
) -> tuple[Lease, int]:
    """The next epoch and its place in the stream; after silence it may turn out to be ours already.

    `upon`: the place of the only lease that it may follow. Raises Conflict when somebody else was faster.
    """
    standing = await read_lease(bus, stream, root)
    if standing is not None and standing[0].holder == wanted.holder and standing[1] != upon:
        return standing
    before, last = (0, 0) if standing is None else (standing[0].epoch, standing[1])
    if upon is not None and last != upon:
        raise Conflict(f"{root}: somebody else took the run")
    lease = wanted.model_copy(update={"epoch": before + 1})
    event = envelope.make_event(
        catalog.LEASE,
        id=f"{root}@{lease.epoch}",
        tenant=tenant,
        service="train",
        subject=root,
        data=lease.model_dump_json().encode(),
    )
    return lease, await bus.append(f"{root}.lease", event, expect_last=last)

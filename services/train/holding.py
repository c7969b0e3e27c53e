"""Taking runs and letting them go: whose turn it is to hold a run, and from where its state follows.

A run is free when nobody ever held it, when its holder released it, or when its holder no longer lives. Taking
one that was not released counts a death against its first unresolved command. Knows nothing of computing.
"""

import asyncio
from dataclasses import dataclass

import structlog

from events import catalog, envelope, ids, liveness, names
from events.blobs import Blobs
from events.bus import Bus
from events.lease import Lease, RunHolder, read_head, read_lease, read_resolved
from events.retry import again_when_unavailable
from services.train.held import DEATHS_ALONE, HeldRun, loop_time
from services.train.snapshots import Snapshots

log = structlog.get_logger(__name__)

NO_TRAINER = ""
"""Replica of a lease that was taken only to write: nobody has died over the run."""
LOOK_AGAIN_SECONDS = 1.0
"""After which a run that somebody else holds is looked at again."""


@dataclass(slots=True)
class Holding:
    """The runs' leases, for one replica."""

    bus: Bus
    blobs: Blobs
    base: str
    replica: str
    snapshots: Snapshots

    async def hold(self, run: HeldRun) -> bool:
        """Have the run's lease and state; False when somebody else has it. Raises Conflict or BusUnavailable."""
        run.last_used = loop_time()
        if run.stale:
            await asyncio.gather(*run.writes, return_exceptions=True)
            run.forget()
            run.holder = None
            run.stale = False
        if run.holder is None:
            suspicion = await self._suspicion(run)
            if suspicion is None:
                return False
            await self._take(run, suspicion)
        if run.state is None and run.applied == run.head.number + 1:
            await self.snapshots.load(run)
        return True

    async def is_free(self, run: HeldRun) -> bool:
        """Whether the run, whose it is known then, is ours or can be; the former may be over. Raises BusUnavailable."""
        return run.holder is not None or await self._suspicion(run) is not None

    async def _suspicion(self, run: HeldRun) -> Lease | None:
        """Suspect and deaths for the lease to take; None when the run is not free, or has nothing more to do."""
        while not await self._identify(run):
            await self._catch_up(run)
            if not (run.pending or run.order.beyond()):
                return None
        suspicion = await self._judge(run)
        if suspicion is None:
            run.held_elsewhere_until = loop_time() + LOOK_AGAIN_SECONDS
        return suspicion

    @again_when_unavailable
    async def _identify(self, run: HeldRun) -> bool:
        """Read from its first entry whose run it is; False when another holder has purged it, or the run is deleted."""
        first = run.entries[min(run.pending)] if run.pending else next(iter(run.order.beyond()), None)
        if first is None:
            return bool(run.run_id)
        stored = await self.bus.at(names.run_stream(self.base), first.sequence)
        if stored is not None:
            run.run_id = stored.event.get_subject() or ""
            run.tenant = names.tenant_of(stored.event.get_source())
        return stored is not None

    @again_when_unavailable
    async def _catch_up(self, run: HeldRun) -> None:
        """Learn what became of a run that is not ours."""
        stream = names.run_stream(self.base)
        if await read_lease(self.bus, stream, run.root) is None:
            return run.vanish()
        run.begin_at(await read_head(self.bus, stream, run.root))
        run.resolve(await read_resolved(self.bus, stream, run.root))

    @again_when_unavailable
    async def _judge(self, run: HeldRun) -> Lease | None:
        """Suspect and deaths for the lease to take; None when the run is not free."""
        stream = names.run_stream(self.base)
        standing = await read_lease(self.bus, stream, run.root)
        if standing is None:
            return Lease(epoch=0, holder="")
        lease, _ = standing
        head = await read_head(self.bus, stream, run.root)
        if (head.released and head.epoch == lease.epoch) or lease.replica in (self.replica, NO_TRAINER):
            return lease
        if await liveness.lives(self.bus, lease.replica):
            return None
        run.resolve(await read_resolved(self.bus, stream, run.root))
        suspect = min((n for n in run.pending if n > head.number), default=None)
        deaths = 0 if suspect is None else lease.deaths + 1 if lease.suspect == suspect else 1
        if deaths >= DEATHS_ALONE:
            log.warning("run.suspect", run=run.run_id, number=suspect, deaths=deaths)
        return lease.model_copy(update={"suspect": suspect, "deaths": deaths})

    async def _take(self, run: HeldRun, suspicion: Lease) -> None:
        run.holder = await RunHolder.take(
            self.bus,
            self.blobs,
            self.base,
            run.tenant,
            run.root,
            replica=self.replica,
            suspect=suspicion.suspect,
            deaths=suspicion.deaths,
        )
        # Only now can nobody else add results or move the head: what another holder wrote meanwhile stands.
        head, resolved = await run.holder.head(), await run.holder.resolved()
        if head.answer is not None and head.number not in resolved:
            await self._answer(run, head.number, head.answer)
        run.begin_at(head)
        if run.left_at is None or run.holder.epoch != run.left_at + 1:
            run.forget()  # somebody else may have gone on from there
        run.left_at = None
        run.resolve(resolved)
        await self.snapshots.tidy(run)

    async def _answer(self, run: HeldRun, number: int, answer: str) -> None:
        """The result of the command that the head itself completed."""
        event = envelope.make_event(
            catalog.RESOLVED,
            id=ids.future_id(run.run_id, number),
            tenant=run.tenant,
            service="train",
            subject=run.run_id,
            data=answer.encode(),
        )
        await run.ours.write(f"{run.root}.result.{number}", event)

    async def release(self, run: HeldRun) -> None:
        """Let go of a run whose writes have ended; its next holder need not wait, nor think that we died.

        What is in memory stays, and is used again if nobody else holds the run until then.
        """
        if run.holder is not None:
            await self.snapshots.release(run)
            run.left_at = run.holder.epoch
            run.holder = None

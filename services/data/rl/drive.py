"""What the command does that has a run driven: takes the run, has it driven, sees to what comes after.

A word that has been overtaken by a later one has nothing to be driven for; whoever finds that queues the later one's
command, in case who said it died before that.
"""

import structlog

from events.edge import Edge
from events.failure import BusUnavailable, GivenBack, NotFound, Overtaken
from events.records import RlRunRecord
from events.retry import again_when_unavailable
from services.data.rl.create import begin
from services.data.rl.driver import Driver, Superseded
from services.data.rl.queue import FIRST, DriveCommand, queue_drive
from services.data.rl.report import end_session
from services.data.rl.store import Control, Hold, Store

log = structlog.get_logger(__name__)

PAUSES = (0.5, 1.0, 2.0, 5.0)
"""Seconds until a driver that failed is followed by the next one, by how many have in a row."""


async def drive(edge: Edge, tenant: str, command: DriveCommand) -> None:
    """Drive the run until there is nothing to drive.

    Raises GivenBack where another driver shall go on, Overtaken where one already does, BusUnavailable.
    """
    store = Store(edge.bus, tenant, command.session_id)
    try:
        run = await _run_of(edge, tenant, command)
        if command.order == FIRST:
            await begin(store, run)  # in case who made the run died before that
        word = await store.control()
        if word.order != command.order:
            return await _leave(edge, tenant, run, store, command, f"word {word.order} of the owner's")
        hold = await Hold.take(store)
        await _run_of(edge, tenant, command)  # or else it was deleted meanwhile, and has begun anew
    except NotFound:
        await store.remove()  # it was deleted, perhaps by somebody who died over the rest
        return
    await _drive(edge, tenant, run, command, word, store, hold)


async def _run_of(edge: Edge, tenant: str, command: DriveCommand) -> RlRunRecord:
    """The run that is meant, as it stands. Raises NotFound when it was deleted."""
    run = await edge.records.get_anew(RlRunRecord, tenant, command.run_id)
    if run.session_id != command.session_id:
        raise NotFound(f"{command.run_id} is another run now")
    return run


async def _drive(
    edge: Edge,
    tenant: str,
    run: RlRunRecord,
    command: DriveCommand,
    word: Control,
    store: Store,
    hold: Hold,
) -> None:
    log.info("rl_run.driven", run=run.run_id, word=word.what, starts=hold.starts)
    try:
        await Driver(edge, tenant, run, word, store, hold).drive()
        if word.remove:
            await _remove(edge, tenant, run, store)
    except Superseded as error:
        await _leave(edge, tenant, run, store, command, str(error))
    except (GivenBack, Overtaken, BusUnavailable):
        raise
    except Exception as error:
        log.error("rl_run.driver_failed", run=run.run_id, starts=hold.starts, exc_info=error)
        pause = PAUSES[min(hold.starts, len(PAUSES)) - 1]
        raise GivenBack(f"its driver failed: {error!r}", delay=pause) from error


async def _leave(
    edge: Edge, tenant: str, run: RlRunRecord, store: Store, command: DriveCommand, reason: str
) -> None:
    log.info("rl_run.superseded", run=command.run_id, reason=reason)
    try:
        word = await store.control()
    except NotFound:
        return
    if word.order > command.order:
        await queue_drive(edge, tenant, run, word.order)


@again_when_unavailable
async def _remove(edge: Edge, tenant: str, run: RlRunRecord, store: Store) -> None:
    """Leave nothing of the run behind; without its record nobody begins it again."""
    await end_session(edge, tenant, run, "interrupted", checkpoints=True)
    await edge.records.forget_this(tenant, run.run_id, run)
    await store.remove()

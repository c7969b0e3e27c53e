"""What becomes of work for a service that cannot start: its futures fail, with the platform's reason.

Only on the platform's word, and only what was waiting when it spoke; what comes later is tried again. Doing it
twice, or from two dispatchers, changes nothing: results are written once, a run's under its lease.
"""

from collections import defaultdict
from datetime import UTC, datetime

import structlog
from cloudevents.core.v1.event import CloudEvent

from events import catalog, claims, envelope, ids, names
from events.blobs import Blobs
from events.bus import Bus
from events.dispatcher.backlog import Backlog, queue_of
from events.failure import Conflict, Failure
from events.lease import LeaseLost, RunHolder
from events.platform import ServiceSpec, Verdict
from events.reads import Stored
from events.shards import WHOLE
from events.streams import results_of

log = structlog.get_logger(__name__)


async def fail_waiting(bus: Bus, blobs: Blobs, spec: ServiceSpec, backlog: Backlog, verdict: Verdict) -> None:
    """Fail what waits for a service since before the verdict. Raises BusUnavailable."""
    failure = Failure(
        message=f"{spec.name} cannot start: {verdict.reason}", category="server", retryable=True
    )
    waiting = await backlog.waiting(verdict.at)
    log.error("service.given_up", service=spec.name, waiting=len(waiting), reason=verdict.reason)
    if spec.kind == "train":
        await _fail_runs(bus, blobs, spec.base or "", waiting, failure)
    else:
        for command in waiting:
            await _fail_queued(bus, blobs, spec, command, failure)


async def awaited(backlog: Backlog) -> bool:
    """Whether anybody waits for what is left. Raises BusUnavailable."""
    return any(_has_future(command) for command in await backlog.waiting(datetime.now(UTC)))


def _has_future(command: Stored) -> bool:
    return catalog.BY_TYPE[command.event.get_type()].result is not None


async def _fail_queued(bus: Bus, blobs: Blobs, spec: ServiceSpec, command: Stored, failure: Failure) -> None:
    """A command that nobody waits for stays: it is a promise to be kept later."""
    if not _has_future(command):
        return
    owner, number = ids.split_future_id(command.event.get_id())
    tenant = names.tenant_of(command.event.get_source())
    queue = queue_of(spec.kind, spec.base).stream
    failed = {number, WHOLE} if spec.kind == "reward" else {number}  # one shard lost, and the request is
    for one in failed:
        subject = names.result_subject(spec.kind, tenant, owner, one)
        await bus.append_once(results_of(queue), subject, _failed(command, failure))
    await bus.remove(queue, command.sequence)
    await claims.drop(blobs, command.event)


async def _fail_runs(bus: Bus, blobs: Blobs, base: str, waiting: list[Stored], failure: Failure) -> None:
    by_root: defaultdict[str, list[Stored]] = defaultdict(list)
    for command in waiting:
        by_root[command.subject.rpartition(".cmd.")[0]].append(command)
    for root, commands in by_root.items():
        try:
            await _fail_run(bus, blobs, base, root, commands, failure)
        except (Conflict, LeaseLost):
            log.info("run.held", root=root)  # somebody works on it after all


async def _fail_run(
    bus: Bus, blobs: Blobs, base: str, root: str, commands: list[Stored], failure: Failure
) -> None:
    tenant = names.tenant_of(commands[0].event.get_source())
    holder = await RunHolder.take(bus, blobs, base, tenant, root)
    resolved = await holder.resolved()
    for command in commands:
        number = int(command.subject.rpartition(".")[2])
        if number not in resolved:
            await holder.write(f"{root}.result.{number}", _failed(command, failure))


def _failed(command: Stored, failure: Failure) -> CloudEvent:
    event = command.event
    return envelope.make_event(
        catalog.FAILED,
        id=event.get_id(),
        tenant=names.tenant_of(event.get_source()),
        service="dispatcher",
        subject=event.get_subject() or "",
        data=failure.model_dump_json().encode(),
    )

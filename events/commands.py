"""Commands as edges make them: whose they are, which number they have, what they are about."""

import re
from typing import Any

from fastapi import Request
from pydantic import BaseModel, ConfigDict

from events import catalog, envelope, ids, names
from events.edge import BodyTooLarge, Edge, M, number_field, parse, read_json, text_field
from events.failure import NotFound
from events.quotas import QuotaExceeded
from events.records import ModelRecord, RunRecord, SessionRecord
from rekindle.types import InvalidField
from rekindle.types.keys import EVERYONE
from rekindle.types.requests import UntypedFuture

Answer = dict[str, Any]
MOST_AHEAD = 10_000
"""How far a number may be ahead of those known: each number between that never comes costs an entry."""


def future(run_id: str, number: int) -> Answer:
    """The immediate answer to a training command."""
    request_id = ids.future_id(run_id, number)
    return UntypedFuture(request_id=request_id, model_id=run_id).model_dump(exclude_none=True)


async def numbered(edge: Edge, tenant: str, body: dict[str, Any]) -> tuple[RunRecord, int]:
    """The run and number of a command. Raises InvalidField or NotFound: then it has no place in a log."""
    run_id, number = text_field(body, "model_id"), number_field(body, "seq_id", least=1)
    return await open_run(edge, tenant, run_id, number), number


async def open_run(edge: Edge, tenant: str, run_id: str, number: int) -> RunRecord:
    """A run that takes commands under that number. Raises NotFound or InvalidField."""
    run = await living_run(edge, tenant, run_id)
    if run.closed:
        raise NotFound(f"run {run_id!r} is over: its session has ended")
    await check_reach(edge, tenant, run, number)
    return run


async def open_session(edge: Edge, tenant: str, session_id: str) -> SessionRecord:
    """A session in which things may be made. Raises NotFound."""
    session = await edge.records.get(SessionRecord, tenant, session_id)
    if session.ended is not None:
        raise NotFound(f"session {session_id!r} has ended ({session.ended})")
    return session


async def admit_run(edge: Edge, tenant: str, run_id: str) -> None:
    """Raises QuotaExceeded for a new run beyond the tenant's quota."""

    async def others() -> int:
        runs = await edge.records.all(RunRecord, tenant)
        if any(run.run_id == run_id for run in runs):
            return -1  # it is there: nothing is added
        return sum(run.rejected is None and not run.closed for run in runs)

    await edge.quotas.admit(tenant, "training_runs", others)


async def admit_queued(
    edge: Edge, tenant: str, stream: str, queue_filter: str, subject: str | None = None
) -> None:
    """Raises QuotaExceeded for a command more than the tenant's quota of a work queue admits.

    subject: of the command, where it is known: one that waits there already is no other one.
    """
    subjects = names.tenant_filter(queue_filter, names.token(tenant))

    async def waiting() -> int:
        return len(await edge.bus.subjects(stream, subjects))

    try:
        await edge.quotas.admit_queued(tenant, subjects, waiting)
    except QuotaExceeded:
        if subject is None or await edge.bus.first(stream, subject) is None:
            raise


async def read_numbered(
    request: Request, edge: Edge, tenant: str, kind: type[M]
) -> tuple[RunRecord, int, M | None]:
    """A command with its run and number; None in its place when it was rejected under that number."""
    try:
        body = await read_json(request)
    except BodyTooLarge as error:
        place = peek_json(error.head)
        if len(place) < 2:
            raise
        run, number = await numbered(edge, tenant, place)
        await edge.log.reject(tenant, run, number, str(error))
        return run, number, None
    run, number = await numbered(edge, tenant, body)
    try:
        return run, number, parse(kind, body)
    except InvalidField as error:
        await edge.log.reject(tenant, run, number, str(error))
        return run, number, None


def peek_json(head: bytes) -> dict[str, Any]:
    """The fields that place a command, as far as they stand in the first kilobyte of its body."""
    text = head.decode(errors="replace")
    found: dict[str, Any] = {}
    if run := re.search(r'"model_id"\s*:\s*"([^"\\]+)"', text):
        found["model_id"] = run[1]
    if number := re.search(r'"seq_id"\s*:\s*(\d{1,19})\s*[,}]', text):
        found["seq_id"] = int(number[1])
    return found


async def check_reach(edge: Edge, tenant: str, run: RunRecord, number: int) -> None:
    """Raises InvalidField for a number so far ahead that those before it will never come.

    One within reach of the highest that this edge has seen costs no look at the log.
    """
    root = names.run_root(run.base, tenant, run.run_id)
    if number > edge.highest.get(root, 0) + MOST_AHEAD:
        known = await edge.bus.subjects(names.run_stream(run.base), f"{root}.*.*")  # commands and results
        edge.highest[root] = max((int(subject.rpartition(".")[2]) for subject in known), default=0)
        if number > edge.highest[root] + MOST_AHEAD:
            raise InvalidField("seq_id", f"{number}, more than {MOST_AHEAD} ahead of the run's operations")
    edge.highest[root] = max(number, edge.highest.get(root, 0))


async def living_run(edge: Edge, tenant: str, run_id: str) -> RunRecord:
    """A run that was created. Raises NotFound."""
    run = await edge.records.get(RunRecord, tenant, run_id)
    if run.rejected is not None:
        raise NotFound(f"run {run_id!r} was never created: {run.rejected.message}")
    return run


class ReleaseCommand(BaseModel):
    """What shall leave nothing behind. Example: ReleaseCommand(session_id="0c5e…")."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    session_id: str
    run_id: str | None = None
    """This run with its named checkpoints; None = the whole session, but for named checkpoints."""


async def release(edge: Edge, tenant: str, session_id: str, run_id: str | None = None) -> None:
    """Have a session, or a run with all its checkpoints, removed."""
    id = run_id or session_id
    event = envelope.make_event(
        catalog.RELEASE,
        id=id,
        tenant=tenant,
        service="gateway",
        subject=id,
        data=ReleaseCommand(session_id=session_id, run_id=run_id).model_dump_json().encode(),
    )
    await edge.bus.append(names.release_subject(tenant, id), event)


async def known_model(edge: Edge, base: str) -> ModelRecord:
    """The base model of that name. Raises InvalidField that lists what is served."""
    try:
        return await edge.records.get(ModelRecord, EVERYONE, base)
    except NotFound:
        served = sorted(model.name for model in await edge.records.all(ModelRecord, EVERYONE))
        raise InvalidField("base_model", f"{base!r} is not served; served: {', '.join(served)}") from None

"""When somebody looks after a session: once a day, as long as it is open, for its client may have died.

A client says that it lives many times a minute; of that no more is kept than one record an hour. The bus keeps the
time, so that no service has to run for it. Knows nothing of what is done then.
"""

from datetime import datetime, timedelta

from pydantic import BaseModel, ConfigDict

from events import catalog, envelope, names
from events.bus import Bus
from events.record_store import Records
from events.records import SessionRecord
from events.streams import CHECKPOINT

LOOK = timedelta(days=1)
NOTICE = timedelta(hours=1)


class LookCommand(BaseModel):
    """Which session to look after. Example: LookCommand(session_id="0c5e…")."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    session_id: str


async def notice(records: Records, tenant: str, session: SessionRecord, now: datetime) -> None:
    """The client lives. Raises BusUnavailable."""
    if session.ended is None and now - (session.seen or session.created) > NOTICE:
        await records.amend(SessionRecord, tenant, session.session_id, seen=now)


async def plan_look(bus: Bus, tenant: str, session_id: str, now: datetime) -> None:
    """Have the session looked after in a day; planned again, it is then and not before. Raises BusUnavailable."""
    subject = names.look_subject(tenant, session_id)
    event = envelope.make_event(
        catalog.LOOK,
        id=f"{session_id}@{now.isoformat()}",
        tenant=tenant,
        service="checkpoint",
        subject=session_id,
        data=LookCommand(session_id=session_id).model_dump_json().encode(),
    )
    await bus.append_later(subject, event, now + LOOK)


async def drop_look(bus: Bus, tenant: str, session_id: str) -> None:
    """There is nothing to look after any more."""
    await bus.purge(CHECKPOINT, names.later_subject(names.look_subject(tenant, session_id)))

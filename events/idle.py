"""When somebody looks after a session: once a day, as long as it is open, for its client may have died.

A client says that it lives many times a minute; of that no more is kept than one record an hour. The bus keeps the
time, so that no service has to run for it, and no clock but the bus' says how late it is. Knows nothing of what is
done then.
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
    """Which session to look after. Example: LookCommand(session_id="0c5e…", due="2026-11-23T09:00:00Z")."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    session_id: str
    due: datetime | None = None
    """When the bus is to say so, by the clock of who planned it; None: that was not written down."""
    heard: datetime | None = None
    """When something was heard of its client, as the look before knew: samples are kept for a day; None: it knew
    nothing."""

    def is_late(self, said: datetime) -> bool:
        """Whether the bus was away when it was due, and with it whoever could have heard a client meanwhile."""
        return self.due is not None and said - self.due > NOTICE


async def notice(records: Records, tenant: str, session: SessionRecord, now: datetime) -> None:
    """The client lives. Raises BusUnavailable."""
    if session.ended is None and now - (session.seen or session.created) > NOTICE:
        await records.amend(SessionRecord, tenant, session.session_id, seen=now)


async def plan_look(
    bus: Bus, tenant: str, session_id: str, now: datetime, heard: datetime | None = None
) -> None:
    """Have the session looked after in a day; planned again, it is then and not before. Raises BusUnavailable."""
    command = LookCommand(session_id=session_id, due=now + LOOK, heard=heard)
    event = envelope.make_event(
        catalog.LOOK,
        id=f"{session_id}@{now.isoformat()}",
        tenant=tenant,
        service="checkpoint",
        subject=session_id,
        data=command.model_dump_json().encode(),
    )
    await bus.append_later(names.look_subject(tenant, session_id), event, now + LOOK)


async def said_at(bus: Bus, tenant: str, session_id: str) -> datetime | None:
    """When the bus said that the session is to be looked after; None: somebody has done so."""
    stored = await bus.last(CHECKPOINT, names.look_subject(tenant, session_id))
    return None if stored is None else stored.time


async def drop_look(bus: Bus, tenant: str, session_id: str) -> None:
    """There is nothing to look after any more."""
    await bus.purge(CHECKPOINT, names.later_subject(names.look_subject(tenant, session_id)))

"""The claim check: an event above `CLAIM_BYTES` leaves its data in the blob store and carries `dataref` instead.

A payload lasts as long as its event may. What a training run's log refers to lies in the run's folder and goes with
it, or with its command. Everything else lies in a folder of the day on which all of it has expired; that the folder
then goes is planned before anything is put into it, as a message that the stream itself delivers on that day. What is
for or from the reward service, which runs code of users, lies in folders apart, and that service removes them itself.
Payloads that are no longer needed are deleted sooner where somebody knows; what is forgotten by a process that dies
between two steps expires.
"""

import hashlib
from datetime import UTC, date, datetime, timedelta

from cloudevents.core.v1.event import CloudEvent
from pydantic import BaseModel, ConfigDict

from events import blob_keys, catalog, envelope, ids, names
from events.blobs import Blobs
from events.bus import Bus
from events.confined import is_confined

CLAIM_BYTES = 512 * 1024
COMMAND_DAYS = 30.0
"""How long the payload of a queued command is kept."""
MARGIN_DAYS = 2
"""Of the day that holds an expiry: it ends first, and clocks may differ by a day."""


class ExpireCommand(BaseModel):
    """Payloads that nobody refers to any more. Example: ExpireCommand(day="2026-11-22")."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    day: date
    """Their folder, by the day on which all of it has expired."""


async def keep(blobs: Blobs, base: str, tenant: str, run_id: str, event: CloudEvent) -> CloudEvent:
    """Leave large data of an entry of a run's log with the run; returns what to append."""
    data = envelope.data_of(event)
    if len(data) <= CLAIM_BYTES:
        return event
    return await _leave(blobs, blob_keys.run_claims(base, tenant, run_id), event, data)


async def lend(bus: Bus, blobs: Blobs, tenant: str, event: CloudEvent, days: float, *, on: str) -> CloudEvent:
    """Leave large data of an event that is kept for `days`; returns what to append. Raises BusUnavailable.

    on: the subject that it is for; it says where its payload may lie.
    """
    data = envelope.data_of(event)
    if len(data) <= CLAIM_BYTES:
        return event
    day = (datetime.now(UTC) + timedelta(days=days)).date() + timedelta(days=MARGIN_DAYS)
    confined = is_confined(on)
    await plan_expiry(bus, tenant, day, confined=confined)
    return await _leave(blobs, blob_keys.claims_of_day(tenant, day, confined=confined), event, data)


async def _leave(blobs: Blobs, folder: str, event: CloudEvent, data: bytes) -> CloudEvent:
    key = f"{folder}/{blob_keys.claim_name(event.get_id(), hashlib.sha256(data).hexdigest())}"
    await blobs.put(key, data)
    return CloudEvent({**event.get_attributes(), "dataref": key}, b"")


async def data_of(blobs: Blobs, event: CloudEvent) -> bytes:
    """The event's data, fetched from the store if it was left there. Raises NotFound."""
    key = event.get_extension("dataref")
    return await blobs.get(key) if key else envelope.data_of(event)


async def unclaimed(blobs: Blobs, event: CloudEvent) -> CloudEvent:
    """The event with its data in it. Raises NotFound."""
    attributes = {name: value for name, value in event.get_attributes().items() if name != "dataref"}
    return CloudEvent(attributes, await data_of(blobs, event))


async def drop(blobs: Blobs, event: CloudEvent) -> None:
    """Nobody will read the event again: what it has left in the store goes."""
    key = event.get_extension("dataref")
    if key is not None:
        await blobs.delete(key)


async def plan_expiry(bus: Bus, tenant: str, day: date, *, confined: bool = False) -> None:
    """Have the payloads of a day removed when it begins; planned again, it stays planned once."""
    event = envelope.make_event(
        catalog.EXPIRE_CLAIMS,
        id=ids.future_id(f"{tenant}/claims", day.toordinal()),
        tenant=tenant,
        service="claims",
        subject=str(day),
        data=ExpireCommand(day=day).model_dump_json().encode(),
    )
    at = datetime(day.year, day.month, day.day, tzinfo=UTC)
    await bus.append_later(names.expire_subject(tenant, day, confined=confined), event, at)


async def expire(
    bus: Bus, blobs: Blobs, tenant: str, command: ExpireCommand, *, confined: bool = False
) -> None:
    """Remove the payloads of a day; one that has not come yet is planned again."""
    if command.day > datetime.now(UTC).date():
        await plan_expiry(bus, tenant, command.day, confined=confined)
    else:
        await blobs.delete(blob_keys.claims_of_day(tenant, command.day, confined=confined))

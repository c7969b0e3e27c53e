"""The end of a sampler: what was asked of it, what it has drawn, and its record go.

Promises: repeated, it goes on where it ended; the record goes last. Results that somebody still reads must not be
closed: a sampler without a record has none.
"""

from events import claims, names
from events.blobs import Blobs
from events.bus import Bus
from events.record_store import Records
from events.records import SamplerRecord
from events.streams import RESULTS, SAMPLE


async def close(bus: Bus, blobs: Blobs, records: Records, tenant: str, sampler: SamplerRecord) -> None:
    """Leave nothing of a sampler; its weights are another matter. Raises BusUnavailable."""
    id = sampler.sampler_id
    for stream, subjects in (
        (SAMPLE, names.sampler_filter(sampler.base, tenant, sampler.owner, id)),
        (RESULTS, names.result_filter("sample", tenant, id)),
    ):
        async for stored in bus.walk(stream, subjects):
            await claims.drop(blobs, stored.event)
        await bus.purge(stream, subjects)
    await records.forget(SamplerRecord, tenant, id)

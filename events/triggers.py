"""Triggers and the facts that they have not seen yet: each has a durable consumer of its own on the stream of facts.

A trigger's record is the truth and says from which fact on it sees; its consumer follows the record. Whoever finds one
of them without the other puts that right, so nothing depends on who dies between the two: a fact from before a trigger
was made is never seen, and none from after is missed though nothing runs. Knows nothing of what a trigger does.
"""

from dataclasses import dataclass

from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from events import catalog, envelope, names
from events.bus import Bus
from events.records import KINDS, TriggerRecord
from events.streams import FACTS, RECORDS

ACK_WAIT = 30.0
"""Seconds after which a fact that was taken and not acknowledged is given to somebody else."""
MAX_ACK_PENDING = 1024
OURS = "trigger-"
"""How the names of these consumers begin."""


@dataclass(frozen=True, slots=True)
class Trigger:
    """A trigger, and whose it is."""

    tenant: str
    record: TriggerRecord

    @property
    def consumer(self) -> str:
        return names.trigger_consumer(self.tenant, self.record.spec.name, self.record.first)

    @property
    def facts(self) -> str:
        """Where the facts are that it sees."""
        return names.fact_subject(self.tenant, f"{catalog.PREFIX}{self.record.spec.on}")


async def all_triggers(bus: Bus) -> list[Trigger]:
    """Those of all tenants."""
    found = await bus.last_of_each(RECORDS, names.every_record(KINDS[TriggerRecord]))
    return [
        Trigger(
            names.tenant_of(one.event.get_source()),
            TriggerRecord.model_validate_json(envelope.data_of(one.event)),
        )
        for one in found
    ]


async def watch(bus: Bus, trigger: Trigger) -> None:
    """Make a trigger's consumer, unless it is there."""
    config = ConsumerConfig(
        durable_name=trigger.consumer,
        filter_subject=trigger.facts,
        deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
        opt_start_seq=trigger.record.first,
        ack_policy=AckPolicy.EXPLICIT,
        ack_wait=ACK_WAIT,
        max_ack_pending=MAX_ACK_PENDING,
    )
    await bus.ensure_consumer(FACTS, config)


async def unwatch(bus: Bus, consumer: str) -> None:
    """Remove a consumer, if it is there."""
    await bus.remove_consumer(FACTS, consumer)


async def put_right(bus: Bus) -> list[Trigger]:
    """All triggers, each with its consumer, and no other consumers of triggers."""
    consumers = await _consumers(bus)  # first: whatever has one now has its record already
    found = await all_triggers(bus)
    for trigger in found:
        if trigger.consumer not in consumers:
            await watch(bus, trigger)
    for consumer in consumers.keys() - {trigger.consumer for trigger in found}:
        await unwatch(bus, consumer)
    return found


async def unseen(bus: Bus) -> float:
    """How much there is to do: facts not seen, triggers without a consumer, consumers without a trigger."""
    consumers = await _consumers(bus)
    records = await bus.subjects(RECORDS, names.every_record(KINDS[TriggerRecord]))
    watching = {names.trigger_of_consumer(one) for one in consumers}
    return float(sum(consumers.values()) + len(watching ^ {names.trigger_of_record(one) for one in records}))


async def _consumers(bus: Bus) -> dict[str, int]:
    """Facts that each has not seen, by its name."""
    return {name: count for name, count in (await bus.unsettled(FACTS)).items() if name.startswith(OURS)}

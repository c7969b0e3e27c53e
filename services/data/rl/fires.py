"""One event fires one trigger: the command that says so, and what is remembered of it.

All of it derives from the trigger and the event's (source, id), so that a fact which comes twice is one firing: the
command has one place in the queue, the run has one id, and what came of it is written once.
"""

import hashlib
from collections import deque

from cloudevents.core.v1.event import CloudEvent
from pydantic import JsonValue, TypeAdapter

from events import catalog, envelope, ids, names
from events.bus import Bus
from events.streams import FIRINGS
from events.triggers import Trigger
from rekindle.types.rl import Firing
from services.data.commands import Command, make

MAX_FIRINGS = 1000
"""Of a trigger, in one answer: the newest."""
RUN_DIGITS = 16
ATTRIBUTES = TypeAdapter(dict[str, JsonValue])


class FireCommand(Command):
    """An event that fits a trigger."""

    trigger: str
    first: int
    """Of the trigger's record: one that was made anew under the name is another."""
    event: dict[str, JsonValue]
    """In structured mode."""
    attempt: int = 1

    @property
    def fact(self) -> CloudEvent:
        return envelope.from_message(None, envelope.json_data(self.event))

    @property
    def digest(self) -> str:
        """Of the trigger and the event."""
        fact = self.fact
        named = (self.trigger, str(self.first), fact.get_source(), fact.get_id())
        return hashlib.sha256("\0".join(named).encode()).hexdigest()

    @property
    def owner(self) -> str:
        """Of the commands; each attempt is one."""
        return ids.data_id(self.digest[:32])

    @property
    def run_id(self) -> str:
        """Of the run that is started."""
        return ids.rl_id(self.digest[:RUN_DIGITS])

    def command(self, tenant: str) -> CloudEvent:
        """To be queued."""
        return make(catalog.FIRE, tenant, self.owner, self.attempt, self.trigger, self)


def fire(trigger: Trigger, fact: CloudEvent) -> FireCommand:
    """The command for a fact, which has its data in it."""
    event = ATTRIBUTES.validate_json(envelope.to_json(fact))
    return FireCommand(trigger=trigger.record.spec.name, first=trigger.record.first, event=event)


class Firings:
    """What fired the triggers of a tenant."""

    def __init__(self, bus: Bus, tenant: str) -> None:
        self._bus, self._tenant = bus, tenant

    async def has(self, command: FireCommand) -> bool:
        """Whether it is known what came of the event."""
        return await self._bus.first(FIRINGS, self._subject(command)) is not None

    async def write(self, command: FireCommand, firing: Firing) -> None:
        """Remember what came of it; what stands already stays."""
        event = envelope.make_event(
            catalog.FIRING,
            id=command.digest,
            tenant=self._tenant,
            service="data",
            subject=command.trigger,
            data=firing.model_dump_json().encode(),
        )
        await self._bus.append_once(FIRINGS, self._subject(command), event)

    async def count(self, trigger: Trigger) -> int:
        return len(await self._bus.subjects(FIRINGS, self._filter(trigger)))

    async def newest(self, trigger: Trigger) -> list[Firing]:
        """Newest first."""
        found: deque[Firing] = deque(maxlen=MAX_FIRINGS)
        async for stored in self._bus.walk(FIRINGS, self._filter(trigger)):
            found.appendleft(Firing.model_validate_json(envelope.data_of(stored.event)))
        return list(found)

    async def forget(self, trigger: Trigger) -> None:
        await self._bus.purge(FIRINGS, self._filter(trigger))

    def _filter(self, trigger: Trigger) -> str:
        return names.firing_filter(self._tenant, trigger.record.spec.name, trigger.record.first)

    def _subject(self, command: FireCommand) -> str:
        return names.firing_subject(self._tenant, command.trigger, command.first, command.digest[:32])

"""Triggers at work: facts that fit one become commands, and a command starts a run or calls a webhook.

Promises: what is settled of a fact is so once. A fact is acknowledged when its command is queued; a command ends when
its firing is written down. A run has the id of its firing, so that starting it again is starting it once; a webhook may
be called again by who did not live to write down that it was, with an event of the same id.
"""

import asyncio
import contextlib
from datetime import UTC, datetime, timedelta
from typing import Protocol

import structlog
from cloudevents.core.exceptions import BaseCloudEventException
from cloudevents.core.v1.event import CloudEvent

from events import catalog, claims, envelope, names, triggers
from events.edge import Edge
from events.failure import NotFound
from events.pull import Delivery, Puller
from events.quotas import QuotaExceeded
from events.records import TriggerRecord
from events.retry import until_available
from events.streams import FACTS
from events.triggers import Trigger
from rekindle.types import InvalidField
from rekindle.types.rl import Firing, RlRunSpec
from services.data.commands import submit
from services.data.rl.fires import FireCommand, Firings, fire
from services.data.rl.webhook import NotTaken, Webhooks

log = structlog.get_logger(__name__)


class Start(Protocol):
    """Begins the run of that id, unless it was begun. Raises InvalidField, QuotaExceeded."""

    async def __call__(
        self, edge: Edge, tenant: str, run_id: str, spec: RlRunSpec, *, trigger: str | None
    ) -> object: ...


AT_ONCE = 64
"""Facts of one trigger in hand."""
QUIET = 3.0
"""Seconds without news after which triggers are looked for that nobody has spoken of."""
PAUSES = (5.0, 30.0, 120.0, 600.0, 1800.0, 7200.0)
"""Seconds before a webhook is called again, by how often it was."""


class Watcher:
    """Looks at the facts that triggers wait for, while the replica is active."""

    def __init__(self, edge: Edge) -> None:
        self._edge = edge
        self._news = asyncio.Event()
        self._watched: dict[str, tuple[Trigger, Puller]] = {}
        self._look_again = True

    async def run(self) -> None:
        """Until cancelled."""
        forget = self._edge.activity.on_change(self._news.set)
        try:
            while True:
                await self._edge.activity.until_open()
                await self._watch()
        finally:
            forget()

    async def _watch(self) -> None:
        deaf = await self._edge.bus.listen(names.TRIGGERS_CHANGED, lambda _: self._changed())
        self._look_again = True
        try:
            while self._edge.activity.open:
                self._news.clear()
                await self._follow()
                for trigger, puller in list(self._watched.values()):
                    await puller.want(AT_ONCE)
                    await self._see(trigger, puller.take())
                if not await self._hears():
                    self._look_again = True
        finally:
            if not self._edge.bus.client.is_closed:
                await deaf()
                await self._leave(*self._watched)

    def _changed(self) -> None:
        self._look_again = True
        self._news.set()

    async def _hears(self) -> bool:
        """Whether there was news before long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(QUIET):
                await self._news.wait()
        return self._news.is_set()

    async def _follow(self) -> None:
        """Watch for those triggers that there are."""
        if not self._look_again and not any(puller.gone for _, puller in self._watched.values()):
            return
        self._look_again = False
        found = {one.consumer: one for one in await self._triggers()}
        lost = [name for name, (_, puller) in self._watched.items() if name not in found or puller.gone]
        await self._leave(*lost)
        for name in found.keys() - self._watched.keys():
            puller = Puller(self._edge.bus, FACTS, name, arrived=self._news.set)
            self._watched[name] = found[name], await puller.start()

    @until_available
    async def _triggers(self) -> list[Trigger]:
        return await triggers.put_right(self._edge.bus)

    async def _leave(self, *consumers: str) -> None:
        """What was on its way goes to somebody else at once."""
        for name in consumers:
            _, puller = self._watched.pop(name)
            for delivery in await puller.close():
                await delivery.message.nak()

    async def _see(self, trigger: Trigger, deliveries: list[Delivery]) -> None:
        with self._edge.activity.working():
            for delivery in deliveries:
                await self._look_at(trigger, delivery)

    async def _look_at(self, trigger: Trigger, delivery: Delivery) -> None:
        """Queue the command of a fact that fits; then it has been seen."""
        try:
            command = _command_of(trigger, await self._whole(delivery.event))
        except (ValueError, RecursionError, BaseCloudEventException, NotFound) as error:
            log.error("fact.unreadable", subject=delivery.subject, exc_info=error)
            await delivery.message.term()
            return
        if command is not None:
            await self._queue(trigger.tenant, command)
        await delivery.message.ack()

    @until_available
    async def _whole(self, event: CloudEvent) -> CloudEvent:
        return await claims.unclaimed(self._edge.blobs, event)

    @until_available
    async def _queue(self, tenant: str, command: CloudEvent) -> None:
        await submit(self._edge, tenant, command)


def _command_of(trigger: Trigger, fact: CloudEvent) -> CloudEvent | None:
    """Of a fact that fits. Raises ValueError or RecursionError for one that is no JSON of ours."""
    data = envelope.json_of(fact)
    fits = isinstance(data, dict) and trigger.record.spec.fits(data)
    return fire(trigger, fact).command(trigger.tenant) if fits else None


class Triggers:
    """Does what triggers are for."""

    def __init__(self, edge: Edge, start: Start, webhooks: Webhooks) -> None:
        self._edge = edge
        self._start_run = start
        self._webhooks = webhooks

    async def fire(self, tenant: str, command: FireCommand) -> None:
        """Do what the trigger says of an event, and write down what came of it, unless that is known."""
        record = await self._record(tenant, command)
        if record is None or await Firings(self._edge.bus, tenant).has(command):
            return
        done = await (self._start if record.spec.start is not None else self._call)(tenant, record, command)
        if done is not None:
            await Firings(self._edge.bus, tenant).write(command, done)

    async def given_up(self, tenant: str, command: FireCommand) -> None:
        """The command is over; if nothing came of it, that is written down."""
        if await self._record(tenant, command) is not None:
            failed = firing_of(command, "failed", reason="the server failed at it; its dead letters say more")
            await Firings(self._edge.bus, tenant).write(command, failed)

    async def _record(self, tenant: str, command: FireCommand) -> TriggerRecord | None:
        """None for a trigger that is gone; another of the same name has nothing to do with it."""
        try:
            record = await self._edge.records.get(TriggerRecord, tenant, command.trigger)
        except NotFound:
            return None
        return record if record.first == command.first else None

    async def _start(self, tenant: str, record: TriggerRecord, command: FireCommand) -> Firing:
        try:
            spec = record.spec.spec_for(envelope.json_of(command.fact))
            await self._start_run(self._edge, tenant, command.run_id, spec, trigger=record.spec.name)
        except (InvalidField, QuotaExceeded) as error:
            return firing_of(command, "failed", reason=str(error))
        return firing_of(command, "started", run=command.run_id)

    async def _call(self, tenant: str, record: TriggerRecord, command: FireCommand) -> Firing | None:
        """None: it is called again later."""
        assert record.spec.webhook is not None, "a trigger does one of the two"
        try:
            await self._webhooks.post(record.spec.webhook, command.fact)
        except NotTaken as error:
            if error.hopeless or command.attempt > len(PAUSES):
                return firing_of(command, "failed", reason=f"call {command.attempt}: {error}")
            await self._call_later(tenant, command)
            return None
        return firing_of(command, "called")

    async def _call_later(self, tenant: str, command: FireCommand) -> None:
        """Have the queue itself bring the next attempt: nothing runs meanwhile."""
        again = command.model_copy(update={"attempt": command.attempt + 1})
        subject, edge = names.data_subject(tenant, again.owner, again.attempt), self._edge
        event = await claims.lend(
            edge.bus, edge.blobs, tenant, again.command(tenant), claims.COMMAND_DAYS, on=subject
        )
        at = datetime.now(UTC) + timedelta(seconds=PAUSES[command.attempt - 1])
        await edge.bus.append_later(subject, event, at)


def firing_of(command: FireCommand, outcome: str, **more: str) -> Firing:
    """What came of the command's event."""
    fact = command.fact
    return Firing.model_validate(
        {
            "trigger": command.trigger,
            "event": fact.get_id(),
            "source": fact.get_source(),
            "type": fact.get_type().removeprefix(catalog.PREFIX),
            "subject": fact.get_subject() or "",
            "time": datetime.now(UTC),
            "outcome": outcome,
            **more,
        }
    )

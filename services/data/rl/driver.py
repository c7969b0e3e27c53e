"""Drives one RL run: performs what its state machine says, hears the answers, commits the state between.

Promises: nothing is published that no committed state has decided; a state is committed only by who took the run last.
So a driver may die at any moment, and the next one goes on from the state that stands. It stops when the run is paused
or over, when the owner has said something new (each word has a command of its own, and so a driver of its own), when
somebody else has taken the run, and when its replica shall take no more work.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Literal

import structlog

from events import names, tasks
from events.edge import Edge
from events.failure import CommandFailed, GivenBack, NotFound
from events.records import ModelRecord, RlRunRecord
from events.retry import until_available
from rekindle.types.keys import EVERYONE
from services.data.rl import machine
from services.data.rl.messages import Command, Event, Failed, Finish, TimeUp, Wanted
from services.data.rl.perform import Performer
from services.data.rl.prompts import Prompts
from services.data.rl.report import finish
from services.data.rl.store import Control, Hold, Store

log = structlog.get_logger(__name__)

MAX_STARTS = 20
"""Drivers that may die or fail, one after the other, while the run does not get on."""

Notice = Literal["look", "closed"]
"""The owner may have said something; the replica may have to let go."""


class Superseded(Exception):
    """The owner has said something new, which has a driver of its own."""


class Driver:
    """Drives a run for as long as it may."""

    def __init__(
        self, edge: Edge, tenant: str, run: RlRunRecord, word: Control, store: Store, hold: Hold
    ) -> None:
        self._edge = edge
        self._tenant = tenant
        self._run = run
        self._word = word
        self._store = store
        self._hold = hold
        self._heard: asyncio.Queue[Event | Notice | BaseException] = asyncio.Queue()
        self._at_work: set[asyncio.Task[None]] = set()
        self._files = AsyncExitStack()

    async def drive(self) -> None:
        """Return when the run is paused or over.

        Raises Superseded, GivenBack, Overtaken, BusError, and what nobody has thought of.
        """
        async with self._files, self._listening():
            word = self._word
            await self._take_in([Wanted(what=word.what, order=word.order, reason=word.reason)])
            if self._hold.starts > MAX_STARTS:
                await self._fail(f"{MAX_STARTS} workers in a row died or failed over it; their logs say more")
            if self._hold.state.phase == "running":
                await self._go_on()
        for command in machine.outstanding(self._run.spec, self._hold.state):
            assert isinstance(command, Finish), "nothing else is outstanding when a run does not run"
            await finish(self._edge, self._tenant, self._run, command, self._hold.state.trained)

    async def _go_on(self) -> None:
        """Perform, hear and commit until there is nothing to do."""
        try:
            model = await self._edge.records.get(ModelRecord, EVERYONE, self._run.base)
            prompts = await self._files.enter_async_context(Prompts.open(self._edge, self._run, model.source))
        except (CommandFailed, NotFound) as error:
            await self._fail(str(error))
            return
        performer = Performer(self._edge, self._tenant, self._run, model, prompts, self._hold)
        await self._take_in(await performer.lost(self._hold.state))
        if self._run.spec.stop.minutes is not None:
            self._work(self._time_up(self._run.created + timedelta(minutes=self._run.spec.stop.minutes)))
        self._begin(performer, machine.outstanding(self._run.spec, self._hold.state))
        while self._hold.state.phase == "running":
            self._begin(performer, await self._take_in(await self._events()))

    async def _take_in(self, events: Iterable[Event]) -> Sequence[Command]:
        """Commit what follows from events; the commands that may then be published. Raises Overtaken."""
        state = self._hold.state
        said: list[Command] = []
        for event in events:
            state, commands = machine.step(self._run.spec, state, event)
            said += commands
        if state != self._hold.state:
            await self._hold.commit(state)
        return said

    async def _fail(self, reason: str) -> None:
        """End the run: something is wrong with it that no command can tell."""
        command = machine.outstanding(self._run.spec, self._hold.state)[0]
        await self._take_in([Failed(command=command.id, message=reason, category="server")])

    # Performing

    def _begin(self, performer: Performer, commands: Iterable[Command]) -> None:
        for command in commands:
            if not isinstance(command, Finish):
                self._work(self._perform(performer, command))

    def _work(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._at_work.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: "asyncio.Task[None]") -> None:
        self._at_work.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._heard.put_nowait(error)

    @until_available
    async def _perform(self, performer: Performer, command: Command) -> None:
        self._heard.put_nowait(await performer(command))

    async def _time_up(self, at: datetime) -> None:
        await asyncio.sleep((at - datetime.now(UTC)).total_seconds())
        self._heard.put_nowait(TimeUp())

    # Hearing

    async def _events(self) -> list[Event]:
        """What has happened; waits for at least one event."""
        found: list[Event] = []
        while not found:
            items = [await self._heard.get()]
            items += [self._heard.get_nowait() for _ in range(self._heard.qsize())]
            for item in items:
                if isinstance(item, BaseException):
                    raise item
                if item == "look":
                    await self._look()
                elif item == "closed":
                    await self._let_go()
                else:
                    found.append(item)
        return found

    async def _look(self) -> None:
        """Raises Superseded when the owner has said something new."""
        try:
            word = await self._store.control()
        except NotFound as error:
            raise Superseded("it was deleted") from error
        if word.order != self._word.order:
            raise Superseded(f"word {word.order} of the owner's")

    async def _let_go(self) -> None:
        """Raises GivenBack when the replica shall take no more work."""
        if not self._edge.activity.open:
            await self._hold.commit(self._hold.state)  # it ends well, whether or not the run got on
            raise GivenBack("this replica takes no more work")

    @asynccontextmanager
    async def _listening(self) -> AsyncIterator[None]:
        """Hear of the owner's words and of the replica's end; what is at work is ended with the block."""
        subject = names.stored_subject(self._store.subject("control"))
        quiet = await self._edge.bus.listen(subject, lambda _: self._heard.put_nowait("look"))
        forgets = [
            self._edge.activity.on_change(lambda: self._heard.put_nowait("closed")),
            self._edge.bus.on_reconnect(lambda: self._heard.put_nowait("look")),
        ]
        try:
            await self._look()  # what was said before anybody listened
            await self._let_go()
            yield
        finally:
            for forget in forgets:
                forget()
            await tasks.end(*self._at_work)
            await quiet()

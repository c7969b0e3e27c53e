"""What is kept of an RL run: its state, the owner's last word, a row of metrics for each step.

All of it lies in one stream, one message a subject. Promises: a state is written only over the one that was read
(compare-and-set), so of two who drive a run one is told that it is overtaken and has changed nothing; rows are
written by who holds the state, once each. An owner's word has a number, its order; each is said by a command of its
own, so a word that nobody acts on waits in the queue.
"""

import asyncio
import contextlib
from typing import Literal

from cloudevents.core.v1.event import CloudEvent
from pydantic import BaseModel, ConfigDict

from events import catalog, envelope, names
from events.bus import Bus
from events.failure import Conflict, NotFound, Overtaken
from events.reads import Stored
from events.retry import again_when_unavailable
from events.streams import RL
from rekindle.types.rl import MetricsRow
from services.data.rl.state import State

What = Literal["run", "pause", "cancel"]
PHASE = "ce-phase"
"""Header of a state: the run's phase, for those who hear of it."""
ROWS_AT_ONCE = 64
"""Read together, once there is news; rows are numbered without a gap, so nothing has to be listed to find them."""


class Control(BaseModel):
    """The owner's last word. Example: Control(what="pause", order=4)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    what: What
    order: int
    """1, 2, … in the order in which they were said."""
    reason: str | None = None
    """For people; None: none was given."""
    remove: bool = False
    """Whether nothing of the run shall be left."""


class Standing(BaseModel):
    """The state, and who wrote it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    state: State
    epoch: int = 0
    """How often somebody has begun to drive the run."""
    commits: int = 0
    """Since the beginning of the epoch: no two states are written alike."""
    starts: int = 0
    """How often somebody has begun since the run last got on."""


async def phases(bus: Bus, tenant: str) -> list[str | None]:
    """Of all runs of a tenant; None of one that nobody has driven yet."""
    states = await bus.last_of_each(RL, names.rl_states(tenant))
    return [state.event.get_extension(PHASE.removeprefix("ce-")) for state in states]


class Store:
    """One run's part of the stream, for all who read it."""

    def __init__(self, bus: Bus, tenant: str, session_id: str) -> None:
        self.bus, self.tenant, self.session_id = bus, tenant, session_id

    def subject(self, *parts: str | int) -> str:
        return names.rl_subject(self.tenant, self.session_id, *parts)

    def event(self, type_: str, payload: BaseModel, **extensions: str) -> CloudEvent:
        return envelope.make_event(
            type_,
            id=self.session_id,
            tenant=self.tenant,
            service="data",
            subject=self.session_id,
            data=payload.model_dump_json().encode(),
            **extensions,
        )

    @again_when_unavailable
    async def begin(self, state: State) -> None:
        """Write the first state and the first word, unless they are there."""
        for part, type_, payload in (
            ("state", catalog.RL_STATE, Standing(state=state)),
            ("control", catalog.RL_CONTROL, Control(what="run", order=1)),
        ):
            try:
                await self.bus.append(self.subject(part), self.event(type_, payload), expect_last=0)
            except Conflict:
                continue

    async def read(self) -> tuple[Standing, Stored]:
        """The state as it stands, and its entry. Raises NotFound."""
        stored = await self.bus.last(RL, self.subject("state"))
        if stored is None:
            raise NotFound(f"rl_run {self.session_id!r} does not exist")
        return Standing.model_validate_json(envelope.data_of(stored.event)), stored

    async def control(self) -> Control:
        """The owner's last word. Raises NotFound."""
        return (await self._control())[0]

    async def is_going(self) -> bool:
        """Whether nothing of the run shall be left."""
        try:
            return (await self.control()).remove
        except NotFound:
            return False

    async def _control(self) -> tuple[Control, int]:
        stored = await self.bus.last(RL, self.subject("control"))
        if stored is None:
            raise NotFound(f"rl_run {self.session_id!r} does not exist")
        return Control.model_validate_json(envelope.data_of(stored.event)), stored.sequence

    async def say(
        self, what: What, *, reason: str | None = None, remove: bool = False, anew: bool = False
    ) -> Control:
        """Write the owner's word; one that stands already stands, unless it shall be heard `anew`.

        A run that is to be removed hears no other word. Raises NotFound.
        """
        while True:
            standing, sequence = await self._control()
            if standing.remove or (standing.what == what and not remove and not anew):
                return standing
            word = Control(what=what, order=standing.order + 1, reason=reason, remove=remove)
            event = self.event(catalog.RL_CONTROL, word)
            try:
                await self.bus.append(self.subject("control"), event, expect_last=sequence)
            except Conflict:
                continue
            return word

    async def rows(self, after: int, limit: int) -> list[MetricsRow]:
        """Up to `limit` rows of metrics behind row `after`, ascending."""
        found: list[MetricsRow] = []
        while (left := limit - len(found)) > 0:
            first, count = after + 1 + len(found), min(left, ROWS_AT_ONCE if found else 1)
            page = await asyncio.gather(*(self.row(number) for number in range(first, first + count)))
            for row in page:
                if row is None:
                    return found
                found.append(row)
        return found

    async def row(self, number: int) -> MetricsRow | None:
        """A row of metrics, None if there is none."""
        stored = await self.bus.last(RL, self.subject("metric", number))
        return None if stored is None else MetricsRow.model_validate_json(envelope.data_of(stored.event))

    async def remove(self) -> None:
        """Leave nothing behind; who still drives the run is overtaken."""
        await self.bus.purge(RL, self.subject(">"))


class Hold:
    """Writes a run's state and rows, until somebody else begins to."""

    def __init__(self, store: Store, standing: Standing, sequence: int) -> None:
        self._store = store
        self._standing = standing
        self._sequence = sequence
        self._writing = asyncio.Lock()

    @classmethod
    async def take(cls, store: Store) -> "Hold":
        """Begin to drive: whoever did before can write no more. Raises NotFound."""
        while True:
            found, stored = await store.read()
            hold = cls(store, found, stored.sequence)
            changed = {"epoch": found.epoch + 1, "commits": 0, "starts": found.starts + 1}
            try:
                await hold._write(found.model_copy(update=changed))
            except Overtaken:
                continue
            return hold

    @property
    def state(self) -> State:
        return self._standing.state

    @property
    def starts(self) -> int:
        """How often somebody has begun since the run last got on, this time included."""
        return self._standing.starts

    async def commit(self, state: State) -> None:
        """Write a state in which the run has got on. Raises Overtaken."""
        changed = {"state": state, "commits": self._standing.commits + 1, "starts": 0}
        await self._write(self._standing.model_copy(update=changed))

    async def _write(self, standing: Standing) -> None:
        async with self._writing:
            self._sequence = await self._append(standing)
            self._standing = standing

    @again_when_unavailable
    async def _append(self, standing: Standing) -> int:
        store = self._store
        event = store.event(catalog.RL_STATE, standing, phase=standing.state.phase)
        try:
            return await store.bus.append(store.subject("state"), event, expect_last=self._sequence)
        except Conflict:
            return await self._ours(standing)

    async def _ours(self, standing: Standing) -> int:
        """The place of a write whose acknowledgement was lost. Raises Overtaken."""
        with contextlib.suppress(NotFound):
            found, stored = await self._store.read()
            if found == standing:
                return stored.sequence
        raise Overtaken(f"{self._store.session_id}: somebody else drives it, or it was deleted")

    async def row(self, number: int) -> MetricsRow | None:
        """A row of metrics, None if there is none."""
        return await self._store.row(number) if number >= 0 else None

    @again_when_unavailable
    async def write_row(self, row: MetricsRow) -> None:
        """Write a row of metrics. Raises Overtaken."""
        store = self._store
        async with self._writing:
            fence = (store.subject("state"), self._sequence)
            event = store.event(catalog.RL_METRICS, row)
            try:
                await store.bus.append(store.subject("metric", row.row), event, fence=fence)
            except Conflict as error:
                raise Overtaken(f"{store.session_id}: somebody else drives it, or it was deleted") from error

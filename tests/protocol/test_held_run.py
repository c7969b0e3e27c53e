"""The state of a run follows from its log alone, whoever holds it and whatever happens to them.

Two trainers with the real bookkeeping (`HeldRun`) beside a stream, results and a head that are as simple as can be.
Posts, deliveries (also a second time), turns, writes that land or are refused, snapshots with their purge, releases
and crashes come in any order.
"""

import random
from dataclasses import dataclass, field
from datetime import UTC, datetime

from hypothesis import given, settings
from hypothesis import strategies as st

from events import catalog
from events.lease import Head
from events.order import Entry
from services.train.held import NO_HEAD, HeldRun

NUMBERS = 8
TYPES = (catalog.FORWARD_BACKWARD, catalog.OPTIM_STEP, catalog.REJECTED, catalog.RELEASED)
TIME = datetime(2026, 1, 1, tzinfo=UTC)

Effects = tuple[int, ...]
"""The commands that a state contains, in the order in which they were applied."""


@dataclass
class Stream:
    """All that is durable."""

    entries: list[Entry] = field(default_factory=list)
    types: dict[int, str] = field(default_factory=dict)
    """Of the first entry that a number ever had."""
    results: dict[int, Effects | None] = field(default_factory=dict)
    """None where nothing was computed."""
    head: Head = NO_HEAD
    snapshot: Effects = ()
    epoch: int = 0
    end: int = 0

    def post(self, number: int, type_: str) -> None:
        """A compare-and-set on the number's subject, which a purge empties."""
        if all(entry.number != number for entry in self.entries):
            self.end += 1
            self.entries.append(Entry(number, self.end, type_, TIME))
            self.types.setdefault(number, type_)

    def meant(self, number: int) -> Effects:
        """What a state behind `number` contains, from the order of the log alone."""
        commands = (catalog.FORWARD_BACKWARD, catalog.OPTIM_STEP)
        return tuple(n for n in range(number + 1) if self.types[n] in commands)


@dataclass
class Trainer:
    """One process: its bookkeeping, its state, its results on their way."""

    stream: Stream
    run: HeldRun = field(default_factory=lambda: HeldRun("root"))
    memory: Effects | None = None
    epoch: int | None = None
    """Under which it holds the run."""
    read: int = 0
    waiting: list[tuple[int, Effects]] = field(default_factory=list)

    def start(self) -> None:
        self.run.begin_at(self.stream.head)
        self.run.resolve(self.stream.results)

    def receive(self, count: int) -> None:
        for entry in [one for one in self.stream.entries if one.sequence > self.read][:count]:
            self.run.add(entry)
            self.read = entry.sequence

    def turn(self, most: int) -> None:
        """Take the run if it is not held, and apply what comes next."""
        if not self.run.has_work(0.0):
            return
        if self.run.stale:
            self.run.stale, self.epoch, self.waiting = False, None, []
            self.forget()
        if self.epoch is None:
            self.take()
        if self.memory is None and self.run.applied == self.run.head.number + 1:
            self.memory = self.stream.snapshot
        entries = self.run.next_entries(most)
        self.run.applied += len(entries)
        for entry in entries:
            self.apply(entry)

    def take(self) -> None:
        self.stream.epoch += 1
        self.epoch = self.stream.epoch
        self.run.begin_at(self.stream.head)
        if self.run.left_at is None or self.epoch != self.run.left_at + 1:
            self.forget()
        self.run.left_at = None
        self.run.resolve(self.stream.results)

    def apply(self, entry: Entry) -> None:
        assert self.memory is not None, "a turn begins with a state"
        if entry.is_command:
            self.memory += (entry.number,)
            if entry.number not in self.run.resolved:
                self.waiting.append((entry.number, self.memory))

    def land(self) -> None:
        """The oldest result on its way is written, or meets another's lease."""
        if not self.waiting:
            return
        if self.epoch != self.stream.epoch:
            return self.lose()
        number, effects = self.waiting.pop(0)
        assert number not in self.stream.results, "a number has one result"
        self.stream.results[number] = effects
        self.run.resolve([number])

    def lose(self) -> None:
        self.waiting = []
        self.forget()
        self.run.stale = True

    def snapshot(self) -> None:
        """Head, then the purge of what it contains; refusals get a result before they leave with the log."""
        number = self.run.applied - 1
        due = number > self.run.head.number and self.run.settled(number) and self.memory is not None
        if self.epoch is None or self.run.stale or not due:
            return
        if self.epoch != self.stream.epoch:
            return self.lose()
        assert self.memory is not None
        for n, entry in self.run.entries.items():
            if n <= number and not entry.is_command:
                self.stream.results.setdefault(n, None)
        self.stream.head = Head(number=number, blob=None, epoch=self.epoch)
        self.stream.snapshot = self.memory
        self.stream.entries = [one for one in self.stream.entries if one.number > number]
        self.run.begin_at(self.stream.head)

    def works(self, most: int) -> None:
        """Without trouble."""
        self.receive(NUMBERS)
        self.turn(most)
        for _ in range(len(self.waiting)):
            self.land()

    def hand_over(self) -> None:
        self.snapshot()
        self.release()

    def release(self) -> None:
        if self.epoch == self.stream.epoch and not self.waiting and not self.run.stale:
            self.run.left_at, self.epoch = self.epoch, None

    def forget(self) -> None:
        self.run.forget()
        self.memory = None


@dataclass
class World:
    """Both trainers and the stream between them."""

    stream: Stream = field(default_factory=Stream)
    trainers: list[Trainer] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.trainers = [Trainer(self.stream), Trainer(self.stream)]

    def happen(self, what: str, who: int, value: int) -> None:
        trainer = self.trainers[who]
        match what:
            case "post":
                self.stream.post(value, TYPES[(value + who) % len(TYPES)] if value % 3 else TYPES[who])
            case "receive":
                trainer.receive(2 + value)
            case "receive again":
                trainer.read = max(0, trainer.read - value)
            case "turn":
                trainer.turn(1 + value % 3)
            case "works":
                trainer.works(1 + value % 2)
            case "crash":
                self.trainers[who] = Trainer(self.stream)
                self.trainers[who].start()
            case _:
                getattr(trainer, what)()

    def check(self) -> None:
        for number, effects in self.stream.results.items():
            assert effects is None or effects == self.stream.meant(number)
        assert self.stream.head.number < 0 or self.stream.snapshot == self.stream.meant(
            self.stream.head.number
        )

    def settle(self) -> None:
        """Every number arrives, and one trainer lives long enough."""
        for number in range(NUMBERS):
            self.stream.post(number, catalog.OPTIM_STEP)
        trainer = self.trainers[0]
        for _ in range(2 * NUMBERS):
            trainer.works(3)
        assert trainer.run.settled(trainer.run.applied - 1) and not trainer.run.has_work(0.0)


OFTEN = ("works", "works", "turn", "land", "snapshot", "hand_over")
WHATS = (*OFTEN, *OFTEN, "post", "receive", "receive again", "release", "crash")
STEPS = 80


@settings(max_examples=300, deadline=None)
@given(st.randoms(use_true_random=True), st.integers(0, 2))
def test_whatever_happens_to_whom_the_first_entry_of_each_number_is_applied_in_number_order(
    chance: random.Random, late: int
) -> None:
    """True chance goes deeper than what can be shrunk: a rule that falls needs some six steps in their order."""
    world = World()
    for number in chance.sample(range(NUMBERS), NUMBERS - late):
        world.happen("post", chance.randrange(2), number)
    for _ in range(STEPS):
        world.happen(chance.choice(WHATS), chance.randrange(2), chance.randrange(NUMBERS))
        world.check()
    world.settle()
    world.check()
    commands = world.stream.meant(NUMBERS - 1)
    assert {number for number in commands if number in world.stream.results} == set(commands)


def test_what_waits_for_numbers_that_anothers_snapshot_contains_goes_on() -> None:
    """They were purged before this trainer had read them, as while it stood still."""
    run = HeldRun("run")
    for number in (0, 3):
        run.add(Entry(number, number + 1, catalog.OPTIM_STEP, TIME))
    assert run.gap() is not None
    run.begin_at(Head(number=2, blob=None, epoch=2))
    assert (run.gap(), run.pending, run.has_work(0.0)) == (None, {3}, True)
    assert [entry.number for entry in run.next_entries(1)] == [3]

"""A world in which an RL run is driven, without a bus: what is published happens, in some order, and drivers die.

It keeps the rules of messages.py: a state is committed before what it says is published, whoever begins publishes
what is outstanding, and a training command is carried out when all numbers below it are there.
"""

import random
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TypeVar

from events.records import LoraShape, RlRunRecord, RowsRef
from rekindle.types.rl import RlRunSpec
from services.data.rl import messages as m
from services.data.rl.due import flying
from services.data.rl.machine import initial, outstanding, step
from services.data.rl.state import State


def make_spec(**changes: object) -> RlRunSpec:
    base = {
        "base_model": "tiny",
        "dataset": {"name": "sums"},
        "prompt": "{question}",
        "grader": {"type": "math"},
        "groups": 2,
        "group_size": 2,
        "steps": 4,
        "checkpoints": None,
    }
    return RlRunSpec.of({**base, **changes})


def make_run(**changes: object) -> RlRunRecord:
    """The record of a run with such a spec."""
    return RlRunRecord(
        run_id="rl-0123456789abcdef",
        spec=make_spec(**changes),
        digest="",
        base="tiny",
        lora=LoraShape(rank=8, seed=0),
        dataset=RowsRef(name="sums", version=1, sha256="0" * 64, blob="rows", rows=9),
        created=datetime(2026, 1, 2, tzinfo=UTC),
    )


C = TypeVar("C")


@dataclass
class World:
    """What was published and heard so far."""

    spec: RlRunSpec
    rows: int
    chance: random.Random
    trouble: float = 0.0
    """How likely each kind of trouble is."""
    state: State = field(init=False)
    published: dict[str, m.Command] = field(default_factory=dict)
    heard: list[m.Event] = field(default_factory=list)
    log: dict[int, str] = field(default_factory=dict)
    """Number -> id of the command that stands there."""
    failures: Counter[tuple[int, ...]] = field(default_factory=Counter)
    faulty: int | None = None
    """Every so manyth prompt cannot be asked; None: all can."""
    orders: int = 0
    dropped: set[int] = field(default_factory=set)
    """Versions whose sampler weights a row had deleted."""
    closed: set[int] = field(default_factory=set)
    """Those whose samples it had deleted too."""
    forgotten: set[str] = field(default_factory=set)
    """Scores whose results it had deleted, by id."""
    needed: int = 0
    """From which number on results are still there."""

    def __post_init__(self) -> None:
        self.state = initial(self.spec, self.rows)
        self.begin()

    def unlucky(self) -> bool:
        return self.chance.random() < self.trouble

    def begin(self) -> None:
        """Drivers begin from the committed state until one lives long enough to publish what is outstanding."""
        while not self.publish(outstanding(self.spec, self.state)):
            pass

    def publish(self, commands: tuple[m.Command, ...]) -> bool:
        """False: the driver died on the way."""
        for command in commands:
            if self.unlucky():
                return False
            known = self.published.setdefault(command.id, command)
            assert known == command, "the same id was another command before"
            self._enter(command)
        return True

    def _enter(self, command: m.Command) -> None:
        seq = getattr(command, "seq", None)
        for number in () if seq is None else range(seq, seq + 1 + isinstance(command, m.Train)):
            assert self.log.setdefault(number, command.id) == command.id, "a number has two meanings"

    def hear(self, event: m.Event) -> None:
        """The driver hears: commits, publishes, and another begins where it dies on the way."""
        before = self.state
        self.state, commands = step(self.spec, before, event)
        self.heard.append(event)
        assert State.model_validate_json(self.state.model_dump_json()) == self.state
        self._check(before, event, commands)
        if not self.publish(commands):
            self.begin()

    def _check(self, before: State, event: m.Event, commands: tuple[m.Command, ...]) -> None:
        state, staleness = self.state, self.spec.max_staleness
        assert step(self.spec, state, event) == (state, ()), "the same event again changed something"
        if before.phase == state.phase == "paused":
            assert commands == ()
        assert outstanding(self.spec, state), "nothing to wait for, yet nothing is finished"
        said = {command.id for command in commands}
        assert said <= {command.id for command in outstanding(self.spec, state)}, "said, but not outstanding"
        assert state.begun - (state.newest or 0) <= 1 + staleness
        assert len(state.batches) <= 2 * (1 + staleness)
        assert len(state.model_dump_json()) < 3000 + 800 * self.spec.groups * (1 + staleness)
        for command in commands:
            if isinstance(command, m.Report):
                self._forget(command)
            if isinstance(command, m.Sample):
                assert state.newest is not None
                assert command.batch - staleness <= command.version <= min(command.batch, state.newest)

        for command in flying(self.spec, state):
            assert not (isinstance(command, m.Sample | m.Evaluate) and command.version in self.dropped)
            assert not (isinstance(command, m.Probe) and command.train.step in self.dropped)
            if isinstance(command, m.Train):  # its rollouts may have to be drawn again
                assert not self.dropped & {score.sample.version for score in command.groups}

        self._check_what_is_read(state)

    def _forget(self, report: m.Report) -> None:
        assert report.needed >= self.needed and set(report.closed) <= self.dropped
        self.dropped |= set(report.drop_versions)
        self.closed |= set(report.closed)
        self.forgotten |= {score.id for score in report.forget}
        self.needed = report.needed

    def _check_what_is_read(self, state: State) -> None:
        """Whatever is under way, perhaps to be done again, finds what it reads."""
        read: list[m.Score] = []
        numbers: list[int] = []
        for command in flying(self.spec, state):
            if isinstance(command, m.Report):
                read += command.groups
            if isinstance(command, m.Report | m.Probe) and command.train is not None:
                read += command.train.groups
                numbers.append(command.train.seq)
            if isinstance(command, m.Train):
                read += command.groups
            if isinstance(command, m.Score):
                read.append(command)
            if isinstance(command, m.Create | m.Publish | m.Train | m.Save):
                numbers.append(command.seq)
        assert not self.forgotten & {score.id for score in read}
        assert not self.closed & {score.sample.version for score in read}
        assert all(number >= self.needed for number in numbers)

    def waiting(self) -> list[m.Command]:
        """Commands that can be answered now; those of a paused run go on, too."""
        through = next(number for number in range(len(self.log) + 1) if number not in self.log)
        return [
            command
            for command in flying(self.spec, self.state)
            if command.id in self.published
            and (getattr(command, "seq", None) is None or command.seq < through)
        ]

    def answer(self, command: m.Command) -> m.Event:
        """What becomes of a command."""
        match command:
            case m.Create():
                return m.Created()
            case m.Publish():
                return m.Published(version=command.version)
            case m.Sample() | m.Score():
                return self._of_a_group(command)
            case m.Await():
                return m.Overdue(batch=command.batch)
            case m.Train():
                return m.Trained(step=command.step)
            case m.Save():
                return m.Saved(version=command.version)
            case m.Evaluate():
                value = self.chance.choice([None, 0.0, 0.5, 1.0])
                return m.Evaluated(version=command.version, attempt=command.attempt, value=value)
            case m.Report():
                return m.Reported(row=command.row, alarm="gap" if self.unlucky() else None)
            case m.Probe():
                alarm = "gap" if self.unlucky() else None
                return m.Probed(step=command.train.step, gap=0.01, alarm=alarm)
        raise AssertionError(f"nothing answers {command.kind}")

    def _of_a_group(self, command: m.Sample | m.Score) -> m.Event:
        place = {"batch": command.batch, "group": command.group, "attempt": command.attempt}
        prompt = command.prompt if isinstance(command, m.Sample) else command.sample.prompt
        if self.unlucky() and self.failures[prompt,] < 2:
            self.failures[prompt,] += 1
            return m.Failed(command=command.id, message="died", category="server", retryable=True)
        if self.unlucky():
            return m.Lost(**place)
        if self.faulty and prompt % self.faulty == self.faulty - 1:
            return m.Failed(command=command.id, message="too long", category="user")
        if isinstance(command, m.Sample):
            return m.Sampled(**place)
        rewards = [
            None if self.unlucky() else self.chance.choice([0.0, 1.0]) for _ in range(self.spec.group_size)
        ]
        return m.Scored(**place, rewards=tuple(rewards))

    def want(self, what: str, reason: str | None = None) -> None:
        self.orders += 1
        self.hear(m.Wanted.model_validate({"what": what, "order": self.orders, "reason": reason}))

    def turn(self) -> None:
        """One thing happens."""
        if self.state.phase == "paused":
            if self.unlucky():
                self.hear_again()
            if self.chance.random() < 0.5 and (waiting := self.waiting()):
                return self.hear(self.answer(self.chance.choice(waiting)))
            return self.want("run")
        if self.unlucky():
            return self.hear_again()
        if self.unlucky():
            return self.want("pause")
        if self.unlucky():
            return self.lose()
        self.hear(self.answer(self.chance.choice(self.waiting())))

    def hear_again(self) -> None:
        """Something comes again, perhaps long after it mattered."""
        if self.heard:
            self.hear(self.chance.choice(self.heard))

    def lose(self) -> None:
        """The results of a place are gone, which may be settled, or trained already."""
        places = [(batch, place) for batch in self.state.batches for place in range(len(batch.groups))]
        if places:
            batch, place = self.chance.choice(places)
            self.hear(m.Lost(batch=batch.number, group=place, attempt=batch.groups[place].attempt))

    def run(self, turns: int = 5000) -> "World":
        for _ in range(turns):
            if self.state.phase in ("completed", "failed", "cancelled"):
                return self
            self.turn()
        raise AssertionError("the run does not end")

    def of(self, kind: type[C]) -> list[C]:
        """The commands of a kind, in the order of their first publishing."""
        return [command for command in self.published.values() if isinstance(command, kind)]

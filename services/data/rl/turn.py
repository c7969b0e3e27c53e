"""One turn of the state machine: the state as it changes, and what is said meanwhile."""

from math import ceil, inf
from typing import Any, Literal

from rekindle.types.rl import RlRunSpec
from services.data.rl.algorithms import rule_of
from services.data.rl.messages import Command, Finish
from services.data.rl.state import Batch, Group, State


def in_order(commands: list[Command]) -> tuple[Command, ...]:
    """Those with a number of the log first, ascending; the others as they were said."""
    return tuple(sorted(commands, key=lambda command: getattr(command, "seq", inf)))


class Turn:
    """Made for one event."""

    def __init__(self, spec: RlRunSpec, state: State) -> None:
        self.spec = spec
        self.rule = rule_of(spec.algorithm)
        self.state = state
        self.commands: list[Command] = []

    def say(self, command: Command) -> None:
        self.commands.append(command)

    def update(self, **changes: Any) -> None:
        self.state = self.state.model_copy(update=changes)

    @property
    def has_prompts(self) -> bool:
        return self.state.total is None or self.state.cursor < self.state.total

    @property
    def has_steps(self) -> bool:
        """Whether another batch is wanted, now or later."""
        planned = self.spec.steps is None or self.state.begun < self.spec.steps
        return planned and self.has_prompts and self.state.stop is None

    def batch(self, number: int) -> Batch | None:
        """None: not under way."""
        return next((batch for batch in self.state.batches if batch.number == number), None)

    def put(self, batch: Batch) -> None:
        """Replace the batch of that number."""
        batches = tuple(batch if one.number == batch.number else one for one in self.state.batches)
        self.update(batches=batches)

    def group(self, batch: int, place: int, attempt: int) -> Group | None:
        """The place as long as this is its attempt and its batch is not submitted; otherwise None."""
        found = self.batch(batch)
        if found is None or found.seq is not None or not 0 <= place < len(found.groups):
            return None
        group = found.groups[place]
        return group if group.attempt == attempt else None

    def regroup(self, batch: int, place: int, **changes: Any) -> None:
        found = self.batch(batch)
        assert found is not None, "only places of batches under way change"
        self.replace_group(batch, place, found.groups[place].model_copy(update=changes))

    def replace_group(self, batch: int, place: int, group: Group) -> None:
        found = self.batch(batch)
        assert found is not None, "only places of batches under way change"
        groups = (*found.groups[:place], group, *found.groups[place + 1 :])
        self.put(found.model_copy(update={"groups": groups}))

    def stop_if_reached(self, what: str, values: tuple[float, ...], least: float | None) -> None:
        """Begin no further batch once as many values as a condition looks at have a mean that is high enough."""
        if least is None or len(values) < self.spec.stop.over or self.state.stop is not None:
            return
        mean = sum(values) / len(values)
        if mean >= least:
            self.update(stop=f"{what} {mean:.4g} over {len(values)}, wanted {least:g}")

    def halt(self, phase: Literal["paused", "completed", "failed", "cancelled"], reason: str | None) -> None:
        """Say nothing more; what was said in this turn is not lost to a paused run, it is outstanding."""
        self.update(phase=phase, reason=reason, halts=self.state.halts + 1)
        if phase != "paused":
            self.update(batches=(), evaluating=(), saving=(), reporting=None, probing=None)
        self.commands = [Finish(phase=phase, reason=reason, order=self.state.halts)]


def planned_steps(spec: RlRunSpec, state: State) -> int:
    """Steps of a run that nothing stops, as far as is known: prompts that went to places of others make none."""
    limits = [] if spec.steps is None else [spec.steps]
    if state.total is not None:
        limits.append(state.begun + ceil((state.total - state.cursor) / spec.groups))
    return min(limits)

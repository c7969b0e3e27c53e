"""The places of a batch: their prompts are drawn, their rollouts sampled and scored, their stragglers left behind."""

from rekindle.types.rl import RlRunSpec
from services.data.rl import messages as m
from services.data.rl.state import Batch, Group
from services.data.rl.turn import Turn

MAX_EVALUATING = 4
"""Evaluations under way at which no further batch begins."""


def begin(turn: Turn) -> None:
    """Draw the prompts of every batch for which there are weights fresh enough."""
    while _may_begin(turn):
        state = turn.state
        until = state.cursor + turn.spec.groups
        until = until if state.total is None else min(until, state.total)
        groups = tuple(Group(prompt=prompt) for prompt in range(state.cursor, until))
        batch = Batch(number=state.begun, groups=groups)
        turn.update(batches=(*state.batches, batch), begun=state.begun + 1, cursor=until)


def _may_begin(turn: Turn) -> bool:
    state, staleness = turn.state, turn.spec.max_staleness
    if state.newest is None or not turn.has_steps:
        return False
    unreported = len(state.batches) + (state.reporting is not None)
    patient = unreported < 2 * (1 + staleness) and len(state.evaluating) < MAX_EVALUATING
    return patient and state.begun - staleness <= state.newest


def work_on(turn: Turn, batch: Batch) -> None:
    """Sample and score the places of a batch, and set a limit to its stragglers."""
    if batch.seq is not None:
        return
    groups = tuple(_moved_on(group, turn.state.newest) for group in batch.groups)
    after = batch.model_copy(update={"groups": groups, "grace": _grace(turn.spec, batch)})
    if after == batch:
        return
    turn.put(after)
    for place, (group, before) in enumerate(zip(groups, batch.groups, strict=True)):
        if group is not before:
            turn.say(_group_command(after, place))
    if after.grace != batch.grace:
        turn.say(m.Await(batch=batch.number))


def _moved_on(group: Group, newest: int | None) -> Group:
    if group.stage == "due":
        return group.model_copy(update={"stage": "sampling", "version": newest})
    return group.model_copy(update={"stage": "scoring"}) if group.stage == "sampled" else group


def _grace(spec: RlRunSpec, batch: Batch) -> str:
    asked = len(batch.groups) - batch.count("skipped")
    late = batch.count("settled") >= spec.stragglers.share * asked and not batch.settled
    begins = batch.grace == "none" and spec.stragglers.seconds is not None and late
    return "running" if begins else batch.grace


def _group_command(batch: Batch, place: int) -> m.Command:
    """What a place is waiting for."""
    return batch.sample(place) if batch.groups[place].stage == "sampling" else batch.score(place)


def batch_commands(batch: Batch) -> list[m.Command]:
    """What is outstanding of a batch that is not submitted."""
    waiting = [place for place, group in enumerate(batch.groups) if group.stage in ("sampling", "scoring")]
    commands = [_group_command(batch, place) for place in waiting]
    return [*commands, m.Await(batch=batch.number)] if batch.grace == "running" and waiting else commands

"""The state machine of an RL run: a pure function (spec, state, event) -> (state, commands).

It knows no bus, no clock and no text. What it promises, in whatever order events come and however often:

- One order of training commands: the numbers of the log run without a gap, step after step.
- Batch k is sampled with versions from k - max_staleness, and begins as soon as there is one; so at most
  1 + max_staleness batches are begun and not trained.
- The prompts below the cursor, and no others, are drawn, each by one place of one batch. A row that cannot be asked,
  or scored, leaves its place empty; where it does so to all places of a batch, the run pauses behind that step.
- An event that came before, or answers an attempt that is void, changes nothing.
- A run that is running waits for something; one that is not says nothing but `Finish`.

An event is applied first (`_HEARD`), then all that is due is said (`due.py`); a run that is paused hears, and says
nothing.
"""

from collections.abc import Callable, Mapping
from typing import Any

from rekindle.types.rl import RlRunSpec
from services.data.rl import messages as m
from services.data.rl.due import flying, say_what_is_due
from services.data.rl.state import LEFT, Group, State, Tally
from services.data.rl.turn import Turn, in_order

TRIES = 3
"""How often a command that fails on the server's side is given."""
MAX_FAULT = 200
"""Characters of the reason why a row is skipped."""
OVER = ("completed", "failed", "cancelled")


def initial(spec: RlRunSpec, rows: int) -> State:
    """The state of a run on a dataset of so many rows; `outstanding` says its first command."""
    assert rows > 0, "a dataset without rows has no prompts"
    return State(total=None if spec.epochs is None else spec.epochs * rows)


def step(spec: RlRunSpec, state: State, event: m.Event) -> tuple[State, tuple[m.Command, ...]]:
    """What follows from an event: the state to commit, and the commands to publish after that."""
    if state.phase in OVER:
        return state, ()
    turn = Turn(spec, state)
    _HEARD[type(event)](turn, event)
    if turn.state == state:
        return state, ()
    if turn.state.phase == "running":
        say_what_is_due(turn)
    if state.phase != "paused":
        return turn.state, in_order(turn.commands)
    # a pause keeps what falls due to itself, and its end says all of it, known or not
    return turn.state, () if turn.state.phase == "paused" else outstanding(spec, turn.state)


def outstanding(spec: RlRunSpec, state: State) -> tuple[m.Command, ...]:
    """Every command that this state has given and that is not answered, in the order of publishing."""
    if state.phase != "running":
        return (m.Finish(phase=state.phase, reason=state.reason, order=state.halts),)
    return flying(spec, state)


def _created(turn: Turn, event: m.Created) -> None:
    if not turn.state.created:
        turn.update(created=True, next_seq=2)
        turn.say(m.Publish(version=0, seq=1))


def _published(turn: Turn, event: m.Published) -> None:
    state, version = turn.state, event.version
    batch = turn.batch(version - 1)
    if batch is not None and batch.seq is not None and not batch.published:
        turn.put(batch.model_copy(update={"published": True}))
    elif not (version == 0 and state.created and state.newest is None):
        return
    live = tuple(sorted({*state.live, version}))
    turn.update(newest=max(version, state.newest or 0), live=live)


def _sampled(turn: Turn, event: m.Sampled) -> None:
    group = turn.group(event.batch, event.group, event.attempt)
    if group is not None and group.stage == "sampling":
        turn.regroup(event.batch, event.group, stage="sampled", drawn=event.attempt)


def _scored(turn: Turn, event: m.Scored) -> None:
    group = turn.group(event.batch, event.group, event.attempt)
    if group is None or group.stage != "scoring":
        return
    rewards = [reward for reward in event.rewards if reward is not None]
    failure = None if rewards else event.failure
    tally = Tally(count=len(rewards), total=sum(rewards), uniform=len(set(rewards)) < 2, failure=failure)
    full = tally.count >= turn.rule.least and tally.uniform  # too few say nothing about the prompt
    if full and group.refills < turn.rule.refills and turn.has_prompts:
        _refill(turn, event, group, tally)
    else:
        turn.regroup(event.batch, event.group, stage="settled", tally=tally)


def _refill(turn: Turn, event: m.Scored, group: Group, tally: Tally) -> None:
    """Dynamic sampling: the place goes to the next prompt."""
    batch = turn.batch(event.batch)
    assert batch is not None, "the group was found in it"
    count, total = batch.refilled_rewards
    rewards = (count + tally.count, total + tally.total)
    turn.put(batch.model_copy(update={"refilled": batch.refilled + 1, "refilled_rewards": rewards}))
    fresh = Group(prompt=turn.state.cursor, attempt=group.attempt + 1, refills=group.refills + 1)
    turn.replace_group(event.batch, event.group, fresh)
    turn.update(cursor=turn.state.cursor + 1)


def _lost(turn: Turn, event: m.Lost) -> None:
    group = turn.group(event.batch, event.group, event.attempt)
    if group is not None and group.stage not in ("due", "overdue", "skipped"):
        again = Group(prompt=group.prompt, attempt=group.attempt + 1, refills=group.refills)
        turn.replace_group(event.batch, event.group, again)


def _overdue(turn: Turn, event: m.Overdue) -> None:
    batch = turn.batch(event.batch)
    if batch is None or batch.grace != "running" or batch.seq is not None:
        return
    groups = batch.groups
    if any(
        group.stage == "settled" for group in groups
    ):  # else they were lost meanwhile, and all are waited for
        groups = tuple(
            group if group.stage in LEFT else group.model_copy(update={"stage": "overdue"})
            for group in groups
        )
    turn.put(batch.model_copy(update={"grace": "over", "groups": groups}))


def _trained(turn: Turn, event: m.Trained) -> None:
    batch = turn.batch(event.step)
    if batch is not None and batch.seq is not None and not batch.trained:
        turn.put(batch.model_copy(update={"trained": True}))
        turn.update(trained=turn.state.trained + 1)


def _saved(turn: Turn, event: m.Saved) -> None:
    left = tuple(one for one in turn.state.saving if one.version != event.version)
    if left != turn.state.saving:
        turn.update(saving=left, saved=tuple(sorted({*turn.state.saved, event.version})))


def _evaluated(turn: Turn, event: m.Evaluated) -> None:
    state, stop = turn.state, turn.spec.stop
    left = tuple(
        one for one in state.evaluating if (one.version, one.attempt) != (event.version, event.attempt)
    )
    if left == state.evaluating:
        return
    turn.update(evaluating=left)
    if event.value is None:
        return
    values = (*state.values, event.value)[-stop.over :]
    turn.update(values=values, evaluations=(*state.evaluations, (event.version, event.value)))
    turn.stop_if_reached("evaluation", values, stop.evaluation_at_least)


def _reported(turn: Turn, event: m.Reported) -> None:
    reporting = turn.state.reporting
    if reporting is None or reporting.row != event.row:
        return
    turn.update(reporting=None, rows=event.row + 1)
    if event.alarm is not None:
        turn.halt("paused", event.alarm)


def _probed(turn: Turn, event: m.Probed) -> None:
    probing = turn.state.probing
    if probing is None or probing.train.step != event.step:
        return
    turn.update(probing=None, gap=event.gap)
    if event.alarm is not None:
        turn.halt("paused", event.alarm)


def _time_up(turn: Turn, event: m.TimeUp) -> None:
    if turn.state.stop is None:
        turn.update(stop="its time is up")


def _wanted(turn: Turn, event: m.Wanted) -> None:
    if event.order <= turn.state.order:
        return
    turn.update(order=event.order)
    if event.what == "cancel":
        turn.halt("cancelled", event.reason)
    elif event.what == "pause" and turn.state.phase == "running":
        turn.halt("paused", event.reason)
    elif event.what == "run":
        turn.update(phase="running", reason=None)


def _failed(turn: Turn, event: m.Failed) -> None:
    command = next((one for one in flying(turn.spec, turn.state) if one.id == event.command), None)
    if command is None:
        return
    if event.category == "user" and isinstance(command, m.Sample | m.Score):
        fault = event.message[:MAX_FAULT]
        turn.regroup(command.batch, command.group, stage="skipped", fault=fault)
        turn.update(skipped=turn.state.skipped + 1)
    elif not (event.retryable and event.category != "user" and _again(turn, command)):
        turn.halt("failed", f"{command.id}: {event.message}")


def _again(turn: Turn, command: m.Command) -> bool:
    """Prepare another try; False where there is none left, or what stands under a number of the log stands."""
    if isinstance(command, m.Evaluate):
        turn.update(
            evaluating=tuple(
                one if one.version != command.version else one.model_copy(update={"attempt": one.attempt + 1})
                for one in turn.state.evaluating
            )
        )
        turn.say(command.model_copy(update={"attempt": command.attempt + 1}))
        return command.attempt + 1 < TRIES
    if not isinstance(command, m.Sample | m.Score):
        return False
    group = turn.group(command.batch, command.group, command.attempt)
    assert group is not None, "its command is outstanding"
    stage = "due" if isinstance(command, m.Sample) else "sampled"
    failures = group.failures + 1
    turn.regroup(command.batch, command.group, stage=stage, attempt=group.attempt + 1, failures=failures)
    return failures < TRIES


_HEARD: Mapping[type, Callable[[Turn, Any], None]] = {
    m.Created: _created,
    m.Published: _published,
    m.Sampled: _sampled,
    m.Scored: _scored,
    m.Trained: _trained,
    m.Saved: _saved,
    m.Evaluated: _evaluated,
    m.Reported: _reported,
    m.Probed: _probed,
    m.Overdue: _overdue,
    m.Lost: _lost,
    m.Failed: _failed,
    m.Wanted: _wanted,
    m.TimeUp: _time_up,
}

__all__ = ["State", "initial", "outstanding", "step"]

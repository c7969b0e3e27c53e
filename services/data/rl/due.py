"""What a run that is running has to say next, whatever event it was that made it due."""

from rekindle.types.rl import RlRunSpec
from services.data.rl import messages as m
from services.data.rl.algorithms import rule_of, uniform_teaches
from services.data.rl.schedule import learning_rate
from services.data.rl.state import Batch, Evaluating, Group, Saving, State
from services.data.rl.turn import Turn, in_order, planned_steps

MAX_EVALUATING = 4
"""Evaluations under way at which no further batch begins."""


def say_what_is_due(turn: Turn) -> None:
    _submit(turn)
    if turn.state.phase != "running":
        return
    if turn.state.stop is not None:
        turn.update(batches=tuple(batch for batch in turn.state.batches if batch.seq is not None))
    _begin(turn)
    for batch in turn.state.batches:
        _work_on(turn, batch)
    _evaluate(turn)
    _probe(turn)
    _report(turn)
    if not turn.has_steps and not turn.state.batches and turn.state.reporting is None:
        _close(turn)


def _submit(turn: Turn) -> None:
    """Train what is settled, step after step."""
    while turn.state.stop is None:
        batch = turn.batch(turn.state.submitted)
        if batch is None or not batch.settled:
            return
        if not _has_rewards(batch):
            return _score_again(turn, batch)
        _train(turn, batch)


def _has_rewards(batch: Batch) -> bool:
    return batch.refilled_rewards[0] > 0 or any(group.tally and group.tally.count for group in batch.groups)


def _score_again(turn: Turn, batch: Batch) -> None:
    """Nothing is known of any rollout: not a step to be skipped but a grader to be mended."""
    reason = next((group.tally.failure for group in batch.groups if group.tally), None)
    for place, group in enumerate(batch.groups):
        if group.stage == "settled":
            turn.regroup(batch.number, place, stage="sampled", attempt=group.attempt + 1, tally=None)
    said = f": {reason}" if reason else ""
    turn.halt("paused", f"the grader failed on every rollout of batch {batch.number}{said}")


def _train(turn: Turn, batch: Batch) -> None:
    state, spec = turn.state, turn.spec
    mean = _mean_reward(batch)
    following = turn.rule.next_baseline(state.baseline, mean)
    baseline = following if state.baseline is None else state.baseline
    batch = batch.model_copy(update={"seq": state.next_seq, "baseline": baseline})
    turn.put(batch)
    turn.say(_train_command(spec, state, batch))
    turn.say(m.Publish(version=batch.number + 1, seq=state.next_seq + 2))
    rewards = (*state.rewards, mean)[-spec.stop.over :]
    turn.update(
        submitted=state.submitted + 1, next_seq=state.next_seq + 3, baseline=following, rewards=rewards
    )
    if spec.checkpoints is not None and (batch.number + 1) % spec.checkpoints.every == 0:
        _save(turn, batch.number + 1)
    turn.stop_if_reached("reward", rewards, spec.stop.reward_at_least)


def _mean_reward(batch: Batch) -> float:
    count, total = batch.refilled_rewards
    for group in batch.groups:
        if group.tally is not None:
            count, total = count + group.tally.count, total + group.tally.total
    return total / count


def _save(turn: Turn, version: int) -> None:
    saving = Saving(version=version, seq=turn.state.next_seq)
    turn.update(saving=(*turn.state.saving, saving), next_seq=saving.seq + 1)
    turn.say(m.Save(version=version, seq=saving.seq))


def _begin(turn: Turn) -> None:
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


def _work_on(turn: Turn, batch: Batch) -> None:
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
    settled = sum(group.stage == "settled" for group in batch.groups)
    late = settled >= spec.stragglers.share * len(batch.groups) and not batch.settled
    begins = batch.grace == "none" and spec.stragglers.seconds is not None and late
    return "running" if begins else batch.grace


def _group_command(batch: Batch, place: int) -> m.Command:
    """What a place is waiting for."""
    return batch.sample(place) if batch.groups[place].stage == "sampling" else batch.score(place)


def _batch_commands(batch: Batch) -> list[m.Command]:
    """What is outstanding of a batch that is not submitted."""
    waiting = [place for place, group in enumerate(batch.groups) if group.stage in ("sampling", "scoring")]
    commands = [_group_command(batch, place) for place in waiting]
    return [*commands, m.Await(batch=batch.number)] if batch.grace == "running" and waiting else commands


def _evaluate(turn: Turn) -> None:
    if turn.spec.evaluation is None or turn.state.newest is None:
        return
    every = turn.spec.evaluation.every
    while (version := (turn.state.asked // every + 1) * every) <= turn.state.newest:
        _ask(turn, version)


def _ask(turn: Turn, version: int) -> None:
    turn.update(asked=version, evaluating=(*turn.state.evaluating, Evaluating(version=version)))
    turn.say(m.Evaluate(version=version, attempt=0))


def _probe(turn: Turn) -> None:
    """Have the weights of a step compared, of which no rollout of its batch can tell; one step at a time."""
    state = turn.state
    for batch in state.batches:
        if state.probing is not None or not (batch.trained and _is_unsure(turn, batch)):
            continue
        probe = m.Probe(train=_train_command(turn.spec, state, batch))
        turn.update(probing=probe, probed=batch.number)
        return turn.say(probe)


def _is_unsure(turn: Turn, batch: Batch) -> bool:
    """Whether the weights that a batch trains can be compared, and will not be by rollouts that they drew."""
    state, version = turn.state, batch.number
    if turn.spec.alarms.gap is None or version <= state.probed or version not in state.live:
        return False
    taught = _train_command(turn.spec, state, batch).groups if batch.seq is not None else ()
    drawing = turn.has_steps or state.batches[-1].number > version  # else nobody draws with them any more
    return drawing and bool(taught) and all(score.sample.version < version for score in taught)


def _report(turn: Turn) -> None:
    """Ask for the row of the next step that is done, one row after the other."""
    batch = turn.batch(turn.state.rows)
    if turn.state.reporting is not None or batch is None or not (batch.trained and batch.published):
        return
    if turn.state.probing is not None and len(turn.state.batches) == 1 and not turn.has_steps:
        return  # the last row holds what the last comparison found
    tallies = [group.tally for group in batch.groups if group.tally is not None]
    few = sum(tally.count < turn.rule.least for tally in tallies)
    taught = _train_command(turn.spec, turn.state, batch)
    turn.update(batches=tuple(one for one in turn.state.batches if one.number != batch.number))
    _write_row(
        turn,
        m.Report(
            row=batch.number,
            train=taught,
            groups=tuple(batch.score(place) for place, group in enumerate(batch.groups) if group.tally),
            dropped=few,
            uniform=taught.uniform,
            overdue=len(batch.groups) - len(tallies),
            refilled=batch.refilled,
            refilled_rewards=batch.refilled_rewards,
        ),
    )


def _write_row(turn: Turn, report: m.Report) -> None:
    """Say a row, with the evaluations that are in none yet, and with what can be deleted now."""
    saved, dropped = _unwanted(turn)
    report = report.model_copy(
        update={
            "evaluations": turn.state.evaluations,
            "gap": turn.state.gap,
            "drop_saved": saved,
            "drop_versions": dropped,
        }
    )
    turn.update(
        reporting=report,
        evaluations=(),
        gap=None,
        saved=tuple(version for version in turn.state.saved if version not in saved),
        live=tuple(version for version in turn.state.live if version not in dropped),
    )
    turn.say(report)


def _unwanted(turn: Turn) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(training checkpoints beyond those to keep, sampler weights that nobody will use again)."""
    state, keep = turn.state, turn.spec.checkpoints
    saved = state.saved[: -keep.keep] if keep is not None else ()
    kept = set(state.saved) - set(saved) | {one.version for one in state.saving} | {state.newest}
    # until a batch is trained its rollouts may expire, and have to be drawn again as they were
    used = {group.version for batch in state.batches if not batch.trained for group in batch.groups}
    used |= {one.version for one in state.evaluating}
    used |= {batch.number for batch in state.batches}  # they may have to be compared with the trainer's
    used |= set() if state.probing is None else {state.probing.train.step}
    return saved, tuple(version for version in state.live if version not in kept | used)


def _close(turn: Turn) -> None:
    """All steps are over: measure and keep what came of them, then end."""
    state, spec, newest = turn.state, turn.spec, turn.state.newest
    if newest is not None:
        if spec.evaluation is not None and state.asked < newest:
            _ask(turn, newest)
        known = {*state.saved, *(one.version for one in state.saving)}
        if spec.checkpoints is not None and newest > max(known, default=0):
            _save(turn, newest)
    if turn.state.evaluating or turn.state.saving or turn.state.probing is not None:
        return
    if turn.state.evaluations or any(_unwanted(turn)):
        _write_row(turn, m.Report(row=turn.state.rows, train=None))
    else:
        turn.halt("completed", turn.state.stop)


def _train_command(spec: RlRunSpec, state: State, batch: Batch) -> m.Train:
    assert batch.seq is not None, "a batch is trained once it is submitted"
    rule = rule_of(spec.algorithm)
    scored = [
        (place, group.tally)
        for place, group in enumerate(batch.groups)
        if group.tally is not None and group.tally.count >= rule.least
    ]
    taught = [place for place, tally in scored if not tally.uniform or uniform_teaches(spec)]
    return m.Train(
        step=batch.number,
        seq=batch.seq,
        groups=tuple(map(batch.score, taught)),
        uniform=len(scored) - len(taught),
        learning_rate=learning_rate(spec.optimizer, batch.number, planned_steps(spec, state.total)),
        baseline=batch.baseline,
    )


def flying(spec: RlRunSpec, state: State) -> tuple[m.Command, ...]:
    """Every command that was given and is not answered, whether or not the run is paused."""
    if not state.created:
        return (m.Create(),)
    commands: list[m.Command] = [] if state.newest is not None else [m.Publish(version=0, seq=1)]
    for batch in state.batches:
        if batch.seq is None:
            commands += _batch_commands(batch)
            continue
        if not batch.trained:
            commands.append(_train_command(spec, state, batch))
        if not batch.published:
            commands.append(m.Publish(version=batch.number + 1, seq=batch.seq + 2))
    commands += [m.Save(version=one.version, seq=one.seq) for one in state.saving]
    commands += [m.Evaluate(version=one.version, attempt=one.attempt) for one in state.evaluating]
    commands += [] if state.reporting is None else [state.reporting]
    commands += [] if state.probing is None else [state.probing]
    return in_order(commands)

"""Batches whose places are settled become steps of training, one after the other."""

from rekindle.types.rl import RlRunSpec
from services.data.rl import messages as m
from services.data.rl.algorithms import rule_of, uniform_teaches
from services.data.rl.schedule import learning_rate
from services.data.rl.state import Batch, Saving, State
from services.data.rl.turn import Turn, planned_steps


def submit(turn: Turn) -> None:
    """Train what is settled, step after step."""
    while turn.state.stop is None:
        batch = turn.batch(turn.state.submitted)
        if batch is None or not batch.settled:
            return
        mean = _mean_reward(batch)
        if mean is None and batch.count("settled"):
            return _score_again(turn, batch)
        _train(turn, batch, mean)
        if mean is None:
            return _say_what_is_wrong(turn, batch)


def _score_again(turn: Turn, batch: Batch) -> None:
    """Nothing is known of any rollout: not a step to be skipped but a grader to be mended."""
    reason = next((group.tally.failure for group in batch.groups if group.tally), None)
    for place, group in enumerate(batch.groups):
        if group.stage == "settled":
            turn.regroup(batch.number, place, stage="sampled", attempt=group.attempt + 1, tally=None)
    said = f": {reason}" if reason else ""
    turn.halt("paused", f"the grader failed on every rollout of batch {batch.number}{said}")


def _say_what_is_wrong(turn: Turn, batch: Batch) -> None:
    """One row in a thousand is nobody's fault; a whole batch of them is a template's, or the dataset's."""
    fault = next(group.fault for group in batch.groups if group.fault is not None)
    turn.halt("paused", f"no row of batch {batch.number} can be asked; the first of them: {fault}")


def _train(turn: Turn, batch: Batch, mean: float | None) -> None:
    """Submit a batch with that mean reward; None: it has none, and nothing to learn from."""
    state, spec = turn.state, turn.spec
    following = state.baseline if mean is None else turn.rule.next_baseline(state.baseline, mean)
    baseline = following if state.baseline is None else state.baseline
    rate = _rate(spec, state, batch)
    changes = {"seq": state.next_seq, "baseline": baseline, "learning_rate": rate}
    batch = batch.model_copy(update=changes)
    turn.put(batch)
    turn.say(train_command(spec, state, batch))
    turn.say(m.Publish(version=batch.number + 1, seq=state.next_seq + 2))
    rewards = state.rewards if mean is None else (*state.rewards, mean)[-spec.stop.over :]
    turn.update(
        submitted=state.submitted + 1, next_seq=state.next_seq + 3, baseline=following, rewards=rewards
    )
    if spec.checkpoints is not None and (batch.number + 1) % spec.checkpoints.every == 0:
        save(turn, batch.number + 1)
    turn.stop_if_reached("reward", rewards, spec.stop.reward_at_least)


def _rate(spec: RlRunSpec, state: State, batch: Batch) -> float:
    """The learning rate of a batch that is submitted now."""
    return learning_rate(spec.optimizer, batch.number, planned_steps(spec, state))


def _mean_reward(batch: Batch) -> float | None:
    """None: no rollout has a reward."""
    count, total = batch.refilled_rewards
    for group in batch.groups:
        if group.tally is not None:
            count, total = count + group.tally.count, total + group.tally.total
    return total / count if count else None


def save(turn: Turn, version: int) -> None:
    saving = Saving(version=version, seq=turn.state.next_seq)
    turn.update(saving=(*turn.state.saving, saving), next_seq=saving.seq + 1)
    turn.say(m.Save(version=version, seq=saving.seq))


def train_command(spec: RlRunSpec, state: State, batch: Batch) -> m.Train:
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
        learning_rate=_rate(spec, state, batch) if batch.learning_rate is None else batch.learning_rate,
        baseline=batch.baseline,
    )

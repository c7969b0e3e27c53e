"""What is measured beside the steps: held-out rows, and the sampler beside the trainer."""

from services.data.rl import messages as m
from services.data.rl.state import Batch, Evaluating
from services.data.rl.steps import train_command
from services.data.rl.turn import Turn


def evaluate(turn: Turn) -> None:
    if turn.spec.evaluation is None or turn.state.newest is None:
        return
    every = turn.spec.evaluation.every
    while (version := (turn.state.asked // every + 1) * every) <= turn.state.newest:
        ask(turn, version)


def ask(turn: Turn, version: int) -> None:
    turn.update(asked=version, evaluating=(*turn.state.evaluating, Evaluating(version=version)))
    turn.say(m.Evaluate(version=version, attempt=0))


def probe(turn: Turn) -> None:
    """Have the weights of a step compared, of which no rollout of its batch can tell; one step at a time."""
    state = turn.state
    for batch in state.batches:
        if state.probing is not None or not (batch.trained and _is_unsure(turn, batch)):
            continue
        probe = m.Probe(train=train_command(turn.spec, state, batch))
        turn.update(probing=probe, probed=batch.number)
        return turn.say(probe)


def _is_unsure(turn: Turn, batch: Batch) -> bool:
    """Whether the weights that a batch trains can be compared, and will not be by rollouts that they drew."""
    state, version = turn.state, batch.number
    if turn.spec.alarms.gap is None or version <= state.probed or version not in state.live:
        return False
    taught = train_command(turn.spec, state, batch).groups if batch.seq is not None else ()
    drawing = turn.has_steps or state.batches[-1].number > version  # else nobody draws with them any more
    return drawing and bool(taught) and all(score.sample.version < version for score in taught)

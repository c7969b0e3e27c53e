"""What a run that is running has to say next, whatever event it was that made it due, and what of it is under way."""

from rekindle.types.rl import RlRunSpec
from services.data.rl import messages as m
from services.data.rl.account import report, unwanted, write_row
from services.data.rl.measures import ask, evaluate, probe
from services.data.rl.places import batch_commands, begin, work_on
from services.data.rl.state import State
from services.data.rl.steps import save, submit, train_command
from services.data.rl.turn import Turn, in_order


def say_what_is_due(turn: Turn) -> None:
    submit(turn)
    if turn.state.phase != "running":
        return
    if turn.state.stop is not None:
        turn.update(batches=tuple(batch for batch in turn.state.batches if batch.seq is not None))
    begin(turn)
    for batch in turn.state.batches:
        work_on(turn, batch)
    evaluate(turn)
    probe(turn)
    report(turn)
    if not turn.has_steps and not turn.state.batches and turn.state.reporting is None:
        _close(turn)


def _close(turn: Turn) -> None:
    """All steps are over: measure and keep what came of them, then end."""
    state, spec, newest = turn.state, turn.spec, turn.state.newest
    if newest is not None:
        if spec.evaluation is not None and state.asked < newest:
            ask(turn, newest)
        known = {*state.saved, *(one.version for one in state.saving)}
        if spec.checkpoints is not None and newest > max(known, default=0):
            save(turn, newest)
    if turn.state.evaluating or turn.state.saving or turn.state.probing is not None:
        return
    if turn.state.evaluations or any(unwanted(turn)):
        write_row(turn, m.Report(row=turn.state.rows, train=None))
    else:
        turn.halt("completed", turn.state.stop)


def flying(spec: RlRunSpec, state: State) -> tuple[m.Command, ...]:
    """Every command that was given and is not answered, whether or not the run is paused."""
    if not state.created:
        return (m.Create(),)
    commands: list[m.Command] = [] if state.newest is not None else [m.Publish(version=0, seq=1)]
    for batch in state.batches:
        if batch.seq is None:
            commands += batch_commands(batch)
            continue
        if not batch.trained:
            commands.append(train_command(spec, state, batch))
        if not batch.published:
            commands.append(m.Publish(version=batch.number + 1, seq=batch.seq + 2))
    commands += [m.Save(version=one.version, seq=one.seq) for one in state.saving]
    commands += [m.Evaluate(version=one.version, attempt=one.attempt) for one in state.evaluating]
    commands += [] if state.reporting is None else [state.reporting]
    commands += [] if state.probing is None else [state.probing]
    return in_order(commands)

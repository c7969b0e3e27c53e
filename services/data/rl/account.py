"""The row of metrics of a step that is done, and what nobody needs any more after it."""

from services.data.rl import messages as m
from services.data.rl.state import State
from services.data.rl.steps import train_command
from services.data.rl.turn import Turn


def report(turn: Turn) -> None:
    """Ask for the row of the next step that is done, one row after the other."""
    batch = turn.batch(turn.state.rows)
    if turn.state.reporting is not None or batch is None or not (batch.trained and batch.published):
        return
    if turn.state.probing is not None and len(turn.state.batches) == 1 and not turn.has_steps:
        return  # the last row holds what the last comparison found
    tallies = [group.tally for group in batch.groups if group.tally is not None]
    few = sum(tally.count < turn.rule.least for tally in tallies)
    taught = train_command(turn.spec, turn.state, batch)
    turn.update(batches=tuple(one for one in turn.state.batches if one.number != batch.number))
    write_row(
        turn,
        m.Report(
            row=batch.number,
            train=taught,
            groups=tuple(batch.score(place) for place, group in enumerate(batch.groups) if group.tally),
            dropped=few,
            uniform=taught.uniform,
            overdue=batch.count("overdue"),
            skipped=batch.count("skipped"),
            refilled=batch.refilled,
            refilled_rewards=batch.refilled_rewards,
        ),
    )


def write_row(turn: Turn, report: m.Report) -> None:
    """Say a row, with the evaluations that are in none yet, and with what can be deleted now."""
    state = turn.state
    saved, dropped = unwanted(turn)
    kept = tuple(score for score in state.reported if _is_compared(state, score))
    read = _versions_read(state, (*report.groups, *kept))
    report = report.model_copy(
        update={
            "evaluations": state.evaluations,
            "gap": state.gap,
            "drop_saved": saved,
            "drop_versions": dropped,
            "forget": tuple(score for score in state.reported if score not in kept),
            "closed": tuple(version for version in state.dropped if version not in read),
            "needed": _first_needed(state, report),
        }
    )
    turn.update(
        reporting=report,
        reported=(*kept, *report.groups),
        evaluations=(),
        gap=None,
        saved=tuple(version for version in state.saved if version not in saved),
        live=tuple(version for version in state.live if version not in dropped),
        dropped=(*(version for version in state.dropped if version in read), *dropped),
    )
    turn.say(report)


def _is_compared(state: State, score: m.Score) -> bool:
    """Whether a place is of the step whose weights are being compared."""
    return state.probing is not None and state.probing.train.step == score.batch


def _versions_read(state: State, scores: tuple[m.Score, ...]) -> set[int | None]:
    """Versions of which samples may be read: those of these places, and of all batches under way."""
    drawn = {score.sample.version for score in scores}
    return drawn | {group.version for batch in state.batches for group in batch.groups}


def _first_needed(state: State, report: m.Report) -> int:
    """The first number of the log whose result some command under way, this one included, may read."""
    trains = [report.train] + ([] if state.probing is None else [state.probing.train])
    numbers = [train.seq for train in trains if train is not None]
    numbers += [batch.seq for batch in state.batches if batch.seq is not None]
    numbers += [one.seq for one in state.saving]
    return min(numbers, default=state.next_seq)


def unwanted(turn: Turn) -> tuple[tuple[int, ...], tuple[int, ...]]:
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

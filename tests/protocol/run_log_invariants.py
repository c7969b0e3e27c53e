"""What must hold of the run log in every state, whatever was killed, paused or lost on the way there."""

from tests.protocol.run_log_state import (
    COMMAND,
    FAILED,
    Head,
    Program,
    State,
    content,
    effect,
    is_result,
    outcome,
    terminal,
)


def violated(program: Program, state: State) -> str | None:
    """What ought to hold and does not, in words."""
    head = -1 if state.head is None else state.head.number
    for number in range(len(program)):
        broken = _wrong_number(program, state, number, head)
        if broken is not None:
            return f"{broken} ({number})"
    if state.head is not None:
        return _wrong_head(program, state, state.head)
    return _wrong_memory(state)


def _wrong_number(program: Program, state: State, number: int, head: int) -> str | None:
    records = (*state.results[number], *([FAILED] if is_result(state.log[number]) else []))
    if len(state.results[number]) > 1 or len(set(records)) > 1:
        return "a number has one terminal record"
    if number > head and state.posted[number] and not state.log[number]:
        return "a command above the head is in the log"
    if number <= head and not records and not _load_in_hand(program, state, number, head):
        return "every number up to the head has its result"
    memory = outcome(program, state, number)
    if memory is not None and records and records[0].ok and records[0].memory != memory:
        return "a result comes from exactly the effects of the numbers up to its own"
    entry = state.entries[number]
    if entry is None:
        return None
    if entry not in state.exports:
        return "a checkpoint entry names a blob that holds what was saved"
    before = outcome(program, state, number - 1)
    if before is not None and entry.memory != before:
        return "a checkpoint holds exactly the effects of the numbers before its save"
    return None


def _load_in_hand(program: Program, state: State, number: int, head: int) -> bool:
    return number == head and program[number] == "load" and state.log[number][:1] == (COMMAND,)


def _wrong_head(program: Program, state: State, head: Head) -> str | None:
    memory = content(state.snapshots, head)
    if memory is None:
        return "the head names a blob that is there"
    meant = outcome(program, state, head.number)
    if terminal(state, head.number) is None:
        meant = effect(program, head.number, ())
    if memory != meant:
        return "the head's blob holds exactly the effects of the numbers up to it"
    return _wrong_memory(state)


def _wrong_memory(state: State) -> str | None:
    for worker in state.workers:
        if worker.lease == state.lease and worker.memory is None:
            return "the holder can bring back the state that its results came from"
    return None

"""The state of the run log's model: a stream, a blob store, two trainers. All of it immutable and hashable.

Memory, an adapter with its optimizer, is the tuple of the numbers whose effects it holds (`(-n,)` after a load at
n), so that "no gradient twice, none lost, none out of order" is an equality.
"""

from typing import Literal, NamedTuple, TypeVar

from tests.protocol.run_log_rules import Bounds, Kind

T = TypeVar("T")
Program = tuple[Kind, ...]
"""The commands by number."""
Memory = tuple[int, ...]
COMMAND, REJECTION, TOMBSTONE = "command", "rejection", "tombstone"


class Record(NamedTuple):
    """The result of a number, with the memory that it came from."""

    ok: bool
    memory: Memory


FAILED = Record(False, ())


class Blob(NamedTuple):
    epoch: int
    number: int
    memory: Memory


class Head(NamedTuple):
    number: int
    epoch: int


class Write(NamedTuple):
    """One entry that a worker appends."""

    kind: Literal["result", "head", "entry", "tombstone"]
    number: int
    value: Record | Head | Blob | None = None


class Work(NamedTuple):
    """A snapshot or an export on its way."""

    blob: Blob
    stage: Literal["copied", "stored", "headed", "purged"] = "copied"


class Worker(NamedTuple):
    """One trainer process, as it sees itself."""

    lease: int = 0
    """Place of the lease that it believes to hold, 0 for none."""
    epoch: int = 0
    ready: bool = False
    memory: Memory | None = ()
    """None when the log could not bring it back."""
    applied: int = 0
    known: tuple[bool | None, ...] = ()
    """By number: how it ended, as far as this worker knows."""
    pending: tuple[tuple[int, Record], ...] = ()
    """Outcomes that are not written yet."""
    export: Work | None = None
    snapshot: Work | None = None
    head: Head | None = None
    gap: int | None = None
    """The number that it has decided to give up."""
    doubt: Write | None = None
    peeked: bool = False


class State(NamedTuple):
    """The stream, the blob store and the workers; at the end, the troubles that may still strike."""

    log: tuple[tuple[str, ...], ...]
    """By number: what stands on `cmd.<run>.<number>`; the first entry counts."""
    posted: tuple[bool, ...]
    results: tuple[tuple[Record, ...], ...]
    entries: tuple[Blob | None, ...]
    """By number: the checkpoint entry that a save appended."""
    lease: int
    epoch: int
    head: Head | None
    snapshots: frozenset[Blob]
    exports: frozenset[Blob]
    source: bool
    """Whether the checkpoint that is loaded still exists."""
    workers: tuple[Worker, ...]
    late: tuple[Write, int] | None
    """A write that may still arrive, with the lease in its fence."""
    left: Bounds


# What readers and writers of the stream see of it


def effect(program: Program, number: int, memory: Memory) -> Memory:
    """Memory after the command of that number."""
    kind = program[number]
    return (*memory, number) if kind == "grad" else (-number,) if kind == "load" else memory


def is_result(entries: tuple[str, ...]) -> bool:
    """Whether a number's entry is itself its result."""
    return bool(entries) and entries[0] != COMMAND


def terminal(state: State, number: int) -> Record | None:
    """The result of a number as a client finds it: on its own subject, else a rejection or a tombstone."""
    if state.results[number]:
        return state.results[number][0]
    return FAILED if is_result(state.log[number]) else None


def outcome(program: Program, state: State, until: int) -> Memory | None:
    """What memory holds after `until` by what is recorded; None while a number that changes it has no result."""
    memory: Memory = ()
    for number in range(until + 1):
        record = terminal(state, number)
        if record is None and program[number] != "save":
            return None
        if record is not None and record.ok:
            memory = effect(program, number, memory)
    return memory


def content(blobs: frozenset[Blob], head: Head) -> Memory | None:
    """What the blob that a head names holds, None when it is not there."""
    return next((one.memory for one in blobs if (one.number, one.epoch) == head), None)


def land(state: State, write: Write) -> State:
    """The stream stores a write."""
    number = write.number
    if isinstance(write.value, Record):
        return state._replace(results=put(state.results, number, (*state.results[number], write.value)))
    if isinstance(write.value, Head):
        return state._replace(head=write.value)
    if isinstance(write.value, Blob):
        return state._replace(entries=put(state.entries, number, write.value))
    return state._replace(log=put(state.log, number, (*state.log[number], TOMBSTONE)))


def put(values: tuple[T, ...], at: int, value: T) -> tuple[T, ...]:
    return (*values[:at], value, *values[at + 1 :])


def spend(state: State, trouble: str) -> State:
    """One trouble fewer may strike."""
    left = getattr(state.left, trouble) - 1
    assert left >= 0, f"{trouble} are spent"
    return state._replace(left=state.left._replace(**{trouble: left}))

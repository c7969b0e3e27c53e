"""The protocol by which trainers share a run's log, as a transition system small enough to try every interleaving.

It knows nothing of the code, and says what the code relies on. Two trainers, each as slow as it likes at every
step: that is what a pause (SIGSTOP) or a long pass amounts to. What each step stands for:

- `client posts`: `RunLog.submit` and `reject`, a compare-and-set on the number's own subject, which succeeds
  again once a purge has emptied it (`posts again`). A number may come late, or after its tombstone.
- `takes epoch`: `RunHolder.take`, a compare-and-set on the lease. Anybody may at any time: signs of life permit
  a take-over and protect nothing.
- `recovers`: under the new lease the trainer reads the head, its blob and the recorded results
  (`RunHolder.resolved`). A head at a number without a result is that of a load, which gets its result now.
- `applies`: `Turns.take`: compute what has no result, replay what has one, skip what failed. The
  outcome waits in memory to be written.
- `writes result`, `writes checkpoint entry`, `writes tombstone`, `writes head`: `RunHolder.write` under the
  fence. Before it, `stores the checkpoint` is the blob of `Exports.save`, `judges` the end of a gap's patience.
- `unheard`: the write has happened and its acknowledgement is lost. `held up`: it has not, and may still, at any
  later time (`arrives`). `looks` is `RunHolder._stands`.
- `snapshots at n`, `stores the snapshot`, `writes head`, `purges`, `sweeps`: a copy of memory at n, when every
  number up to n has a durable result; its blob under (epoch, n); the fenced head {blob, n, epoch}; the commands
  up to n leave the log; older blobs are deleted. Neither blobs nor purge are fenced. A purge is one step: one that
  stops half-way under a durable head has only removed less.
- `crashes`: the process is gone with its memory; the next one starts with none.

What is read of the log by one step is read as it stands then: a reader that lags is a trainer that is slow.
Numbers that are not in `Bounds.missing` are in the log from the beginning.
"""

from collections.abc import Iterator

from tests.protocol.run_log_invariants import violated
from tests.protocol.run_log_rules import FENCES, Bounds, Rules
from tests.protocol.run_log_state import (
    COMMAND,
    REJECTION,
    Program,
    State,
    Worker,
    land,
    put,
    spend,
    terminal,
)
from tests.protocol.run_log_trainer import Trainer, words

Step = tuple[str, State]


class RunLogModel:
    """One run, its commands by number, and two trainers."""

    def __init__(
        self, program: Program, bounds: Bounds, rules: Rules | None = None, *, whole: bool = False
    ) -> None:
        """`whole`: follow also what trainers without the lease compute in vain; many more states."""
        self.program = program
        self.bounds = bounds
        rules = rules or Rules()
        self._short = not whole and all(getattr(rules, rule) for rule in FENCES)
        self._trainer = Trainer(program, rules, frozen_without_lease=self._short)
        self._numbers = range(len(program))

    def initial(self) -> State:
        posted = tuple(number not in self.bounds.missing for number in self._numbers)
        return State(
            log=tuple((self._entry(number),) if posted[number] else () for number in self._numbers),
            posted=posted,
            results=tuple(() for _ in self.program),
            entries=tuple(None for _ in self.program),
            lease=0,
            epoch=0,
            head=None,
            snapshots=frozenset(),
            exports=frozenset(),
            source="load" in self.program,
            workers=(Worker(), Worker()),
            late=None,
            left=self.bounds,
        )

    def key(self, state: State) -> object:
        """Which of the workers is called w0 makes no difference, nor does what can have no effect any more."""
        workers, snapshots, exports = state.workers, state.snapshots, state.exports
        if self._short:
            workers = tuple([one if one.lease == state.lease else _what_is_left_of(one) for one in workers])
            named = {work.blob for one in workers for work in (one.snapshot, one.export) if work is not None}
            snapshots = frozenset(
                [one for one in snapshots if one in named or (one.number, one.epoch) == state.head]
            )
            exports = frozenset([one for one in exports if one in named or one in state.entries])
        return (
            *state[:7],
            snapshots,
            exports,
            state.source,
            tuple(sorted(workers, key=hash)),
            state.late,
            state.left,
        )

    def settled(self, state: State) -> bool:
        return all(terminal(state, number) is not None for number in self._numbers)

    def violated(self, state: State) -> str | None:
        return violated(self.program, state)

    def actions(self, state: State) -> Iterator[Step]:
        yield from self._outside(state)
        for index, worker in enumerate(state.workers):
            name = f"w{index}"
            for what, after, changed in self._trainer.moves(state, worker):
                workers = tuple(changed if at == index else one for at, one in enumerate(state.workers))
                yield f"{name} {what}", after._replace(workers=workers)

    # Clients, the network, the keeper of the loaded checkpoint

    def _outside(self, state: State) -> Iterator[Step]:
        for number in self._numbers:
            if not state.posted[number]:
                posted = put(state.posted, number, True)
                yield f"client posts {number}", self._append(state, number)._replace(posted=posted)
            elif not state.log[number] and state.left.again:
                yield f"client posts {number} again", spend(self._append(state, number), "again")
        if state.source:
            yield "the loaded checkpoint is deleted", state._replace(source=False)
        if state.late is not None:
            write, fence = state.late
            after = state._replace(late=None)
            lands = state.lease == fence or not self._trainer.is_fenced(write)
            yield f"{words(write)} arrives", land(after, write) if lands else after

    def _append(self, state: State, number: int) -> State:
        if state.log[number]:
            return state
        return state._replace(log=put(state.log, number, (self._entry(number),)))

    def _entry(self, number: int) -> str:
        return REJECTION if self.program[number] == "reject" else COMMAND


def _what_is_left_of(worker: Worker) -> Worker:
    """All that a worker without the lease can still do: store, purge and sweep what it has begun."""
    purges = worker.snapshot is not None and worker.snapshot.stage == "headed"
    return Worker(
        lease=-1 if worker.lease else 0,
        known=worker.known if purges else (),
        export=worker.export,
        snapshot=worker.snapshot,
        head=worker.head,
        gap=worker.gap,
        peeked=worker.peeked,
    )

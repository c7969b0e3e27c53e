"""What one trainer of the run log's model can do next: its steps, and what each makes of the stream.

A step reads or writes the stream, the blob store or its own memory once, and may be the last of its process.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from tests.protocol.run_log_rules import Rules
from tests.protocol.run_log_state import (
    COMMAND,
    FAILED,
    TOMBSTONE,
    Blob,
    Head,
    Memory,
    Program,
    Record,
    State,
    Work,
    Worker,
    Write,
    content,
    effect,
    is_result,
    land,
    put,
    spend,
    terminal,
)

Move = tuple[str, State, Worker]
"""What happens, the state but for this worker, the worker."""


@dataclass(frozen=True, slots=True)
class Trainer:
    """The steps of a trainer under some rules."""

    program: Program
    rules: Rules
    frozen_without_lease: bool
    """Whether one whose lease is over only finishes what it has begun outside the log."""

    def moves(self, state: State, worker: Worker) -> Iterator[Move]:
        """Everything that `worker` can do next in `state`."""
        if worker != Worker() and state.left.crashes:
            yield "crashes", spend(state, "crashes"), Worker()
        yield from self._take(state, worker)
        if not worker.lease:
            return
        yield from self._export(state, worker)
        yield from self._snapshot(state, worker)
        if self.frozen_without_lease and worker.lease != state.lease:
            yield "finds its lease over", state, Worker()
            return
        if not worker.ready:
            yield "recovers", state, self._recovered(state, worker)
            return
        if worker.doubt is not None:
            yield self._look(state, worker, worker.doubt)
        else:
            for write in self._writes(state, worker):
                yield from self._write(state, worker, write)
        if worker.gap is None:
            yield from self._apply(state, worker)
            yield from self._judge(state, worker)
        if worker.snapshot is None:
            yield from self._begin_snapshot(state, worker)

    # Leases

    def _take(self, state: State, worker: Worker) -> Iterator[Move]:
        if worker.lease == state.lease and state.lease:
            return
        if not self.rules.head_read_under_lease and not worker.peeked:
            yield "reads the head", state, Worker(head=state.head, peeked=True)
            return
        if not self.rules.gap_judged_under_lease and not worker.lease:
            yield from self._judge(state, worker)
        held = any(one.lease == state.lease for one in state.workers) and state.lease > 0
        if held and not state.left.steals:
            return
        epoch = state.epoch + (1 if self.rules.fresh_epochs or not state.epoch else 0)
        after = state._replace(lease=state.lease + 1, epoch=epoch)
        warm = worker.ready and (worker.epoch == state.epoch or not self.rules.cold_after_other_epochs)
        if warm:
            known = self._known(state)
            pending = tuple(one for one in worker.pending if known[one[0]] is None)
            worker = worker._replace(lease=after.lease, epoch=epoch, known=known, pending=pending, doubt=None)
        else:
            gap = None if self.rules.gap_judged_under_lease else worker.gap
            worker = Worker(after.lease, epoch, head=worker.head, peeked=worker.peeked, gap=gap)
        yield f"takes epoch {epoch}", spend(after, "steals") if held else after, worker

    def _known(self, state: State) -> tuple[bool | None, ...]:
        found = (terminal(state, number) for number in range(len(self.program)))
        return tuple(None if record is None else record.ok for record in found)

    def _recovered(self, state: State, worker: Worker) -> Worker:
        head = worker.head if worker.peeked else state.head
        known = self._known(state)
        if head is None:
            return worker._replace(ready=True, known=known, head=None)
        memory = content(state.snapshots, head)
        pending = ((head.number, Record(True, memory or ())),) if known[head.number] is None else ()
        return worker._replace(
            ready=True, memory=memory, applied=head.number + 1, known=known, head=head, pending=pending
        )

    # Writing

    def is_fenced(self, write: Write) -> bool:
        """Whether the stream refuses it when the lease is somebody else's."""
        exempt = {"tombstone": not self.rules.tombstone_fenced, "head": not self.rules.head_fenced}
        return self.rules.fenced and not exempt.get(write.kind, False)

    def _writes(self, state: State, worker: Worker) -> Iterator[Write]:
        """What the worker may write next."""
        for number, record in worker.pending:
            if self._may_resolve(worker, number, record):
                yield Write("result", number, record)
        export, snapshot = worker.export, worker.snapshot
        if export is not None and export.stage == "stored" and self._in_order(worker, export.blob.number):
            yield Write("entry", export.blob.number, export.blob)
        ready = "stored" if self.rules.head_before_purge else "purged"
        if snapshot is not None and snapshot.stage == ready and self._may_head(worker, snapshot.blob.number):
            yield Write("head", snapshot.blob.number, Head(snapshot.blob.number, snapshot.blob.epoch))
        if worker.gap is not None:
            yield Write("tombstone", worker.gap)

    def _in_order(self, worker: Worker, number: int) -> bool:
        earlier = (worker.known[n] is not None for n in range(number) if self.program[n] != "save")
        return all(earlier) or not self.rules.results_in_order

    def _may_resolve(self, worker: Worker, number: int, record: Record) -> bool:
        if self.program[number] == "load" and record.ok and self.rules.load_after_snapshot:
            return worker.head is not None and worker.head.number >= number
        return self.program[number] == "save" or self._in_order(worker, number)

    def _may_head(self, worker: Worker, number: int) -> bool:
        """Every number below has a durable result; that of a load waits for this very head."""
        durable = worker.known[: number if self.rules.head_before_load else number + 1]
        return not self.rules.result_before_ack or None not in durable

    def _write(self, state: State, worker: Worker, write: Write) -> Iterator[Move]:
        what = words(write)
        if self.is_fenced(write) and state.lease != worker.lease:
            yield f"may not write {what}", state, Worker()
            return
        yield f"writes {what}", land(state, write), self._confirmed(worker, write)
        if state.left.unheard:
            landed = spend(land(state, write), "unheard")
            yield f"writes {what}, unheard", landed, worker._replace(doubt=write)
        if write.kind in state.left.held_up:
            left = state.left._replace(held_up=())
            waiting = state._replace(late=(write, worker.lease), left=left)
            yield f"writes {what}, held up", waiting, worker._replace(doubt=write)

    def _confirmed(self, worker: Worker, write: Write) -> Worker:
        """What the writer makes of its acknowledgement."""
        worker = worker._replace(doubt=None)
        if isinstance(write.value, Record):
            pending = tuple(one for one in worker.pending if one[0] != write.number)
            return worker._replace(pending=pending, known=put(worker.known, write.number, write.value.ok))
        if isinstance(write.value, Head):
            assert worker.snapshot is not None, "a head belongs to a snapshot"
            stage: Literal["headed", "purged"] = "headed" if self.rules.head_before_purge else "purged"
            return worker._replace(head=write.value, snapshot=worker.snapshot._replace(stage=stage))
        if isinstance(write.value, Blob):
            saved = (write.number, Record(True, write.value.memory))
            return worker._replace(export=None, pending=(*worker.pending, saved))
        return worker._replace(gap=None)

    def _look(self, state: State, worker: Worker, write: Write) -> Move:
        """After silence: whose lease is it, and does the write stand?"""
        if state.lease != worker.lease:
            return "looks and has lost the lease", state, Worker()
        if self.rules.new_epoch_after_doubt:
            state = state._replace(lease=state.lease + 1, epoch=state.epoch + 1)
            worker = worker._replace(lease=state.lease, epoch=state.epoch)
        if self._stands(state, write):
            return f"looks and finds {words(write)}", state, self._confirmed(worker, write)
        return f"looks and does not find {words(write)}", state, worker._replace(doubt=None)

    def _stands(self, state: State, write: Write) -> bool:
        number = write.number
        match write.kind:
            case "result":
                return bool(state.results[number])
            case "head":
                return state.head == write.value
            case "entry":
                return state.entries[number] == write.value
            case _:
                return state.log[number][-1:] == (TOMBSTONE,)

    # Commands

    def _apply(self, state: State, worker: Worker) -> Iterator[Move]:
        number = worker.applied
        if number >= len(self.program) or not state.log[number] or worker.memory is None:
            return
        memory, known = worker.memory, worker.known[number]
        then = worker._replace(applied=number + 1)
        if state.log[number][0] != COMMAND:
            yield f"passes over {number}", state, then._replace(known=put(worker.known, number, False))
        elif known is False:
            yield f"skips {number}, which failed", state, then
        elif known:
            lost = self.program[number] == "load" and not state.source
            again = None if lost else effect(self.program, number, memory)
            yield f"applies {number} again", state, then._replace(memory=again)
        else:
            yield from self._compute(state, worker, then, memory)

    def _compute(self, state: State, worker: Worker, then: Worker, memory: Memory) -> Iterator[Move]:
        """Apply a command that has no result yet."""
        number, kind = worker.applied, self.program[worker.applied]
        failed = then._replace(pending=(*worker.pending, (number, FAILED)))
        if kind == "save":
            yield from self._save(state, worker, then, memory)
            return
        if kind == "load" and not state.source:
            yield f"applies {number}, which fails", state, failed
            return
        if kind == "load" and worker.snapshot is not None:
            return  # its own snapshot is next
        after = effect(self.program, number, memory)
        done = then._replace(memory=after, pending=(*worker.pending, (number, Record(True, after))))
        if kind == "load":
            done = done._replace(snapshot=Work(Blob(worker.epoch, number, after)))
        yield f"applies {number}", state, done
        if state.left.failures:
            yield f"applies {number}, which fails", spend(state, "failures"), failed

    def _save(self, state: State, worker: Worker, then: Worker, memory: Memory) -> Iterator[Move]:
        number = worker.applied
        if (entry := state.entries[number]) is not None:
            own = (number, Record(True, entry.memory))
            yield f"finds its entry of {number}", state, then._replace(pending=(*worker.pending, own))
        elif worker.export is None:
            export = Work(Blob(worker.epoch, number, memory))
            yield f"applies {number}", state, then._replace(export=export)

    def _judge(self, state: State, worker: Worker) -> Iterator[Move]:
        """A number that later ones have waited for too long; one that does not hold the run knows less."""
        known = worker.applied if worker.ready else 0
        number = next((n for n in range(known, len(self.program)) if not state.log[n]), None)
        if worker.ready and number != worker.applied:
            return
        if number is not None and worker.gap is None and any(state.log[number + 1 :]):
            yield f"judges that {number} is not coming", state, worker._replace(gap=number)

    # Exports and snapshots

    def _export(self, state: State, worker: Worker) -> Iterator[Move]:
        if worker.export is not None and worker.export.stage == "copied":
            blob = worker.export.blob
            stored = state._replace(exports=_stored(state.exports, blob))
            what = f"stores the checkpoint of {blob.number} under epoch {blob.epoch}"
            yield what, stored, worker._replace(export=worker.export._replace(stage="stored"))

    def _snapshot(self, state: State, worker: Worker) -> Iterator[Move]:
        work = worker.snapshot
        if work is None:
            return
        blob, number = work.blob, work.blob.number
        purge_at = "headed" if self.rules.head_before_purge else "stored"
        if work.stage == "copied":
            stored = state._replace(snapshots=_stored(state.snapshots, blob))
            what = f"stores the snapshot at {number} under epoch {blob.epoch}"
            yield what, stored, worker._replace(snapshot=work._replace(stage="stored"))
        elif work.stage == purge_at and (
            worker.known[number] is not None or not self.rules.result_before_ack
        ):
            purged = worker._replace(snapshot=work._replace(stage="purged"))
            yield f"purges up to {number}", self._purged(state, number), purged
        elif work.stage == "purged" and worker.head == (number, blob.epoch):
            yield f"sweeps behind {number}", self._swept(state, blob), worker._replace(snapshot=None)

    def _begin_snapshot(self, state: State, worker: Worker) -> Iterator[Move]:
        number = worker.applied - 1
        newer = number > (worker.head.number if worker.head is not None else -1)
        durable = None not in worker.known[: number + 1] or not self.rules.result_before_ack
        if newer and durable and worker.memory is not None:
            work = Work(Blob(worker.epoch, number, worker.memory))
            yield f"snapshots at {number}", state, worker._replace(snapshot=work)

    def _purged(self, state: State, number: int) -> State:
        log = tuple(
            entries if at > number or (self.rules.purge_spares_results and is_result(entries)) else ()
            for at, entries in enumerate(state.log)
        )
        return state._replace(log=log)

    def _swept(self, state: State, own: Blob) -> State:
        kept = (
            one
            for one in state.snapshots
            if one[:2] == own[:2] or (self.rules.sweep_only_older and one[:2] > own[:2])
        )
        return state._replace(snapshots=frozenset(kept))


def _stored(blobs: frozenset[Blob], blob: Blob) -> frozenset[Blob]:
    """A blob never changes: the first under a name stays (`FolderBlobs`)."""
    return blobs if any(one[:2] == blob[:2] for one in blobs) else blobs | {blob}


def words(write: Write) -> str:
    """How a trace names a write."""
    name = {"result": "result", "head": "head at", "entry": "checkpoint entry", "tombstone": "tombstone"}
    value = f" {'ok' if write.value.ok else 'failed'}" if isinstance(write.value, Record) else ""
    return f"{name[write.kind]} {write.number}{value}"

"""Many runs created, stepped, finished and deleted on one stack, and what they leave behind.

    python -m tests.soak.trial [--runs 200] [--warm 40]

Measured when `--warm` runs are over and again after the last, each time once all that they held is released:

- resident memory of every process that is up all the while: within 5 %;
- the data folder without logs, which are cut at 10 MB each, and without `FACTS`: within 20 MB;
- messages of every stream, and consumers: equal.

What may stay, and is left out of the count: facts are a log, kept for 7 days whatever becomes of their run
(`FACTS`); a service's processes say that they live (`ALIVE`), for 10 s; a message planned for later (`later.>`)
stands for one day's expired payloads, however many there are. Results of samples live a day but end with their
sampler, so they count. NATS keeps in memory the block of each stream that it writes, which grows up to 8 MB
whatever has been deleted from it, and its collector lets as much again lie: before anything is measured, the two
streams whose blocks last (`FACTS`, `RECORDS`) are brought there by large messages. Prints a table; exits 1 when
anything grew.
"""

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import psutil

from events import catalog, facts, names
from events.bus import Bus
from events.record_store import Records
from events.records import ServiceRecord
from events.streams import ALIVE, CHECKPOINT, FACTS, SAMPLE
from rekindle.types import ServiceInfo
from services.local import nats_server
from tests.gateway.wire import Run, Wire, connect, datum
from tests.stack import Stack, running_stack
from tests.tiny_model import make_tiny_model

MEMORY_SHARE = 0.05
DISK_BYTES = 20_000_000
FILLER = "filler"
CLIENTS = 4
"""Runs at once."""
FILLING, FILLINGS = 500_000, 48
"""Bytes of a large message, and how many of them take a stream beyond its first block."""
LARGE = [datum(*range(5, 505))] * 64
"""A batch that does not travel inline."""
RELEASE_SECONDS = 60.0
LOOK_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Figures:
    """What a stack holds at one moment."""

    pids: Mapping[str, int]
    """Of its processes, by name."""
    memory: Mapping[str, int]
    """Resident bytes, by process."""
    disk: int
    """Bytes of the data folder that count."""
    messages: Mapping[str, int]
    """By stream, and `consumers` of all."""
    facts: int
    """Messages of `FACTS`."""


@dataclass(frozen=True, slots=True)
class Soak:
    """Before and after."""

    warm: Figures
    end: Figures

    def findings(self, share: float = MEMORY_SHARE) -> Iterator[str]:
        """What grew, memory by more than `share`; nothing when all is well."""
        if self.warm.pids != self.end.pids:
            yield f"processes have ended: {self.warm.pids} became {self.end.pids}"
        for process, before in self.warm.memory.items():
            if self.end.memory[process] > before * (1 + share):
                yield f"{process} grew from {_mb(before)} to {_mb(self.end.memory[process])} MB"
        if self.end.disk > self.warm.disk + DISK_BYTES:
            yield f"the data folder grew from {_mb(self.warm.disk)} to {_mb(self.end.disk)} MB"
        for stream, count in self.end.messages.items():
            if count != self.warm.messages.get(stream, 0):
                yield f"{stream}: {self.warm.messages.get(stream, 0)} became {count}"


def soak(stack: Stack, runs: int, warm: int) -> Soak:
    """Run `runs` runs, the first `warm` of them before anything is measured."""
    with connect(stack.url, stack.base_model) as wire, ThreadPoolExecutor(CLIENTS) as pool:
        asyncio.run(fill_blocks(stack))
        list(pool.map(lambda number: live(wire, number), range(warm)))
        before = asyncio.run(measure(stack))
        list(pool.map(lambda number: live(wire, number), range(warm, runs)))
        return Soak(before, asyncio.run(measure(stack)))


async def fill_blocks(stack: Stack) -> None:
    """Take the streams that last to the size that their memory has in the long run."""
    bus = await Bus.connect(nats_server.address(stack.data_dir).url, name="auditor")
    text = "x" * FILLING
    for number in range(FILLINGS):
        fact = facts.make_fact(
            catalog.RUN_STARTED,
            tenant=FILLER,
            service=FILLER,
            subject=FILLER,
            id=str(number),
            data={FILLER: text},
        )
        await facts.publish(bus, FILLER, fact)
        about = ServiceInfo(name=FILLER, kind=FILLER, reason=text)
        await Records(bus).replace(FILLER, FILLER, ServiceRecord(about=about))
    await bus.close()


def live(wire: Wire, number: int) -> None:
    """One run from its creation to its deletion; each is a little different from the one before."""
    run = wire.run(rank=2 ** (1 + number % 3))
    for _ in range(2):
        run.train()
        run.step()
    if number < CLIENTS or number % 10 == 0:  # at first all at once: there is no higher peak later
        large = run.post_batch(run.batch(run.number(), *LARGE)).json()["request_id"]
        assert wire.result(large).status_code == 200
    save = {"model_id": run.id, "seq_id": run.number(), "sampling_session_seq_id": 0}
    saved = wire.result(wire.ok("/save_weights_for_sampler", save)["request_id"]).json()
    if number % 2 == 0:
        _sample(wire, saved["sampling_session_id"])
    if number % 4 == 0:
        _save_and_delete(wire, run)
    reason = {"type": "success"}
    wire.ok(f"/sessions/{run.session}/finish", {"reason": reason})
    assert wire.http.delete(f"training_runs/{run.id}").status_code in (204, 404)


def _sample(wire: Wire, sampler: str) -> None:
    body = {
        "sampling_session_id": sampler, "seq_id": 0, "num_samples": 2,
        "prompt": {"chunks": [{"type": "encoded_text", "tokens": [5, 6, 7]}]},
        "sampling_params": {"max_tokens": 8},
    }  # fmt: skip
    answer = wire.result(wire.ok("/asample", body)["request_id"])
    assert answer.headers["content-type"] == "application/x-protobuf", answer.text


def _save_and_delete(wire: Wire, run: Run) -> None:
    """Two named checkpoints; one of them goes before its run does."""
    for name in ("first", "second"):
        body = {"model_id": run.id, "seq_id": run.number(), "path": name}
        assert "path" in wire.result(wire.ok("/save_weights", body)["request_id"]).json()
    assert wire.http.delete(f"training_runs/{run.id}/checkpoints/weights/first").status_code == 204


async def measure(stack: Stack) -> Figures:
    """What the stack holds once nothing is being released any more."""
    bus = await Bus.connect(nats_server.address(stack.data_dir).url, name="auditor")
    async with asyncio.timeout(RELEASE_SECONDS):
        while [s for queue in (CHECKPOINT, SAMPLE) for s in await bus.subjects(queue, ">") if _counts(s)]:  # noqa: ASYNC110 - nothing tells when the last message goes
            await asyncio.sleep(LOOK_SECONDS)
    messages, said = await _messages(bus)
    await bus.close()
    pids = {row["name"]: row["pid"] for row in stack.rows() if row["pid"] is not None}
    memory = {name: psutil.Process(pid).memory_info().rss for name, pid in pids.items()}
    return Figures(pids, memory, _disk(stack.data_dir), messages, said)


async def _messages(bus: Bus) -> tuple[dict[str, int], int]:
    """(messages that count by stream, and consumers; facts)."""
    infos = {str(info.config.name): info.state for info in await bus.js.streams_info()}
    counts = {name: state.messages for name, state in infos.items() if name not in (ALIVE, FACTS)}
    for name in counts:
        counts[name] -= len(await bus.subjects(name, names.later_subject(">")))
    counts["consumers"] = sum(state.consumer_count for state in infos.values())
    return counts, infos[FACTS].messages


def _counts(subject: str) -> bool:
    return not subject.startswith(names.later_subject(""))


def _disk(data_dir: Path) -> int:
    """Bytes on disk, folders included."""
    left_out = {data_dir / "logs", data_dir / "nats" / "jetstream" / "$G" / "streams" / FACTS}
    found = 0
    for path in data_dir.rglob("*"):
        if left_out.isdisjoint([path, *path.parents]):
            try:
                found += path.lstat().st_blocks * 512
            except FileNotFoundError:
                continue  # it went while we looked
    return found


def _mb(size: int) -> str:
    return f"{size / 1e6:.1f}"


def table(result: Soak) -> str:
    """The figures for a person."""
    rows = [("", "warm", "end")]
    rows += [
        (f"memory of {name}, MB", _mb(size), _mb(result.end.memory[name]))
        for name, size in result.warm.memory.items()
        if name in result.end.memory
    ]
    rows.append(("data folder, MB", _mb(result.warm.disk), _mb(result.end.disk)))
    rows += [
        (name, str(result.warm.messages.get(name, 0)), str(count))
        for name, count in result.end.messages.items()
    ]
    rows.append((f"{FACTS} (kept for 7 days)", str(result.warm.facts), str(result.end.facts)))
    return "\n".join(f"{name:45}{warm:>10}{end:>10}" for name, warm, end in rows)


def main() -> None:
    parser = argparse.ArgumentParser(prog="task soak --", description=__doc__)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--warm", type=int, default=40)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = make_tiny_model(Path(folder) / "models" / "tiny")
        with running_stack(model, Path(folder) / "data", ["--idle", "0"]) as stack:
            result = soak(stack, options.runs, options.warm)
    findings = list(result.findings())
    sys.stdout.write(table(result) + "\n" + "".join(f"WRONG: {finding}\n" for finding in findings))
    sys.exit(1 if findings else 0)


if __name__ == "__main__":
    main()

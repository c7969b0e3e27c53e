"""What a loop leaves behind on a stack: in the streams, in the data folder, among the processes.

Everything here returns findings: sentences about what is not as it should be, none when all is well.
"""

import asyncio
import ctypes
import re
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import psutil

from events import names
from events.bus import Bus
from events.checkpoints import Checkpoints
from events.lease import read_head
from events.record_store import Records
from events.records import RunRecord, SamplerRecord
from services.local import nats_server
from tests.stack import Stack

TENANT = "local"
RELEASE_SECONDS = 60.0
"""What becomes of a session may wait for processes that were killed last."""
EMPTY = ("SAMPLE", "REWARD", "DATA", "CHECKPOINT", "DEAD")
OWN_FILES = {"blobs", "links.key", "lock", "logs", "nats", "nats.conf", "nats.json", "ports.json"}
"""What belongs into the data folder of a stack that has ended."""
PR_SET_CHILD_SUBREAPER = 36


async def audit(stack: Stack, run_id: str) -> list[str]:
    """Whether every operation of a run, whose session still lives, has one terminal record."""
    entries = await entries_of(stack, stack.base_model, run_id)
    counts = {int(s.rpartition(".")[2]): n for s, n in entries.items() if ".result." in s}
    found = []
    if doubled := {number: count for number, count in counts.items() if count != 1}:
        found.append(f"results written more than once: {doubled}")
    if missing := set(range(max(counts) + 1)) - counts.keys():
        found.append(f"operations without a result: {sorted(missing)}")
    return found


async def entries_of(stack: Stack, base: str, run_id: str) -> dict[str, int]:
    """How many entries a run's log has on each subject."""
    bus = await _connect(stack)
    root = names.run_root(base, TENANT, run_id)
    info = await bus.js.stream_info(names.run_stream(base), subjects_filter=f"{root}.>")
    await bus.close()
    return dict(info.state.subjects or {})


async def is_released(stack: Stack, base: str, run_id: str) -> bool:
    """Whether the last holder of a run has let go of it."""
    bus, root = await _connect(stack), names.run_root(base, TENANT, run_id)
    head = await read_head(bus, names.run_stream(base), root)
    await bus.close()
    return head.released


async def left_behind(stack: Stack, run_id: str) -> list[str]:
    """What is in streams and blob store though the session has ended for so long that nothing should be."""

    async def look(stack: Stack, bus: Bus) -> list[str]:
        return await queued(stack, bus) + await _entries(stack, bus) + await _blobs(stack, bus, run_id)

    return await until_none(stack, look)


async def until_none(stack: Stack, look: Callable[[Stack, Bus], Awaitable[list[str]]]) -> list[str]:
    """Look until nothing is found, at most as long as a release may take; what was found last."""
    bus = await _connect(stack)
    deadline = time.monotonic() + RELEASE_SECONDS
    while (found := await look(stack, bus)) and time.monotonic() < deadline:  # noqa: ASYNC110 - nothing tells
        await asyncio.sleep(0.1)
    await bus.close()
    return found


async def _connect(stack: Stack) -> Bus:
    return await Bus.connect(nats_server.address(stack.data_dir).url, name="auditor")


async def queued(_: Stack, bus: Bus) -> list[str]:
    """Work queues and dead letters hold nothing but what is meant for later."""
    found = {queue: await bus.subjects(queue, ">") for queue in EMPTY}
    left = {queue: [one for one in some if not one.startswith("later.")] for queue, some in found.items()}
    return _held(left)


async def _entries(stack: Stack, bus: Bus) -> list[str]:
    """Logs hold nothing but entries of checkpoints; nothing is known of samplers."""
    log = await bus.subjects(names.run_stream(stack.base_model), f"{names.run_base(stack.base_model)}.>")
    samplers = await Records(bus).all(SamplerRecord, TENANT)
    left = {
        "the log": [subject for subject in log if ".checkpoint." not in subject],
        "RESULTS": await bus.subjects("RESULTS", "result.sample.>"),
        "RECORDS": [one.sampler_id for one in samplers],
    }
    return _held(left)


def _held(left: dict[str, list[str]]) -> list[str]:
    return [f"{stream} still holds {some[:3]}" for stream, some in left.items() if some]


async def _blobs(stack: Stack, bus: Bus, run_id: str) -> list[str]:
    """Files: those of named checkpoints and no others."""
    root, records = stack.data_dir / "blobs", Records(bus)
    run = await records.get(RunRecord, TENANT, run_id)
    named = [root / entry.blob for entry in await Checkpoints(bus, records).of_run(TENANT, run)]
    files = [path for path in root.rglob("*") if path.is_file()]
    unnamed = [path for path in files if not any(path.is_relative_to(blob) for blob in named)]
    gone = [blob for blob in named if not any(blob.iterdir())]
    found = [f"blobs that nobody names: {[str(path.relative_to(root)) for path in unnamed[:3]]}"]
    return (found if unnamed else []) + [f"a checkpoint without files: {blob}" for blob in gone]


def files_left(data_dir: Path, temporary: Path) -> list[str]:
    """Of a stack that has ended and whose temporary files belong into a folder of their own."""
    left = [str(path) for path in [*temporary.rglob("*"), *(data_dir / "blobs" / "aside").iterdir()]]
    left += sorted({path.name for path in data_dir.iterdir()} - OWN_FILES)
    return [f"temporary files: {left[:3]}"] if left else []


def adopt_orphans() -> None:
    """Let processes whose parent dies become children of this one, so that none gets out of sight."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)


def processes_left() -> list[str]:
    """Living children of this process, adopted ones included."""
    children = psutil.Process().children(recursive=True)
    living = [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
    return [f"processes outlived the stack: {[child.name() for child in living[:3]]}"] if living else []


def replayed(data_dir: Path) -> int:
    """How many commands trainers applied again after they had taken a run, by their own log."""
    text = (data_dir / "logs" / "train-0.log").read_text()
    return sum(map(int, re.findall(r"\brun\.replayed\b.*?\bcommands=(\d+)", text)))

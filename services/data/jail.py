"""Runs a task in a process of its own, which may die of it without harm.

Promises: whatever a file does to its reader, the caller gets summaries, a UserError or a ServerError; the
process is gone when the call ends, also by cancellation. Where `shield` was called, a reader that its file has taken
over does not find our keys in /proc.
"""

import asyncio
import ctypes
import os
import signal
import sys
from pathlib import Path

import structlog

from events.failure import ServerError, UserError
from services.data.child import DeriveTask, IngestTask, Outcome, Work
from services.data.summary import Summary

log = structlog.get_logger(__name__)

CRASHES = frozenset({signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE})
"""Signals by which a reader says that the file was too much for it."""
LAST_WORDS = 2000
ROOT = Path(__file__).resolve().parents[2]
KEPT = ("PATH", "LD_LIBRARY_PATH", "PYTHONHOME", "LANG", "TZDIR")
"""Variables the process is given, none of which is a secret."""


PR_SET_DUMPABLE = 4


def shield() -> None:
    """Let no other process of this user read what this one holds: its memory, and variables with keys in them."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)


async def run(task: IngestTask | DeriveTask) -> tuple[Summary, ...]:
    """Raises UserError for what is wrong with the file, ServerError for what is wrong here."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "services.data.child",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=_environment(),
    )
    try:
        async with asyncio.timeout(task.limits.seconds):
            said, wrote = await process.communicate(Work(task=task).model_dump_json().encode())
    except TimeoutError:
        raise UserError(f"file: reading it takes longer than {task.limits.seconds:.0f} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return _judge(process.returncode or 0, said, wrote)


def _judge(code: int, said: bytes, wrote: bytes) -> tuple[Summary, ...]:
    if code == 0:
        outcome = Outcome.model_validate_json(said)
        if outcome.mistake is not None:
            raise UserError(outcome.mistake)
        return outcome.summaries
    if -code in CRASHES:
        raise UserError(f"file: not readable, its reader ended with {signal.Signals(-code).name}")
    words = wrote.decode(errors="replace").strip()[-LAST_WORDS:]
    log.error("reader.ended", code=code, words=words)
    raise ServerError(f"the reader of the file ended with code {code}; the log says more", retryable=True)


def _environment() -> dict[str, str]:
    """One thread and one heap: each more would reserve address space that the limit counts."""
    return {name: os.environ[name] for name in KEPT if name in os.environ} | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "sdk")]),
        "ARROW_DEFAULT_MEMORY_POOL": "system",
        "ARROW_IO_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MALLOC_ARENA_MAX": "1",
    }

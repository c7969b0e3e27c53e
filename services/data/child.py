"""The process that opens files from outside: one task, then it ends.

A file may be made to exhaust memory or crash the library that reads it. So this process has a limit on its
memory, is killed when its parent dies or loses patience, and says on standard output what came of its task.
"""

import ctypes
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from rekindle.types import InvalidField
from rekindle.types.datasets import Compression, Derivation, Format
from services.data.limits import MIB, Limits
from services.data.summary import Summary

PR_SET_PDEATHSIG = 1


class Task(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    limits: Limits
    parent: int
    """Process id of who asks."""


class IngestTask(Task):
    """Make a version of an uploaded file."""

    kind: Literal["ingest"] = "ingest"
    paths: tuple[Path, ...]
    """The file's parts, in order."""
    format: Format
    compression: Compression
    size_bytes: int
    sha256: str | None
    """What the file must hash to; None: it is our own."""
    folder: Path
    """Where the version goes."""


class DeriveTask(Task):
    """Make versions from a version."""

    kind: Literal["derive"] = "derive"
    source: Path
    derivation: Derivation
    folders: tuple[Path, ...]
    """Where the versions go, in the order of the parts."""


class Work(BaseModel):
    task: IngestTask | DeriveTask = Field(discriminator="kind")


class Outcome(BaseModel):
    """What came of a task: summaries of versions, or the mistake in what was sent."""

    summaries: tuple[Summary, ...] = ()
    mistake: str | None = None


def work(task: IngestTask | DeriveTask) -> list[Summary]:
    """Raises InvalidField for what the file or the derivation does wrong, MemoryError where it needs too much."""
    # Under the limit already: these libraries map large files into memory.
    from services.data.derive import derive
    from services.data.ingest import ingest
    from services.data.source import check_content

    if isinstance(task, DeriveTask):
        return derive(task.source, task.derivation, task.folders)
    if task.sha256 is not None:
        check_content(task.paths, task.size_bytes, task.sha256)
    return [ingest(list(task.paths), task.format, task.compression, task.folder, task.limits)]


def confine(task: Task) -> None:
    """No more memory than allowed, no core dump, and no life without the parent."""
    resource.setrlimit(resource.RLIMIT_AS, (task.limits.memory_bytes, task.limits.memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != task.parent:  # it died before we asked to hear of it
        sys.exit(1)


def main() -> None:
    task = Work.model_validate_json(sys.stdin.buffer.read()).task
    confine(task)
    try:
        outcome = Outcome(summaries=tuple(work(task)))
    except InvalidField as error:
        outcome = Outcome(mistake=str(error))
    except MemoryError:
        limit = task.limits.memory_bytes // MIB
        outcome = Outcome(
            mistake=f"file: too large in memory; reading it takes more than {limit} MiB at once"
        )
    sys.stdout.write(outcome.model_dump_json())


if __name__ == "__main__":
    main()

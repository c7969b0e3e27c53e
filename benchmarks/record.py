"""One measured table on disk: `benchmarks/results/NAME.json`.

Promises: a result says what was run, on which commit and machine, and when; nothing is written that lacks
one of them. It does not know how the figures were measured.
"""

import datetime
import os
import platform
import subprocess
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Annotated, Self

import psutil
from pydantic import BaseModel, ConfigDict, Field, model_validator

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
# Their change is the effect of a measurement, not a change of what is measured.
OUTPUTS = ("benchmarks/results", "README.md")

Text = Annotated[str, Field(min_length=1)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]
Cell = str | int | float | None


class Result(BaseModel):
    """E.g. `Result(command="task bench", columns=["sequences", "tokens/s"], rows=[[1, 410.5]], ...)`."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    command: Text
    """The command that repeats the measurement."""
    commit: Text
    """Commit of the code, with the suffix `-dirty` where files differed from it."""
    machine: Text
    """Processor, cores, memory, system and versions, in words."""
    date: datetime.date
    columns: list[Text] = Field(min_length=1)
    """Headings, with their units."""
    rows: list[list[Cell]] = Field(min_length=1)
    """As many cells in each as there are columns; None: not measured."""
    note: str | None = None
    """A sentence below the table: what a reader must know to read it right."""

    @model_validator(mode="after")
    def _rows_are_as_long_as_columns(self) -> Self:
        for number, row in enumerate(self.rows):
            if len(row) != len(self.columns):
                raise ValueError(f"rows[{number}] has {len(row)} cells, columns has {len(self.columns)}")
        return self


def record(
    name: Name,
    columns: Sequence[str],
    rows: Sequence[Sequence[Cell]],
    *,
    command: str,
    note: str | None = None,
) -> Path:
    """Write the result `name` as of now, here; return its file.

    Raises:
        pydantic.ValidationError: a row is not as long as `columns`, a number is not finite, or there is none.
    """
    result = Result(
        command=command,
        commit=commit(),
        machine=machine(),
        date=datetime.datetime.now(datetime.UTC).date(),
        columns=list(columns),
        rows=[list(row) for row in rows],
        note=note,
    )
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(result.model_dump_json(indent=2) + "\n")
    return path


def commit() -> str:
    """Commit of the working tree, e.g. `3f2c1e0a9b` or `3f2c1e0a9b-dirty`."""
    head = git("rev-parse", "--short=10", "HEAD")
    changes = git(
        "status", "--porcelain", "--untracked-files=no", "--", ".", *(f":!{path}" for path in OUTPUTS)
    )
    return f"{head}-dirty" if changes else head


def git(*arguments: str) -> str:
    """What git says in the repository."""
    return subprocess.run(
        ["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.strip()


def machine() -> str:
    """E.g. `Intel Xeon (2 cores), 24 GiB, Linux 6.18, Python 3.11.7, torch 2.13.0+cpu`."""
    memory = round(psutil.virtual_memory().total / 2**30)
    system = f"{platform.system()} {'.'.join(platform.release().split('.')[:2])}"
    versions = f"Python {platform.python_version()}, torch {metadata.version('torch')}"
    return f"{processor()} ({cores()} cores), {memory} GiB, {system}, {versions}"


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def processor() -> str:
    """The processor's name where the system gives it, else its architecture."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()

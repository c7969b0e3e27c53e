"""What a guest may use, and how it ended. Numbers and words only; who enforces them stands in `layers`."""

from dataclasses import dataclass
from typing import Literal

MIB = 1024 * 1024

How = Literal["exit", "signal", "time", "cpu", "memory", "output"]


@dataclass(frozen=True, slots=True)
class Limits:
    """For one run. Example: Limits(seconds=2.0, memory_bytes=256 * 1024 * 1024)."""

    seconds: float = 5.0
    """Wall clock, from the moment that the guest is confined and goes on to its code; not the wait before."""
    cpu_seconds: float = 5.0
    """Processor time of all its threads. Looked at ten times a second; the kernel ends it at the next whole second."""
    memory_bytes: int = 512 * MIB
    """Address space that it may map beyond what the warm interpreter holds, thread stacks included."""
    output_bytes: int = MIB
    """Of standard output, standard error and report together; beyond it the guest is killed."""
    file_bytes: int = 16 * MIB
    """Of one file (the write fails) and of its scratch folder in all (looked at ten times a second, then killed)."""
    open_files: int = 64
    """Descriptors at one time, the four of its own streams and the `fds` of its run included."""
    threads: int = 0
    """Beside the main thread. With 0 the first one fails to start; above, the guest is killed for one too many."""

    def __post_init__(self) -> None:
        for name in ("seconds", "cpu_seconds", "memory_bytes", "output_bytes"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: must be above 0, is {getattr(self, name)}")
        for name in ("file_bytes", "threads"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: must not be negative, is {getattr(self, name)}")
        if self.open_files < 8:
            raise ValueError(f"open_files: must be at least 8, is {self.open_files}")


@dataclass(frozen=True, slots=True)
class Ended:
    """What became of a guest. Example: Ended("exit", 0, b"4\\n", b"", b"", 0.004)."""

    how: How
    """`exit` by itself, `signal` by one that it drew upon itself (a crash, a forbidden system call, too many threads),
    `time`, `cpu`, `memory` and `output` by that limit. `output` covers the streams and the scratch folder. `memory`
    is the best guess for a MemoryError that nobody caught and for a SIGKILL from nobody here; code that means to can
    feign it, so it may never excuse a guest."""
    code: int | None
    """Exit status after `exit`, the signal's number after `signal`, None otherwise."""
    stdout: bytes
    stderr: bytes
    report: bytes
    """What it wrote to its report; like the others cut where `output_bytes` was reached."""
    seconds: float
    """Wall clock from the moment that it went on to its code until it was gone."""

"""What fails when the reward service of a test grades: decided by a hash of what is graded, and told by links.

On most nothing happens; on some every attempt fails, on others the first one. A fault is an exception, a hang, or the
death of the grading process. Whoever is about to fail leaves a link in a folder, `NAME.ATTEMPT` → `KIND PID`: a grading
process can write no file.
"""

import hashlib
import itertools
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

FOLDER = "FAULTS"
"""Variable with the folder of the links."""
ALWAYS, FIRST = 0.2, 0.1
"""Shares of what is graded: every attempt fails, or the first one."""
KINDS = {"hang": 0.015, "kill": 0.06, "raise": 1.0}
"""Shares of the faults, cumulated; those that cost a process are rarer."""


@dataclass(frozen=True, slots=True)
class Fate:
    """E.g. Fate("always", "hang")."""

    times: Literal["never", "first", "always"]
    kind: str


def name_of(prompt: str, completion: str, columns: Mapping[str, Any]) -> str:
    """Of something graded: 16 hex digits."""
    seen = json.dumps([prompt, completion, dict(columns)], sort_keys=True)
    return hashlib.sha256(seen.encode()).hexdigest()[:16]


def fate_of(name: str) -> Fate:
    share, which = (int(part, 16) / 2**32 for part in (name[:8], name[8:]))
    kind = next(kind for kind, most in KINDS.items() if which < most)
    return Fate("always" if share < ALWAYS else "first" if share < ALWAYS + FIRST else "never", kind)


def strikes(fate: Fate, name: str) -> bool:
    """Whether this attempt fails; noted if so."""
    attempts = {"never": iter(()), "first": iter([1]), "always": itertools.count(1)}[fate.times]
    for attempt in attempts:
        try:
            os.symlink(f"{fate.kind} {os.getpid()}", Path(os.environ[FOLDER], f"{name}.{attempt}"))
            return True
        except FileExistsError:
            continue  # that was an earlier attempt
    return False


@dataclass(frozen=True, slots=True)
class Injected:
    """A fault that has happened. Example: Injected("0f3a9c1255aa0b7e", 1, "kill", 4711)."""

    name: str
    attempt: int
    kind: str
    pid: int


def injected(folder: Path) -> list[Injected]:
    """All that are noted, by name and attempt."""
    found = []
    for link in folder.iterdir():
        (name, attempt), (kind, pid) = link.name.split("."), os.readlink(link).split()
        found.append(Injected(name, int(attempt), kind, int(pid)))
    return sorted(found, key=lambda one: (one.name, one.attempt))

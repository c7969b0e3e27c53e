"""Reads Dockerfiles, as far as ours go: instructions with their arguments, stage by stage."""

import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Instruction:
    """One line, continuations included, e.g. `Instruction("USER", "65532:65532")`."""

    name: str
    rest: str


def instructions(path: Path) -> list[Instruction]:
    """All of a file."""
    lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
    whole = re.sub(r"\\\n\s*", "", "\n".join(lines))
    found = [line.partition(" ") for line in whole.splitlines() if line.strip()]
    return [Instruction(name, rest) for name, _, rest in found]


def stages(path: Path) -> list[list[Instruction]]:
    """The instructions from one FROM to the next; what stands before the first comes first."""
    found: list[list[Instruction]] = [[]]
    for one in instructions(path):
        if one.name == "FROM":
            found.append([])
        found[-1].append(one)
    return found


def named(stage: list[Instruction], name: str) -> list[str]:
    """What the instructions of that name say."""
    return [one.rest for one in stage if one.name == name]


def one(stage: list[Instruction], name: str) -> str:
    """What the only instruction of that name says."""
    (said,) = named(stage, name)
    return said

"""Tests as a row of the data set holds them. A mistake here is the data's, never the rollout's."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rekindle.types.rewards import MAX_TESTS, PythonParams


@dataclass(frozen=True, slots=True)
class Pair:
    """The whole program runs on `stdin` and shall print `stdout`, which never leaves this process."""

    stdin: str
    stdout: str


@dataclass(frozen=True, slots=True)
class Assertions:
    """Python that calls what the program defines, and raises if that is wrong."""

    setup: str
    text: str


Test = Pair | Assertions


def tests_of(params: PythonParams, row: Mapping[str, Any]) -> list[Test]:
    """The row's tests. Raises ValueError that names the column."""
    name, value = params.tests_column, row[params.tests_column]
    listed = value if isinstance(value, list) else [value]
    if not 1 <= len(listed) <= MAX_TESTS:
        raise ValueError(f"column {name!r}: {len(listed)} tests, expected 1 to {MAX_TESTS}")
    setup = "" if params.setup_column is None else row[params.setup_column]
    if not isinstance(setup, str):
        raise ValueError(f"column {params.setup_column!r}: a {type(setup).__name__}, expected a text")
    return [_test(one, setup, f"column {name!r}: test {number}") for number, one in enumerate(listed, 1)]


def _test(value: Any, setup: str, place: str) -> Test:
    match value:
        case str() if value.strip():
            return Assertions(setup, value)
        case {"stdin": str() as given, "stdout": str() as wanted, **others} if not others:
            return Pair(given, wanted)
    raise ValueError(f"{place}: expected a text of Python or {{'stdin': text, 'stdout': text}}")


def same_output(wanted: str, printed: bytes) -> bool:
    """Whether they are equal, but for white space at the ends of lines and of the whole."""
    ours, theirs = wanted.rstrip(), printed.decode(errors="replace").rstrip()
    # A program may print nothing but ends of lines: no list of them is made unless so many are wanted.
    return ours.count("\n") == theirs.count("\n") and _lines(ours) == _lines(theirs)


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.split("\n")]

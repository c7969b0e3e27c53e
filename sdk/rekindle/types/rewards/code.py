"""Graders that run code in the sandbox: the completion's own, on tests, and a function of the user's."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from rekindle.types.rewards.basics import ColumnName, Exact, Judging, Params, Pattern, Seconds

FunctionName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,62}$")]
"""What a tenant calls a reward function of its own."""
FunctionVersion = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")]
"""The first 16 hex digits of the sha256 of its file."""
MAX_TESTS = 64


class PythonParams(Params):
    """Runs the completion's program on the row's tests: the share of tests that it passes.

    A test is `{"stdin": "2 3\\n", "stdout": "5\\n"}`, where the whole program runs, or a text of Python that calls
    what the program defines and asserts: `"assert add(2, 3) == 5"`. `invalid` if there is no program, it does not
    compile, or no test could be run to an end. E.g. `{"tests_column": "tests", "all_or_nothing": true}`.
    """

    seconds: Seconds = 5.0
    """Wall-clock limit of one test."""
    tests_column: ColumnName = "tests"
    """One test or a list of them, at most 64."""
    setup_column: ColumnName | None = None
    """Python that runs before every test of assertions: helpers, and what they import; None: nothing."""
    all_or_nothing: bool = False
    """Whether one failed test makes the value 0."""
    pattern: Pattern | None = None
    """Where the program stands in the completion: the first group, or the match. None: the last fenced block of
    code, or all of it."""
    pure: bool = False
    """Whether the same program always does the same: then equal completions are run once."""
    memory_bytes: Annotated[int, Field(ge=2**26, le=2**32)] = 2**29
    """Address space of the program."""
    output_bytes: Annotated[int, Field(ge=1, le=2**26)] = 2**20
    """What it may print in one test."""

    def needs(self) -> tuple[str, ...]:
        return (self.tests_column,) if self.setup_column is None else (self.tests_column, self.setup_column)


class Python(Judging):
    type: Literal["python"] = "python"
    params: PythonParams = PythonParams()


class FunctionParams(Params):
    """A reward function of the user's that was registered before. E.g. `{"name": "brevity"}`.

    It is called as in TRL: `f(prompts=..., completions=..., **columns)` with lists of the same length, and returns
    a list of numbers; None for an item to which it does not apply.
    """

    name: FunctionName
    version: FunctionVersion | None = None
    """None: the newest when the request arrives."""
    pure: bool | None = None
    """Whether equal items always have equal rewards: then each is scored once. None: as it was registered."""
    seconds: Seconds = 10.0
    """Wall-clock limit of one call, which is for several items."""


class Function(Exact):
    """An item to which the function does not apply is `invalid` without a value, and no term of a combination."""

    type: Literal["function"] = "function"
    params: FunctionParams

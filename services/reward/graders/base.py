"""What a grader is: an item in, a number out, and whose fault it is when there is none.

`Invalid` says that the rollout itself is at fault. Any other exception is the grader's own failure and never becomes
a number; `TimeoutError` among them says that the grader overran. A grader knows nothing of processes: whoever runs it
kills it when it hangs. It marks the moment from which the rollout's own code runs, so that a death after it is
the rollout's doing.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Literal, TypeVar

P = TypeVar("P")

Phase = Literal["own", "rollout"]
Mark = Callable[[Phase], None]
"""Says whose code runs from now on: the grader's own, as at the start of every item, or the rollout's."""


class Invalid(Exception):
    """The rollout's own text or query is wrong or passed a limit; the message says how."""


@dataclass(frozen=True, slots=True)
class Item:
    """What is scored, e.g. `Item("6 * 7?", "42", {"answer": 42})`."""

    prompt: str
    completion: str
    columns: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Graded:
    """A grader's opinion."""

    value: float | None
    """None: an invalid rollout to which the task gives no number."""
    reason: str | None = None
    valid: bool = True
    """False: the rollout is at fault, and `value` is what the task gives it for that."""


Judge = Callable[[Item], Graded]
"""A grader that is ready, with what the task says of invalid rollouts. Raises what is the grader's own failure."""


class Grader(ABC, Generic[P]):
    """Scores one item after another; made once for many items."""

    release: ClassVar[int]
    """Raised whenever the code may give the same input another value."""
    libraries: ClassVar[tuple[str, ...]] = ()
    """Distributions whose version can change a value."""

    def __init__(self, params: P, mark: Mark = lambda _phase: None) -> None:
        """Loads what it needs, so that no item pays for it."""
        self.params = params
        self.mark = mark

    @classmethod
    def environment(cls) -> str:
        """What else can change a value: the version of something that is no distribution."""
        return ""

    @abstractmethod
    def grade(self, item: Item) -> Graded:
        """Raises Invalid for the rollout's own fault; any other exception is the grader's."""


def text_column(item: Item, name: str) -> str:
    """The text in a column. Raises TypeError, the fault of the data and so of the grader."""
    value = item.columns[name]
    if not isinstance(value, str):
        raise TypeError(f"column {name!r}: a {type(value).__name__}, expected a text")
    return value


def unfenced(text: str) -> str:
    """What stands in the last fenced block of code; without one the whole text."""
    parts = text.split("```")
    if len(parts) < 3:
        return text
    last = len(parts) - 2 if len(parts) % 2 else len(parts) - 3  # blocks are the odd parts that are closed
    first_line, newline, rest = parts[last].partition("\n")
    return rest if newline and " " not in first_line.strip() else parts[last]

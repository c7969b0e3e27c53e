"""Progress bars on stderr, where a person looks at it; silent in pipes and with `--json`."""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn, TaskID


class Bar:
    """One bar; usable from any thread."""

    def __init__(self, progress: "Progress", description: str) -> None:
        self._progress = progress
        self._task: TaskID = progress.add_task(description, total=None)
        self._begun = False

    def now(self, description: str) -> None:
        """Say what is being done."""
        self._progress.update(self._task, description=description)

    def advance(self, done: int, total: int | None) -> None:
        """So much is done of all there is, None if that is not known."""
        if not self._begun:  # what an earlier attempt has done is no speed of this one
            self._begun = True
            self._progress.reset(self._task, total=total, completed=done)
        self._progress.update(self._task, completed=done, total=total)


@contextlib.contextmanager
def byte_bar(description: str, quiet: bool) -> Iterator[Bar]:
    """A bar that counts bytes."""
    from rich.progress import DownloadColumn, TimeRemainingColumn, TransferSpeedColumn

    with _shown(
        (DownloadColumn(binary_units=True), TransferSpeedColumn(), TimeRemainingColumn()), quiet
    ) as bars:
        yield Bar(bars, description)


@contextlib.contextmanager
def item_bar(description: str, quiet: bool) -> Iterator[Bar]:
    """A bar that counts items."""
    from rich.progress import MofNCompleteColumn, TimeRemainingColumn

    with _shown((MofNCompleteColumn(), TimeRemainingColumn()), quiet) as bars:
        yield Bar(bars, description)


@contextlib.contextmanager
def _shown(columns: "tuple[ProgressColumn, ...]", quiet: bool) -> "Iterator[Progress]":
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    console = Console(stderr=True)
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        *columns,
        console=console,
        transient=True,
        redirect_stdout=False,
        disable=quiet or not console.is_terminal,
    )
    with progress:
        yield progress

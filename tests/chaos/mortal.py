"""The stack's own services, made mortal: each dies at a point of its work that a test has chosen.

    python -m tests.chaos.mortal up …             `rekindle up` whose warm parents fork mortal services
    python -m tests.chaos.mortal replica MODULE   one mortal service, started by hand
    python -m tests.chaos.mortal MODULE…          such a warm parent

A point lies before or after the call of a function. A test arms one with signals; a service that passes it takes
the first of them away and sends it to itself: it dies (SIGKILL) or stands still (SIGSTOP) right there. Code and
settings of the services are the real ones but for three patiences, which are shorter.
"""

import functools
import importlib
import inspect
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

FOLDER = "MORTAL_POINTS"
"""Variable with the folder in which points are armed."""
MODULE = "tests.chaos.mortal"
KILL, STOP = signal.SIGKILL, signal.SIGSTOP
POISON = 3
"""As many datums make a batch the poisonous one."""
PATIENCES = {
    ("events.worker", "ACK_WAIT"): 2.0,
    ("events.activity", "KEPT_SECONDS"): 3.0,
    ("events.dispatcher.plan", "LONGEST_PAUSE"): 1.0,
}


def always(*_: Any) -> bool:
    return True


def to(part: str) -> Callable[..., bool]:
    """A write to a subject with this part."""
    return lambda _holder, subject, *_: f".{part}." in subject


def poisonous(_engine: Any, work: Any) -> bool:
    return any(len(one.data) == POISON for one in work)


@dataclass(frozen=True, slots=True)
class Point:
    """E.g. Point("services.train.engine", "TrainEngine.run_passes", "before")."""

    module: str
    function: str
    when: Literal["before", "after"]
    meant: Callable[..., bool] = always
    """Whether a call with these arguments passes the point."""


ENGINE, LEASE, SNAPSHOTS = "services.train.engine", "events.lease", "services.train.snapshots"
POINTS = {
    "before the gradient": Point(ENGINE, "TrainEngine.run_passes", "before"),
    "over the poison": Point(ENGINE, "TrainEngine.run_passes", "before", poisonous),
    "after the gradient": Point(ENGINE, "TrainEngine.run_passes", "after"),
    "before the result": Point(LEASE, "RunHolder.write", "before", to("result")),
    "after the result": Point(LEASE, "RunHolder.write", "after", to("result")),
    "during an export": Point("services.train.exports", "save_state", "after"),
    "between export and entry": Point(LEASE, "RunHolder.write", "before", to("checkpoint")),
    "between entry and result": Point(LEASE, "RunHolder.write", "after", to("checkpoint")),
    "during a snapshot": Point(SNAPSHOTS, "save_state", "after"),
    "between blob and head": Point(SNAPSHOTS, "Snapshots._write", "after"),
    "between head and purge": Point(SNAPSHOTS, "Snapshots.purge", "before"),
    "after the purge": Point(SNAPSHOTS, "Snapshots.purge", "after"),
    "before the work": Point("events.worker", "QueueWorker._handle", "before"),
    "between work and answer": Point("events.outcomes", "Outcomes.succeeded", "before"),
    "between answer and acknowledgement": Point("events.outcomes", "Outcomes.settle", "before"),
}


# The test's side


def arm(folder: Path, service: str, point: str, *signals: signal.Signals) -> None:
    """The next processes of a service that pass the point take a signal each; one KILL if none are given."""
    assert point in POINTS, point
    (folder / f"{service} {point}").write_text(" ".join(str(int(one)) for one in signals or [KILL]))


def armed(folder: Path) -> dict[str, int]:
    """How many signals are left, by service and point."""
    return {path.name: len(path.read_text().split()) for path in folder.iterdir()}


def disarm(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


# The services' side


def pass_by(point: str) -> None:
    """Take what is meant for this service here."""
    folder, service = os.environ.get(FOLDER), sys.argv[0].split(".")[1]
    path = Path(folder or os.devnull) / f"{service} {point}"
    if folder and path.exists():
        first, _, rest = path.read_text().partition(" ")
        path.write_text(rest) if rest else path.unlink()
        os.kill(os.getpid(), int(first))


def wrapped(function: Callable[..., Any], name: str, point: Point) -> Callable[..., Any]:
    """The function with a point before or after it."""

    def passed(when: str, arguments: tuple[Any, ...]) -> None:
        if when == point.when and point.meant(*arguments):
            pass_by(name)

    @functools.wraps(function)
    async def mortal_coroutine(*arguments: Any, **options: Any) -> Any:
        passed("before", arguments)
        result = await function(*arguments, **options)
        passed("after", arguments)
        return result

    @functools.wraps(function)
    def mortal(*arguments: Any, **options: Any) -> Any:
        passed("before", arguments)
        result = function(*arguments, **options)
        passed("after", arguments)
        return result

    return mortal_coroutine if inspect.iscoroutinefunction(function) else mortal


def make_mortal(modules: list[str]) -> None:
    """Import services and put the points into what they have imported."""
    for module in modules:
        importlib.import_module(module)
    for name, point in POINTS.items():
        if point.module in sys.modules:
            *owner, function = point.function.split(".")
            place = functools.reduce(getattr, owner, sys.modules[point.module])
            setattr(place, function, wrapped(getattr(place, function), name, point))
    for (module, patience), seconds in PATIENCES.items():
        if module in sys.modules:
            setattr(sys.modules[module], patience, seconds)


def up(module: str = MODULE) -> None:
    """`rekindle up` with a module in the place of its warm parents'."""
    import rekindle.cli
    from services.local import stack
    from services.local.process import Child

    children = stack.children

    def mortal_children(options: stack.StackOptions) -> list[Child]:
        found = children(options)
        for child in found:
            child.command = [module if part == "services.local.warm" else part for part in child.command]
        return found

    stack.children = mortal_children
    rekindle.cli.main()


def main() -> None:
    match sys.argv[1:]:
        case ["up", *_]:
            up()
        case ["replica", module]:
            make_mortal([module])
            sys.argv = [module]
            sys.modules[module].main()
        case modules:
            from services.local import warm

            make_mortal(modules)
            warm.main()


if __name__ == "__main__":
    main()

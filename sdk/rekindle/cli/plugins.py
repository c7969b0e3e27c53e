"""Commands of other packages, such as `rekindle up` of the server side, by entry points of `rekindle.commands`.

A list of commands needs their names and what they say of themselves; their code is imported when one is called.
"""

import ast
from collections.abc import Callable
from importlib.abc import InspectLoader
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from typing import Any

import typer

GROUP = "rekindle.commands"
SERVER_SIDE = "needs the server side: run it from a clone of the repository, installed with the extra `local`"
ANYTHING = {"ignore_unknown_options": True, "allow_extra_args": True}


def add_plugins(app: typer.Typer) -> None:
    """Add a place for every plugin, for help and completion; `load` puts the command into it."""
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        app.command(entry.name, help=_says(entry))(_no_command)


def load(name: str | None) -> Any:
    """The command of that plugin, ready to run; None where no plugin has this name."""
    for entry in entry_points(group=GROUP):
        if entry.name == name:
            return typer.main.get_command(_single(entry))
    return None


def _single(entry: EntryPoint) -> typer.Typer:
    """A command whose code is not installed stays visible and says what it needs."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    try:
        app.command(entry.name)(entry.load())
    except ModuleNotFoundError as error:
        app.command(entry.name, context_settings=ANYTHING)(_unavailable(entry.name, error.name))
    return app


def _unavailable(command: str, module: str | None) -> Callable[[], None]:
    def unavailable() -> None:
        typer.echo(f"rekindle {command}: {SERVER_SIDE} (no module {module!r})", err=True)
        raise typer.Exit(2)

    return unavailable


def _no_command() -> None:
    raise AssertionError("stands in for a plugin, which takes its place before it is called")


def _says(entry: EntryPoint) -> str:
    """The docstring of a plugin's function, read from its source: to import it may take seconds."""
    try:
        spec = find_spec(entry.module)
    except ModuleNotFoundError:
        spec = None
    source = None
    if spec is not None and isinstance(spec.loader, InspectLoader):
        source = spec.loader.get_source(entry.module)
    for node in ast.parse(source or "").body:
        if isinstance(node, ast.FunctionDef) and node.name == entry.attr:
            return ast.get_docstring(node) or ""
    return "Needs the server side."

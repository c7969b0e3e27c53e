"""What commands print on stdout: tables for people, one JSON document for programs.

Texts from a server or a file reach a terminal with their control characters escaped.
"""

import json
from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document instead.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
NONE = "–"
UNLIMITED = 100_000
"""Columns, where no terminal limits them."""


def print_json(value: Any) -> None:
    """Messages and plain values as one JSON document, in ASCII."""
    from pydantic_core import to_jsonable_python

    typer.echo(json.dumps(to_jsonable_python(value), indent=2))


def print_table(columns: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    """A table under its headings; a long cell is folded, never cut."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(Text(plain(column)), overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell(value)) for value in row))
    _print(table)


def print_fields(fields: Iterable[tuple[str, object]]) -> None:
    """One thing: a field a line."""
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim")
    grid.add_column(overflow="fold")
    for name, value in fields:
        grid.add_row(name, Text(cell(value)))
    _print(grid)


def print_outcome(outcome: dict[str, Any], as_json: bool) -> None:
    """What a command did, e.g. `{"deleted": "train@2"}`."""
    if as_json:
        print_json(outcome)
    else:
        typer.echo(", ".join(f"{name} {cell(value)}" for name, value in outcome.items()))


def cell(value: object) -> str:
    """A value as people read it."""
    if value is None:
        return NONE
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, datetime):
        return value.astimezone().strftime("%Y-%m-%d %H:%M:%S")
    return plain(value if isinstance(value, str) else json_line(value))


def json_line(value: object) -> str:
    """JSON in one line, readable in all scripts."""
    return json.dumps(value, ensure_ascii=False, default=str)


def plain(text: str) -> str:
    """The text without anything that a terminal would obey."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def size(count: int | None) -> str:
    """Bytes in a fitting unit: `1.5 MiB`."""
    if count is None:
        return NONE
    amount, units = float(count), ["bytes", "KiB", "MiB", "GiB", "TiB"]
    while amount >= 1024 and len(units) > 1:
        amount /= 1024
        units.pop(0)
    return f"{count} bytes" if units[0] == "bytes" else f"{amount:.1f} {units[0]}"


def shortened(text: str, most: int) -> str:
    """At most so many characters of it."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def confirm(question: str, yes: bool) -> None:
    """Ask before something is lost; any answer but yes ends the command."""
    if not yes:
        typer.confirm(question, abort=True, err=True)


def _print(what: "RenderableType") -> None:
    _console().print(what)


def _console() -> "Console":
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=UNLIMITED)

"""`rekindle rewards`: which graders there are, completions scored by one, functions of one's own, and the sandbox."""

import contextlib
import itertools
import json
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any, get_args

import typer

from rekindle.cli import output
from rekindle.cli.connection import connect, group
from rekindle.cli.output import AsJson, Yes
from rekindle.cli.progress import item_bar

if TYPE_CHECKING:
    from pydantic import TypeAdapter

    from rekindle import Future, ServiceClient
    from rekindle.cli.progress import Bar
    from rekindle.types.rewards import FunctionInfo, Score, ScoreItem, ScoreResponse

BATCH = 256
"""Items of one request: the progress moves that often."""
AHEAD = 8
"""Requests under way."""

app = group("rewards", "Graders and scores.")


@app.command()
def graders(ctx: typer.Context, as_json: AsJson = False) -> None:
    """List the types of graders with their parameters."""
    with connect(ctx) as service:
        found = service.rewards.graders().result()
    if as_json:
        output.print_json(found)
        return
    output.print_table(
        ("type", "version", "parameter", "kind", "default"),
        (row for one in found for row in _parameters(one.type, one.version, one.params)),
    )


@app.command()
def score(
    ctx: typer.Context,
    grader: Annotated[
        str,
        typer.Option(metavar="FILE|JSON", help="""E.g. '{"type": "numeric"}', or a file that holds it."""),
    ],
    items: Annotated[
        Path,
        typer.Option(
            exists=True, dir_okay=False, readable=True, help="JSONL: {prompt, completion, columns} a line."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(dir_okay=False, help="Write the scores there, one a line in order, as JSONL."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Score completions and summarize the outcomes."""
    spec = _grader(grader)
    listed = _items(items, spec.params.needs())
    with connect(ctx) as service, _replacing(out) as file, item_bar("scoring", quiet=as_json) as bar:
        scores: list[Score] = []
        for part in _score(service, spec, listed, bar):
            scores += part
            if file is not None:
                file.writelines(f"{one.model_dump_json()}\n" for one in part)
    _print_summary(scores, as_json)


@app.command()
def register(
    ctx: typer.Context,
    file: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, readable=True, help="With one public function.")
    ],
    examples: Annotated[
        Path,
        typer.Option(
            exists=True, dir_okay=False, readable=True, help="JSONL: 1 to 64 items that it is tried on."
        ),
    ],
    name: Annotated[str | None, typer.Option(show_default="that of the file")] = None,
    pure: Annotated[
        bool, typer.Option("--pure", help="Equal items always have equal rewards: score each once.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Register a reward function of your own, once it has scored its examples."""
    listed = _items(examples, ())
    with connect(ctx) as service:
        found = service.rewards.register(file, name, examples=listed, pure=pure).result()
    if as_json:
        output.print_json(found)
        return
    output.print_fields(
        [
            ("grader", {"type": "function", "params": {"name": found.function.name}}),
            *_about(found.function),
        ]
    )
    output.print_table(
        ("example", "outcome", "value", "reason"),
        ((number, one.outcome, one.value, one.reason) for number, one in enumerate(found.scores, 1)),
    )


@app.command()
def functions(
    ctx: typer.Context,
    name: Annotated[str | None, typer.Argument(help="List all versions of this one.")] = None,
    as_json: AsJson = False,
) -> None:
    """List your reward functions."""
    with connect(ctx) as service:
        found = service.rewards.functions(name).result()
    if as_json:
        output.print_json(found)
        return
    output.print_table(
        ("name", "version", "function", "columns", "requires", "pure", "registered"),
        (
            (
                one.name,
                one.version,
                one.function,
                ", ".join(one.columns),
                ", ".join(one.requirements),
                one.pure,
                one.created,
            )
            for one in found
        ),
    )


@app.command()
def unregister(
    ctx: typer.Context, name: Annotated[str, typer.Argument()], yes: Yes = False, as_json: AsJson = False
) -> None:
    """Forget a reward function with all its versions."""
    output.confirm(f"Unregister {output.plain(name)} with all its versions?", yes)
    with connect(ctx) as service:
        service.rewards.unregister(name).result()
    output.print_outcome({"unregistered": name}, as_json)


@app.command()
def doctor(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Show what holds untrusted code on the server, as it has found by trying. Exit code 1 if it runs none."""
    with connect(ctx) as service:
        found = service.rewards.sandbox().result()
    if as_json:
        output.print_json(found)
    else:
        output.print_table(
            ("layer", "in force", "detail"), ((one.name, one.in_force, one.detail) for one in found.layers)
        )
        output.print_fields(
            [
                ("machine", found.host),
                ("found", found.started),
                ("floor", found.floor),
                ("runs code", found.refused or True),
            ]
        )
    if found.refused is not None:
        raise typer.Exit(1)


def _about(found: "FunctionInfo") -> list[tuple[str, object]]:
    return [
        ("version", found.version),
        ("function", found.function),
        ("columns", ", ".join(found.columns) or None),
        ("requires", ", ".join(found.requirements) or None),
        ("pure", found.pure),
    ]


def _score(
    service: "ServiceClient", grader: Any, items: "Sequence[ScoreItem]", bar: "Bar"
) -> "Iterator[tuple[Score, ...]]":
    """The scores in order, a batch at a time, while the next ones are under way."""
    bar.advance(0, len(items))
    batches = (items[start : start + BATCH] for start in range(0, len(items), BATCH))
    waiting: deque[Future[ScoreResponse]] = deque()
    done = 0
    while True:
        room = AHEAD - len(waiting)
        # What failed is counted at the end, and is no reason to stop.
        waiting.extend(
            service.rewards.score(grader, batch, max_excluded=None)
            for batch in itertools.islice(batches, room)
        )
        if not waiting:
            return
        found = waiting.popleft().result().scores
        done += len(found)
        bar.advance(done, len(items))
        yield found


# ---- Input ----


def _grader(text: str) -> Any:
    """The grader of a JSON text or of a file, checked."""
    from pydantic import TypeAdapter

    from rekindle.types import InvalidField
    from rekindle.types.rewards import Grader

    content = text if text.lstrip().startswith("{") else Path(text).read_bytes()
    try:
        return _parsed(TypeAdapter(Grader), content, "grader")
    except InvalidField as error:
        raise typer.BadParameter(str(error), param_hint="--grader") from error


def _items(file: Path, needed: Sequence[str]) -> "list[ScoreItem]":
    """The file's items, each with the columns that are needed; mistakes name the line."""
    from pydantic import TypeAdapter

    from rekindle.types import InvalidField
    from rekindle.types.rewards import ScoreItem

    kind, found = TypeAdapter(ScoreItem), []
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            item = _parsed(kind, line, f"{file}:{number}")
            for name in needed:
                if name not in item.columns:
                    raise InvalidField(f"{file}:{number}: columns", f"column {name!r} is missing")
            found.append(item)
    if not found:
        raise InvalidField(str(file), "no items, expected at least one")
    return found


def _parsed(kind: "TypeAdapter[Any]", text: str | bytes, place: str) -> Any:
    """A message of that kind. Raises InvalidField that names the place and the field."""
    from pydantic import ValidationError

    from rekindle.types import InvalidField, first_mistake

    try:
        return kind.validate_python(json.loads(text))
    except ValidationError as error:
        mistake = first_mistake(error)
        raise InvalidField(f"{place}: {mistake.field}", mistake.reason) from error
    except ValueError as error:
        raise InvalidField(place, f"not JSON: {error}") from error


# ---- Output ----


@contextlib.contextmanager
def _replacing(target: Path | None) -> Iterator[IO[str] | None]:
    """A file that takes the target's place when all is written; None without a target."""
    if target is None:
        yield None
        return
    part = target.with_name(f".{target.name}.part")
    try:
        with part.open("w", encoding="utf-8") as file:
            yield file
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def _print_summary(scores: "Sequence[Score]", as_json: bool) -> None:
    from rekindle.types.rewards import Outcome

    by_outcome = {name: [one for one in scores if one.outcome == name] for name in get_args(Outcome)}
    excluded = sum(one.excluded for one in scores)
    versions = sorted({one.grader_version for one in scores})
    if as_json:
        outcomes = {name: len(found) for name, found in by_outcome.items()}
        summary = {"items": len(scores), "outcomes": outcomes, "excluded": excluded}
        output.print_json({**summary, "mean_value": _mean(scores), "grader_versions": versions})
        return
    output.print_table(
        ("outcome", "items", "mean value"),
        ((name, len(found), _mean(found)) for name, found in by_outcome.items()),
    )
    output.print_fields(
        [
            ("items", len(scores)),
            ("mean value", _mean(scores)),
            ("excluded", excluded),
            ("grader", ", ".join(versions)),
        ]
    )


def _mean(scores: "Sequence[Score]") -> float | None:
    """Over those that have a value; None where none has."""
    values = [one.value for one in scores if one.value is not None]
    return sum(values) / len(values) if values else None


def _parameters(grader: str, version: str, schema: dict[str, Any]) -> Iterator[tuple[object, ...]]:
    """A line a parameter; the first names the grader."""
    required = schema.get("required", ())
    for index, (name, field) in enumerate(schema.get("properties", {}).items()):
        kinds = [one.get("type", "object") for one in field.get("anyOf", [field])]
        default = "required" if name in required else json.dumps(field.get("default"))
        yield (*(("", "") if index else (grader, version)), name, " or ".join(kinds), default)

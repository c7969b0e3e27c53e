"""`rekindle triggers`: which facts start an RL run or call a webhook."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rekindle.cli import arguments, output
from rekindle.cli.connection import connect, group
from rekindle.cli.output import AsJson, Yes

if TYPE_CHECKING:
    from rekindle.types.rl import TriggerInfo

app = group("triggers", "Triggers: facts that start a run or call a webhook.")
Name = Annotated[str, typer.Argument(metavar="NAME", help="The trigger.")]


@app.command()
def create(
    ctx: typer.Context,
    on: Annotated[str, typer.Option(help="Type of the facts, such as dataset.uploaded.")],
    match: Annotated[
        list[str] | None,
        typer.Option(metavar="FIELD=VALUE", help="What the fact must say; a text may hold *, ? and […]."),
    ] = None,
    start: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, readable=True, help="Spec of the run to start."),
    ] = None,
    webhook: Annotated[str | None, typer.Option(metavar="URL", help="Where the fact is posted to.")] = None,
    name: Annotated[str | None, typer.Option(show_default="that of the spec's file")] = None,
    as_json: AsJson = False,
) -> None:
    """Have every such fact from now on start a run or call a webhook."""
    fields = arguments.fields(match or [])
    if name is None:
        if start is None:
            raise typer.BadParameter("needed where no spec gives one", param_hint="--name")
        name = re.sub(r"[^a-z0-9_-]+", "-", start.name.partition(".")[0].lower()).strip("-_")
    with connect(ctx) as service:
        made = service.triggers.create(name, on, match=fields, start=start, webhook=webhook).result()
    if as_json:
        output.print_json(made)
    else:
        output.print_fields(_about(made))


@app.command("list")
def list_(ctx: typer.Context, as_json: AsJson = False) -> None:
    """List triggers by name."""
    with connect(ctx) as service:
        found = service.triggers.list().result()
    if as_json:
        output.print_json(found)
        return
    output.print_table(
        ("trigger", "on", "match", "does", "fired", "created"),
        ([value for _, value in _about(one)] for one in found),
    )


@app.command()
def delete(ctx: typer.Context, name: Name, yes: Yes = False, as_json: AsJson = False) -> None:
    """Remove a trigger; runs that it has started go on."""
    output.confirm(f"Delete trigger {output.plain(name)}?", yes)
    with connect(ctx) as service:
        service.triggers.delete(name).result()
    output.print_outcome({"deleted": name}, as_json)


@app.command()
def firings(ctx: typer.Context, name: Name, as_json: AsJson = False) -> None:
    """List what fired a trigger, newest first."""
    with connect(ctx) as service:
        found = service.triggers.firings(name).result()
    if as_json:
        output.print_json(found)
        return
    output.print_table(
        ("time", "event", "about", "outcome", "run", "reason"),
        ((one.time, one.event, one.subject, one.outcome, one.run, one.reason) for one in found),
    )


def _about(found: "TriggerInfo") -> list[tuple[str, object]]:
    spec = found.trigger
    return [
        ("trigger", spec.name),
        ("on", spec.on),
        ("match", spec.match or None),
        ("does", f"calls {spec.webhook}" if spec.webhook else "starts a run"),
        ("fired", found.fired),
        ("created", found.created),
    ]

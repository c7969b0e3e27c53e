"""`rekindle models`: which base models an installation on a cluster serves."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from rekindle.cli import cluster, output
from rekindle.cli.cluster import Context, Diff, DryRun, Namespace, Render
from rekindle.cli.group import Commands
from rekindle.cli.output import AsJson, Yes

if TYPE_CHECKING:
    from rekindle.cluster.remembered import Option
    from rekindle.cluster.render import Manifest

app = typer.Typer(
    name="models",
    cls=Commands,
    help="Base models of an installation on a cluster.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
Base = Annotated[str, typer.Argument(metavar="MODEL", help="Its name for clients, e.g. Qwen/Qwen3-8B.")]
ModelOverlay = Annotated[
    str | None,
    typer.Option(
        metavar="base|gpu|ha|DIR",
        help="Which variant of the templates, or a kustomization of one's own.",
        show_default="base",
    ),
]


@dataclass(frozen=True, slots=True)
class Place:
    """What the group's options say."""

    context: str | None
    namespace: str


@app.callback()
def _choose_cluster(
    ctx: typer.Context, context: Context = None, namespace: Namespace = cluster.NAMESPACE
) -> None:
    ctx.obj = Place(context, namespace)


@app.command()
def add(
    ctx: typer.Context,
    base: Base,
    source: Annotated[
        str | None,
        typer.Option(
            help="hf://ORG/NAME[@REVISION], s3://BUCKET/PREFIX or a folder.",
            show_default="the name, as a hub id",
        ),
    ] = None,
    gpus: Annotated[
        int | None, typer.Option(min=0, help="Of one replica; 0 = CPU.", show_default="0")
    ] = None,
    max_runs: Annotated[
        int | None, typer.Option(min=1, help="Runs that one trainer works on at a time.", show_default="16")
    ] = None,
    max_replicas: Annotated[
        int | None, typer.Option(min=1, help="Most replicas of each of its services.", show_default="1")
    ] = None,
    engine: Annotated[
        str | None, typer.Option(metavar="torch|vllm", help="What samples.", show_default="torch")
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(metavar="float32|bfloat16|float16", show_default="bfloat16 on GPUs, else float32"),
    ] = None,
    overlay: ModelOverlay = None,
    registry: Annotated[
        str | None,
        typer.Option(metavar="PREFIX", help="Where the images are.", show_default="where the gateway's are"),
    ] = None,
    render: Render = False,
    dry_run: DryRun = False,
    diff: Diff = False,
    wait: Annotated[
        int,
        typer.Option(
            metavar="SECONDS", min=0, help="How long to wait until clients may ask for it; 0 = not at all."
        ),
    ] = 900,
    as_json: AsJson = False,
) -> None:
    """Serve a base model, or change how: what is not said again stays as it was. Bounds set with kn are kept."""
    from rekindle.cluster import models
    from rekindle.cluster.remembered import remembered

    place: Place = ctx.obj
    options: dict[str, str | int | None] = {
        "source": source,
        "gpus": gpus,
        "max_runs": max_runs,
        "max_replicas": max_replicas,
        "engine": engine,
        "dtype": dtype,
        "overlay": overlay,
    }
    given = {name: value for name, value in options.items() if value is not None}
    if render:
        cluster.print_manifests(_rendered(base, given, place.namespace, registry))
        return
    api = cluster.connect(place.context)
    as_before = remembered(api, base, place.namespace)
    registry = registry or models.registry_in_use(api, place.namespace)
    objects = _rendered(base, {**as_before, **given}, place.namespace, registry)
    applied = models.add(api, objects, dry_run=dry_run or diff)
    if kept := {name: value for name, value in as_before.items() if name not in given}:
        said = ", ".join(f"--{name.replace('_', '-')} {value}" for name, value in kept.items())
        typer.echo(f"as before: {output.plain(said)}", err=True)
    if diff:
        cluster.print_differences(applied)
    elif as_json:
        output.print_json([cluster.about_applied(one) for one in applied])
    else:
        cluster.print_applied(applied)
    if not (dry_run or diff):
        jobs = [one for one in objects if one["kind"] == "Job"]
        cluster.end_late(cluster.wait_for(api, jobs, place.namespace, wait, as_json))
        if wait and not as_json:
            typer.echo(f"clients may ask for {output.plain(base)}")


def _rendered(
    base: str, chosen: "Mapping[str, Option]", namespace: str, registry: str | None
) -> "list[Manifest]":
    """A model's objects, which remember what was chosen."""
    from rekindle.cluster import manifests, models
    from rekindle.cluster.remembered import remember

    templates = manifests.templates(str(chosen.get("overlay", cluster.BASE)))
    objects = models.render_model(templates, models.options(base, chosen), namespace, registry)
    remember(objects, chosen)
    return objects


@app.command("list")
def list_(ctx: typer.Context, as_json: AsJson = False) -> None:
    """List base models with their services, bounds of scale and GPUs."""
    from rekindle.cluster import models

    place: Place = ctx.obj
    found = models.listed(cluster.connect(place.context), place.namespace)
    if as_json:
        output.print_json(found)
        return
    output.print_table(
        ("base model", "service", "ready", "GPUs", "at once", "bounds", "engine", "image", "reason"),
        (
            (
                one.base,
                one.name,
                one.ready,
                one.gpus,
                one.concurrency,
                f"{one.min_scale or 0}–{one.max_scale or '∞'}",
                one.engine,
                one.image,
                one.reason,
            )
            for one in found
        ),
    )


@app.command()
def remove(ctx: typer.Context, base: Base, yes: Yes = False, as_json: AsJson = False) -> None:
    """Stop serving a base model. Its runs and checkpoints stay, and go on once it is added again."""
    from rekindle.cluster import manifests, models

    output.confirm(f"Remove the services of {output.plain(base)}?", yes)
    place: Place = ctx.obj
    gone = models.remove(cluster.connect(place.context), manifests.folder() / "model", base, place.namespace)
    output.print_outcome({"removed": base, "services": gone}, as_json)

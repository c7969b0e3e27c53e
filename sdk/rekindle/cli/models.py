"""`rekindle models`: which base models an installation on a cluster serves."""

from dataclasses import dataclass
from typing import Annotated

import typer

from rekindle.cli import cluster, output
from rekindle.cli.cluster import Context, Diff, DryRun, Namespace, Overlay, Render
from rekindle.cli.group import Commands
from rekindle.cli.output import AsJson, Yes

app = typer.Typer(
    name="models",
    cls=Commands,
    help="Base models of an installation on a cluster.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
Base = Annotated[str, typer.Argument(metavar="MODEL", help="Its name for clients, e.g. Qwen/Qwen3-8B.")]


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
    gpus: Annotated[int, typer.Option(min=0, help="Of one replica; 0 = CPU.")] = 0,
    max_runs: Annotated[int, typer.Option(min=1, help="Runs that one trainer works on at a time.")] = 16,
    max_replicas: Annotated[int, typer.Option(min=1, help="Most replicas of each of its services.")] = 1,
    engine: Annotated[str, typer.Option(metavar="torch|vllm", help="What samples.")] = "torch",
    dtype: Annotated[
        str | None,
        typer.Option(metavar="float32|bfloat16|float16", show_default="bfloat16 on GPUs, else float32"),
    ] = None,
    overlay: Overlay = cluster.BASE,
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
    """Serve a base model, or change how. Bounds of scale that were set with kn are kept."""
    from rekindle.cluster import manifests, models

    options = models.ModelOptions(
        base=base,
        source=source,
        gpus=gpus,
        max_runs=max_runs,
        max_replicas=max_replicas,
        engine=models.engine(engine),
        dtype=models.dtype(dtype),
    )
    place: Place = ctx.obj
    templates = manifests.templates(overlay)
    if render:
        cluster.print_manifests(models.render_model(templates, options, place.namespace, registry))
        return
    api = cluster.connect(place.context)
    registry = registry or models.registry_in_use(api, place.namespace)
    objects = models.render_model(templates, options, place.namespace, registry)
    applied = models.add(api, objects, dry_run=dry_run or diff)
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

"""`rekindle checkpoints`: saved weights, by their path `tinker://<run>/<kind>/<name>`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rekindle.cli import arguments, output
from rekindle.cli.connection import connect, group
from rekindle.cli.output import AsJson, Yes
from rekindle.cli.progress import byte_bar

if TYPE_CHECKING:
    from rekindle.types import Checkpoint

app = group("checkpoints", "Checkpoints: saved weights.")
CheckpointPath = Annotated[str, typer.Argument(metavar="PATH", help="tinker://<run>/<kind>/<name>")]


@app.command("list")
def list_(
    ctx: typer.Context,
    run: Annotated[str | None, typer.Option(help="Of this run alone, all of them.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="The most checkpoints, without --run.")] = 100,
    as_json: AsJson = False,
) -> None:
    """List checkpoints, newest first."""
    with connect(ctx) as service:
        asked = service.checkpoints.list(limit) if run is None else service.runs.checkpoints(run)
        found = asked.result()
    print_checkpoints(found, as_json)


@app.command()
def show(ctx: typer.Context, path: CheckpointPath, as_json: AsJson = False) -> None:
    """Show a checkpoint and what one must know to go on from it."""
    with connect(ctx) as service:
        asked = service.checkpoints.get(path), service.checkpoints.info(path)
        found, info = asked[0].result(), asked[1].result()
    if as_json:
        output.print_json({**found.model_dump(), **info.model_dump()})
        return
    output.print_fields(
        [
            ("path", found.tinker_path),
            ("type", found.checkpoint_type),
            ("size", output.size(found.size_bytes)),
            ("saved", found.time),
            ("expires", found.expires_at or "never"),
            ("public", found.public),
            ("metadata", found.user_metadata),
            ("base model", info.base_model),
            ("rank", info.lora_rank),
            ("trains MLP", info.train_mlp),
            ("trains attention", info.train_attn),
            ("trains unembedding", info.train_unembed),
        ]
    )


@app.command()
def delete(ctx: typer.Context, path: CheckpointPath, yes: Yes = False, as_json: AsJson = False) -> None:
    """Delete a checkpoint."""
    output.confirm(f"Delete {output.plain(path)} for good?", yes)
    with connect(ctx) as service:
        service.checkpoints.delete(path).result()
    output.print_outcome({"deleted": path}, as_json)


@app.command()
def publish(ctx: typer.Context, path: CheckpointPath, as_json: AsJson = False) -> None:
    """Let others read a checkpoint."""
    with connect(ctx) as service:
        service.checkpoints.publish(path).result()
    output.print_outcome({"published": path}, as_json)


@app.command()
def unpublish(ctx: typer.Context, path: CheckpointPath, as_json: AsJson = False) -> None:
    """Stop letting others read a checkpoint."""
    with connect(ctx) as service:
        service.checkpoints.unpublish(path).result()
    output.print_outcome({"unpublished": path}, as_json)


@app.command()
def ttl(
    ctx: typer.Context,
    path: CheckpointPath,
    seconds: Annotated[
        str, typer.Argument(metavar="SECONDS|none", help="From now on, an hour to ten years; none: for ever.")
    ],
    as_json: AsJson = False,
) -> None:
    """Let a checkpoint expire, or keep it for ever."""
    wanted = arguments.seconds_or_none(seconds)
    with connect(ctx) as service:
        service.checkpoints.set_ttl(path, wanted).result()
    if as_json:
        output.print_json({"path": path, "ttl_seconds": wanted})
    else:
        typer.echo(f"{path} expires {'never' if wanted is None else f'in {wanted} s'}")


@app.command()
def download(
    ctx: typer.Context,
    path: CheckpointPath,
    folder: Annotated[Path, typer.Argument(metavar="DIR", file_okay=False, help="Made if it is not there.")],
    as_json: AsJson = False,
) -> None:
    """Download a checkpoint's adapter in PEFT's format."""
    with connect(ctx) as service, byte_bar("exporting", quiet=as_json) as bar:

        def advance(done: int, total: int | None) -> None:
            bar.now("downloading")
            bar.advance(done, total)

        files = service.checkpoints.download(path, folder, advance).result()
    found = [(str(file), file.stat().st_size) for file in files]
    if as_json:
        output.print_json({"files": [{"path": file, "bytes": count} for file, count in found]})
    else:
        output.print_table(("file", "size"), ((file, output.size(count)) for file, count in found))


def print_checkpoints(found: "Sequence[Checkpoint]", as_json: bool) -> None:
    """A line a checkpoint."""
    if as_json:
        output.print_json(found)
        return
    output.print_table(
        ("path", "type", "size", "saved", "expires", "public"),
        (
            (
                one.tinker_path,
                one.checkpoint_type,
                output.size(one.size_bytes),
                one.time,
                one.expires_at or "never",
                one.public,
            )
            for one in found
        ),
    )

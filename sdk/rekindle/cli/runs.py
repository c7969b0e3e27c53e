"""`rekindle runs`: training runs, their checkpoints, their rollouts as a dataset."""

from typing import Annotated

import typer

from rekindle.cli import checkpoints as checkpoints_cli
from rekindle.cli import datasets, output
from rekindle.cli.connection import connect, group
from rekindle.cli.output import AsJson

app = group("runs", "Training runs.")
Run = Annotated[str, typer.Argument(metavar="RUN", help="Id of the run.")]


@app.command("list")
def list_(
    ctx: typer.Context,
    limit: Annotated[int, typer.Option(min=1, help="The most runs.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List runs, newest first."""
    with connect(ctx) as service:
        found = service.runs.list(limit).result()
    if as_json:
        output.print_json(found)
        return
    output.print_table(
        ("run", "base model", "rank", "last request", "last checkpoint"),
        (
            (
                run.training_run_id,
                run.base_model,
                run.lora_rank,
                run.last_request_time,
                run.last_checkpoint and run.last_checkpoint.checkpoint_id,
            )
            for run in found
        ),
    )


@app.command()
def show(ctx: typer.Context, run: Run, as_json: AsJson = False) -> None:
    """Show a run."""
    with connect(ctx) as service:
        found = service.runs.get(run).result()
    if as_json:
        output.print_json(found)
        return
    output.print_fields(
        [
            ("run", found.training_run_id),
            ("base model", found.base_model),
            ("owner", found.model_owner),
            ("rank", found.lora_rank),
            ("last request", found.last_request_time),
            ("last checkpoint", found.last_checkpoint and found.last_checkpoint.tinker_path),
            (
                "last for sampling",
                found.last_sampler_checkpoint and found.last_sampler_checkpoint.tinker_path,
            ),
            ("corrupted", found.corrupted),
            ("metadata", found.user_metadata),
        ]
    )


@app.command()
def checkpoints(ctx: typer.Context, run: Run, as_json: AsJson = False) -> None:
    """List the checkpoints of a run, newest first."""
    with connect(ctx) as service:
        found = service.runs.checkpoints(run).result()
    checkpoints_cli.print_checkpoints(found, as_json)


@app.command()
def rollouts(
    ctx: typer.Context,
    run: Run,
    name: Annotated[str, typer.Option(help="The dataset whose next version they become.")],
    as_json: AsJson = False,
) -> None:
    """Make a dataset of the rollouts and scores of a run so far."""
    with connect(ctx) as service:
        made = service.datasets.export_rollouts(run, name).result()
    datasets.print_version(made, as_json)

"""`rekindle run`: RL runs that need no client: start, watch, steer, plot."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rekindle.cli import output
from rekindle.cli.connection import connect, group
from rekindle.cli.live import follow
from rekindle.cli.output import AsJson, Yes

if TYPE_CHECKING:
    from rekindle.types.rl import MetricsRow, RlRunInfo

COLUMNS = (
    "row",
    "reward",
    "excluded",
    "loss",
    "kl_base",
    "kl_sampler_k3",
    "entropy",
    "length",
    "stopped",
    "staleness",
    "tokens_per_second",
    "seconds",
    "evaluation",
)
"""Of the table; all others are in JSON and CSV."""

app = group("run", "RL runs that the server drives by itself.")
Run = Annotated[str, typer.Argument(metavar="RUN", help="Id of the run.")]


@app.command()
def start(
    ctx: typer.Context,
    file: Annotated[
        Path,
        typer.Argument(exists=True, dir_okay=False, readable=True, help="The spec, as YAML or JSON."),
    ],
    key: Annotated[
        str | None, typer.Option(help="Starts one run, however often it is said; without it, each call does.")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Watch it then.")] = False,
    as_json: AsJson = False,
) -> None:
    """Start a run."""
    with connect(ctx) as service:
        made = service.rl_runs.create(file, key).result()
        if watch:
            _end(follow(service, made.id, None, as_json))
        else:
            _print_run(made, as_json)


@app.command("list")
def list_(ctx: typer.Context, as_json: AsJson = False) -> None:
    """List runs, newest first."""
    with connect(ctx) as service:
        found = service.rl_runs.list().result()
    if as_json:
        output.print_json(found)
        return
    output.print_table(
        ("run", "name", "phase", "step", "reward", "base model", "dataset", "started by", "created"),
        (
            (
                one.id,
                one.name,
                one.phase,
                f"{one.step}/{one.steps}",
                one.metrics and one.metrics.reward,
                one.base_model,
                f"{one.spec.dataset.name}@{one.dataset_version}",
                one.trigger,
                one.created,
            )
            for one in found
        ),
    )


@app.command()
def show(ctx: typer.Context, run: Run, as_json: AsJson = False) -> None:
    """Show where a run stands."""
    with connect(ctx) as service:
        found = service.rl_runs.get(run).result()
    _print_run(found, as_json)


@app.command()
def watch(
    ctx: typer.Context,
    run: Run,
    after: Annotated[int | None, typer.Option(min=-1, help="The last row that is known already.")] = None,
    as_json: AsJson = False,
) -> None:
    """Watch a run until it ends. Ctrl-C ends the watching, never the run."""
    with connect(ctx) as service:
        _end(follow(service, run, after, as_json))


@app.command()
def metrics(
    ctx: typer.Context,
    run: Run,
    after: Annotated[int | None, typer.Option(min=-1, help="Rows behind this one alone.")] = None,
    csv: Annotated[Path | None, typer.Option(dir_okay=False, help="Write all of them there as CSV.")] = None,
    wandb: Annotated[
        str | None, typer.Option(metavar="PROJECT", help="Log the run to Weights & Biases.")
    ] = None,
    mlflow: Annotated[str | None, typer.Option(metavar="EXPERIMENT", help="Log the run to MLflow.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show the metrics of a run, a row a step, or send them elsewhere."""
    with connect(ctx) as service:
        done: dict[str, str] = {}
        if csv is not None:
            done["csv"] = str(service.rl_runs.to_csv(run, csv).result())
        if wandb is not None:
            done["wandb"] = service.rl_runs.to_wandb(run, wandb).result()
        if mlflow is not None:
            done["mlflow"] = service.rl_runs.to_mlflow(run, mlflow).result()
        if done:
            output.print_outcome(done, as_json)
            return
        rows = service.rl_runs.metrics(run, after).result()
    if as_json:
        output.print_json(rows)
    else:
        output.print_table(COLUMNS, (_cells(row) for row in rows))


@app.command()
def plot(
    ctx: typer.Context,
    run: Run,
    file: Annotated[Path, typer.Argument(dir_okay=False, help="Its ending decides: png, svg, pdf.")],
    as_json: AsJson = False,
) -> None:
    """Draw reward, length, KL, entropy, staleness and time by stage."""
    with connect(ctx) as service:
        service.rl_runs.plot(run, file).result()
    output.print_outcome({"plotted": str(file)}, as_json)


@app.command()
def pause(ctx: typer.Context, run: Run, as_json: AsJson = False) -> None:
    """Have a run stop soon and wait."""
    with connect(ctx) as service:
        _print_phase(service.rl_runs.pause(run).result(), as_json)


@app.command()
def resume(ctx: typer.Context, run: Run, as_json: AsJson = False) -> None:
    """Have a paused run go on."""
    with connect(ctx) as service:
        _print_phase(service.rl_runs.resume(run).result(), as_json)


@app.command()
def cancel(ctx: typer.Context, run: Run, as_json: AsJson = False) -> None:
    """End a run for good; its checkpoints stay."""
    with connect(ctx) as service:
        _print_phase(service.rl_runs.cancel(run).result(), as_json)


@app.command()
def delete(ctx: typer.Context, run: Run, yes: Yes = False, as_json: AsJson = False) -> None:
    """End a run and leave nothing of it, checkpoints included."""
    output.confirm(f"Delete {output.plain(run)} with its checkpoints for good?", yes)
    with connect(ctx) as service:
        service.rl_runs.delete(run).result()
    output.print_outcome({"deleted": run}, as_json)


# ---- Output ----


def _end(run: "RlRunInfo") -> None:
    """Exit code 1 for a run that has not come to its end well."""
    if run.phase != "completed":
        raise typer.Exit(1)


def _print_phase(run: "RlRunInfo", as_json: bool) -> None:
    if as_json:
        output.print_json(run)
    else:
        output.print_outcome({run.id: run.phase, "step": f"{run.step}/{run.steps}"}, as_json=False)


def _print_run(run: "RlRunInfo", as_json: bool) -> None:
    if as_json:
        output.print_json(run)
        return
    row = run.metrics
    output.print_fields(
        [
            ("run", run.id),
            ("name", run.name),
            ("phase", run.phase),
            ("reason", run.reason),
            ("step", f"{run.step} of {run.steps}"),
            ("reward", row and row.reward),
            ("base model", run.base_model),
            ("dataset", f"{run.spec.dataset.name}@{run.dataset_version}"),
            ("prompts drawn", run.cursor),
            ("rows skipped", run.skipped or None),
            ("training run", run.training_run),
            ("checkpoint", run.checkpoint),
            ("started by", run.trigger),
            ("created", run.created),
            ("updated", run.updated),
            ("ended", run.ended),
        ]
    )


def _cells(row: "MetricsRow") -> list[object]:
    evaluation = row.evaluations[-1][1] if row.evaluations else None
    return [evaluation if name == "evaluation" else getattr(row, name) for name in COLUMNS]

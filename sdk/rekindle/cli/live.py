"""A run as it goes: a picture that moves on a terminal, a line a step elsewhere, a JSON object a line for programs."""

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING

import typer

from rekindle.cli import output

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from rekindle import ServiceClient
    from rekindle.rl_runs import Update
    from rekindle.types import ServiceInfo
    from rekindle.types.rl import MetricsRow, RlRunInfo

BARS = "▁▂▃▄▅▆▇█"
SPARKS = 60
"""Steps of which the reward is drawn."""
FIGURES = (
    ("reward", "reward"),
    ("KL base", "kl_base"),
    ("KL sampler", "kl_sampler_k3"),
    ("entropy", "entropy"),
    ("length", "length"),
    ("longest", "length_max"),
    ("tokens/s", "tokens_per_second"),
    ("staleness", "staleness"),
    ("sample s", "seconds_sample"),
    ("score s", "seconds_score"),
    ("train s", "seconds_train"),
    ("step s", "seconds"),
)
"""Heading and field."""
EVERY = 2.0
"""Seconds after which a moving picture is drawn anew though no step has ended: queues are quicker."""


def follow(service: "ServiceClient", run_id: str, after: int | None, as_json: bool) -> "RlRunInfo":
    """Show a run until it ends; returns what it was in the end."""
    from rich.console import Console

    console = Console()
    if console.is_terminal and not as_json:
        return _moving(console, service, service.rl_runs.watch(run_id, after, EVERY))
    updates = service.rl_runs.watch(run_id, after)
    return _as_json(updates) if as_json else _lines(updates)


def _as_json(updates: "Iterable[Update]") -> "RlRunInfo":
    """A line a row, and at last the run."""
    update = None
    for update in updates:
        for row in update.rows:
            typer.echo(json.dumps(row.model_dump(mode="json")))
    assert update is not None, "a watch gives at least one look"
    typer.echo(json.dumps(update.run.model_dump(mode="json")))
    return update.run


def _lines(updates: "Iterable[Update]") -> "RlRunInfo":
    run, phase = None, None
    for run, rows in updates:
        for row in rows:
            typer.echo(line(run, row))
        if run.phase != phase:
            phase = run.phase
            typer.echo(said(run))
    assert run is not None, "a watch gives at least one look"
    return run


def line(run: "RlRunInfo", row: "MetricsRow") -> str:
    """A step in a line."""
    parts = [f"step {row.step + 1}/{run.steps}" if row.step is not None else "evaluated"]
    parts += [
        f"{name} {output.cell(value)}"
        for name, field in FIGURES
        if (value := _rounded(row, field)) is not None
    ]
    parts += [f"held out {value:.4g} (version {version})" for version, value in row.evaluations]
    parts += [f"rows skipped {row.skipped}"] if row.skipped else []
    return "  ".join(parts)


def said(run: "RlRunInfo") -> str:
    """Where a run is, in a line."""
    reason = f": {output.plain(run.reason)}" if run.reason else ""
    return f"{run.id} {run.phase} at step {run.step}/{run.steps}{reason}"


def _moving(console: "Console", service: "ServiceClient", updates: "Iterable[Update]") -> "RlRunInfo":
    from rich.live import Live

    rewards: list[float | None] = []
    held_out: list[tuple[int, float]] = []
    run, row = None, None
    with Live(console=console, auto_refresh=False) as live:
        for run, rows in updates:
            rewards += [one.reward for one in rows if one.step is not None]
            held_out += [pair for one in rows for pair in one.evaluations]
            row = rows[-1] if rows else row or run.metrics
            services = service.list_services().result()
            live.update(picture(run, row, rewards, held_out, services), refresh=True)
    assert run is not None, "a watch gives at least one look"
    return run


def picture(
    run: "RlRunInfo",
    row: "MetricsRow | None",
    rewards: "list[float | None]",
    held_out: list[tuple[int, float]],
    services: "Iterable[ServiceInfo]" = (),
) -> "RenderableType":
    """The run, how far it has come, its rewards so far, the figures of the last step, and who works on it."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    head = Table.grid(padding=(0, 2))
    head.add_row(Text(output.plain(run.name), style="bold"), Text(said(run)))
    bar = Table.grid(padding=(0, 2))
    bar.add_row(Text(f"{run.step}/{run.steps}"), ProgressBar(max(1, run.steps), run.step, width=SPARKS))
    figures = Table.grid(padding=(0, 2))
    cells = [
        (name, output.cell(_rounded(row, field) if row is not None else None)) for name, field in FIGURES
    ]
    for start in range(0, len(cells), 4):
        four = cells[start : start + 4]
        figures.add_row(*(part for name, value in four for part in (Text(name, style="dim"), Text(value))))
    parts: list[RenderableType] = [head, bar, Text(f"reward  {sparkline(rewards)}", style="green"), figures]
    if run.skipped:
        parts.append(Text(f"{run.skipped} of {run.cursor} rows could not be asked", style="yellow"))
    if held_out:
        version, value = held_out[-1]
        parts.append(Text(f"held out {value:.4g} at version {version}"))
    if mine := [one for one in services if one.base_model in (None, run.base_model)]:
        parts.append(_services(mine))
    return Group(*parts)


def _services(services: "Iterable[ServiceInfo]") -> "RenderableType":
    """A service a line."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for heading in ("service", "state", "replicas", "queued"):
        table.add_column(heading, justify="right" if heading in ("replicas", "queued") else "left")
    for one in services:
        values = (one.kind, one.state, one.replicas, one.queued, one.reason or "")
        table.add_row(*(Text(output.cell(value)) for value in values))
    return table


def sparkline(values: "list[float | None]") -> str:
    """The last values as bars from the least to the greatest of them; a blank where there is none."""
    shown = values[-SPARKS:]
    known = [value for value in shown if value is not None]
    if not known:
        return ""
    least, span = min(known), max(known) - min(known)
    steps = len(BARS) - 1
    return "".join(
        " " if value is None else BARS[round((value - least) / span * steps) if span else 0]
        for value in shown
    )


def _rounded(row: "MetricsRow", field: str) -> float | int | None:
    value: float | int | None = getattr(row, field)
    return float(f"{value:.4g}") if isinstance(value, float) else value

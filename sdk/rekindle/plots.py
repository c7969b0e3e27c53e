"""A picture of an RL run: what it earned, what it wrote, how far it went, and where its time has gone."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rekindle.exports import package
from rekindle.types.rl import MetricsRow, RlRunInfo

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Panel(NamedTuple):
    """A part of the picture: lines of fields of the rows, under their names in the legend."""

    label: str
    lines: tuple[tuple[str, str], ...]


PANELS = (
    Panel("reward", (("reward", "mean"),)),
    Panel("completion (tokens)", (("length", "mean"), ("length_max", "longest"))),
    Panel(
        "KL (nats per token)",
        (("kl_base", "from the base model"), ("kl_sampler_k3", "from the sampler")),
    ),
    Panel("entropy (nats per token)", (("entropy", "sampled"), ("entropy_trainer", "trainer"))),
    Panel("staleness (steps)", (("staleness", "mean"), ("staleness_max", "largest"))),
    Panel(
        "time (s)",
        (
            ("seconds", "step"),
            ("seconds_sample", "sample"),
            ("seconds_score", "score"),
            ("seconds_train", "train"),
        ),
    ),
)
NAN = float("nan")


def draw_run(run: RlRunInfo, rows: Sequence[MetricsRow], path: Path) -> Path:
    """Write the picture; the path's ending decides about its format."""
    figure = package("matplotlib.figure", "plot").Figure(figsize=(11, 9), layout="constrained")
    figure.suptitle(f"{run.name}: {run.phase}, step {run.step} of {run.steps}", parse_math=False)
    steps = [row for row in rows if row.step is not None]
    for panel, axes in zip(PANELS, figure.subplots(3, 2).flat, strict=True):
        _draw(axes, panel, steps)
        if panel.label == "reward":
            _draw_reward(axes, steps, rows)
        axes.set_xlabel("step")
        axes.set_ylabel(panel.label)
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize="small")
    figure.savefig(path, dpi=150)
    return path


def _draw(axes: "Axes", panel: Panel, steps: Sequence[MetricsRow]) -> None:
    """The lines of which something is known."""
    for field, label in panel.lines:
        values = [_number(getattr(row, field)) for row in steps]
        if any(value == value for value in values):
            axes.plot([_number(row.step) for row in steps], values, label=label, marker=_marker(len(steps)))


def _draw_reward(axes: "Axes", steps: Sequence[MetricsRow], rows: Sequence[MetricsRow]) -> None:
    """One standard deviation around the mean, and the evaluations."""
    known = [row for row in steps if row.reward is not None and row.reward_std is not None]
    low = [_number(row.reward) - _number(row.reward_std) for row in known]
    high = [_number(row.reward) + _number(row.reward_std) for row in known]
    axes.fill_between([_number(row.step) for row in known], low, high, alpha=0.15, linewidth=0)
    evaluations = sorted({pair for row in rows for pair in row.evaluations})
    if evaluations:
        versions, values = zip(*evaluations, strict=True)
        axes.plot(versions, values, "o--", label="held out", markersize=4)


def _marker(count: int) -> str:
    """A line of one step is a point."""
    return "." if count < 3 else ""


def _number(value: float | None) -> float:
    return NAN if value is None else float(value)

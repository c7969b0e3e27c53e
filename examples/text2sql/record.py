"""What a run leaves behind: `metrics.jsonl` as it goes, then `result.json` and `curve.png`.

Knows nothing of models or the API; counts tokens and time.
"""

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

Metrics = dict[str, float | int | None]


@dataclass
class Record:
    """The log of one run in `folder`, whose clock starts at the first step."""

    folder: Path
    history: list[Metrics] = field(default_factory=list)
    started: float = 0.0
    latest: float = 0.0
    """When the last step ended."""
    ended: float | None = None
    tokens: int = 0
    """Completion tokens sampled for RL so far."""

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._metrics = self.folder / "metrics.jsonl"
        self._metrics.write_text("", encoding="utf-8")

    def start(self, match: float, heldout: float) -> Metrics:
        """Step 0: match at temperature 1 and greedy, before the first update."""
        self.started = self.latest = time.perf_counter()
        figures = {"reward": None, "match": match, "heldout": heldout}
        return self._add({"step": 0, **figures, "excluded": 0, "seconds": None, "tokens_per_second": None})

    def step(
        self, reward: float, match: float, heldout: float | None, tokens: int, excluded: int = 0
    ) -> Metrics:
        """One step: mean reward and match of its rollouts, greedy held-out match if it was taken, tokens sampled.

        `excluded`: rollouts on which the judge failed. The step's seconds include the held-out match.
        """
        self.tokens += tokens
        before, self.latest = self.latest, time.perf_counter()
        return self._add(
            {
                "step": len(self.history),
                "reward": reward,
                "match": match,
                "heldout": heldout,
                "excluded": excluded,
                "seconds": round(self.latest - before, 4),
                "tokens_per_second": round(self.tokens_per_second),
            }
        )

    @property
    def seconds(self) -> float:
        """From the start of the first step to the end of the last, or to now."""
        return (self.ended or time.perf_counter()) - self.started

    @property
    def tokens_per_second(self) -> float:
        """Completion tokens per second of the whole loop: sampling, judging, training and evaluation."""
        return self.tokens / self.seconds

    def stop(self) -> None:
        """The last step is done: stop the clock."""
        self.ended = time.perf_counter()

    def finish(self, result: dict[str, Any]) -> None:
        """Write the result and the curve."""
        (self.folder / "result.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        self._plot(f"text-to-SQL, seed {result['seed']}, {result['rewards']} rewards")

    def _add(self, metrics: Metrics) -> Metrics:
        self.history.append(metrics)
        with self._metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(metrics) + "\n")
        return metrics

    def _plot(self, title: str) -> None:
        figure = Figure(figsize=(8, 4.5), layout="constrained")
        axes = figure.subplots()
        labels = {"reward": "reward", "match": "match of rollouts", "heldout": "match, held out, greedy"}
        for name, label in labels.items():
            points = [(row["step"], row[name]) for row in self.history if row[name] is not None]
            if points:
                axes.plot(
                    *zip(*points, strict=True), "o-" if name == "heldout" else "-", label=label, markersize=4
                )
        axes.set(xlabel="RL step", ylabel="fraction", ylim=(0, 1.02), title=title)
        axes.grid(alpha=0.3)
        axes.legend(loc="lower right")
        figure.savefig(self.folder / "curve.png", dpi=150)

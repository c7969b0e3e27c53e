"""How many pods a revision shall have: the arithmetic of Knative's pod autoscaler.

desired = ceil(load / (target x utilisation)), within the bounds; load is averaged over a stable window, and over a
tenth of it where that asks for more (panic). Scale-down waits for `scale-down-delay`, the last pod for its retention
period too. Sources: knative.dev/docs/serving/autoscaling, knative/serving pkg/autoscaler/scaling.
"""

import math
import re
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

SCALING = "autoscaling.knative.dev/"
DEFAULT_TARGET = {"concurrency": 100.0, "rps": 200.0}
"""Of a pod, where neither the annotations nor containerConcurrency say one."""
PANIC = 0.1
"""Part of the window."""
UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a revision's template says of its scale. Example: Bounds(target=1.0, most=4)."""

    target: float
    """Load of one pod, utilisation included."""
    metric: str = "concurrency"
    """`concurrency`: open requests; `rps`: requests a second."""
    least: int = 0
    most: int = 0
    """0 = unbounded."""
    initial: int = 1
    window: float = 60.0
    delay: float = 0.0
    """Seconds before any scale-down."""
    retention: float = 0.0
    """Seconds more for the last pod."""

    @classmethod
    def of(cls, template: Mapping[str, Any]) -> "Bounds":
        """From a Service's `spec.template`; Knative's defaults for what it leaves out."""
        said = {
            key.removeprefix(SCALING): value
            for key, value in template.get("metadata", {}).get("annotations", {}).items()
            if key.startswith(SCALING)
        }
        metric = said.get("metric", "concurrency")
        together = template["spec"].get("containerConcurrency") or 0
        hard = together if metric == "concurrency" else 0
        target = float(said.get("target", hard or DEFAULT_TARGET[metric]))
        target = min(target, hard) if hard else target
        utilisation = float(said.get("target-utilization-percentage", "70")) / 100.0
        return cls(
            max(0.01, target * utilisation),
            metric,
            int(said.get("min-scale", "0")),
            int(said.get("max-scale", "0")),
            int(said.get("initial-scale", "1")),
            seconds(said.get("window", "60s")),
            seconds(said.get("scale-down-delay", "0s")),
            seconds(said.get("scale-to-zero-pod-retention-period", "0s")),
        )

    def desired(self, load: float) -> int:
        """Pods for a load."""
        wanted = max(self.least, math.ceil(load / self.target - 1e-9))
        return min(wanted, self.most) if self.most else wanted


@dataclass(slots=True)
class Autoscaler:
    """Remembers the load of one revision, and what it has decided."""

    _loads: deque[tuple[float, float]] = field(default_factory=deque)
    _decided: deque[tuple[float, int]] = field(default_factory=deque)

    def decide(self, bounds: Bounds, load: float, pods: int, now: float) -> int:
        """Pods from now on; `load` is that of this moment, `pods` how many there are."""
        self._loads.append((now, load))
        _forget(self._loads, now - bounds.window)
        wanted = max(
            bounds.desired(self._average(now - span)) for span in (bounds.window, PANIC * bounds.window)
        )
        if load and not pods:
            wanted = max(wanted, 1)  # the activator pokes it
        self._decided.append((now, wanted))
        _forget(self._decided, now - max(bounds.delay, bounds.retention))
        delayed = max(pods for at, pods in self._decided if at >= now - bounds.delay)
        kept = any(decided for _, decided in self._decided)
        return delayed or min(1, int(kept and pods))

    def _average(self, since: float) -> float:
        loads = [load for at, load in self._loads if at >= since]
        return sum(loads) / len(loads)


def seconds(duration: str) -> float:
    """Of `1h2m3.5s`, as Go writes it."""
    return sum(float(number) * UNITS[unit] for number, unit in re.findall(r"([\d.]+)(h|m|s)", duration))


def _forget(entries: "deque[tuple[float, Any]]", before: float) -> None:
    while entries and entries[0][0] < before:
        entries.popleft()

"""How long the stages of a step took, by the clock of whoever drives the run. Memory only: after a change of hands
the times that began elsewhere are not known.
"""

import time
from collections.abc import Sequence

from cachetools import LRUCache

from services.data.rl.messages import Command, Publish, Report

KEPT = 65_536


class Timing:
    """When commands were begun and answered."""

    def __init__(self) -> None:
        self._begun: LRUCache[str, float] = LRUCache(maxsize=KEPT)
        self._answered: LRUCache[str, float] = LRUCache(maxsize=KEPT)

    def begin(self, command: Command) -> None:
        self._begun.setdefault(command.id, time.monotonic())

    def answer(self, command: Command) -> None:
        if command.id in self._begun:  # else it was answered elsewhere, and this only found out
            self._answered[command.id] = time.monotonic()

    def began(self, report: Report) -> int | None:
        """When a step's first sample was asked for here, in nanoseconds since 1970; None: none was."""
        begun = [self._begun[score.sample.id] for score in report.groups if score.sample.id in self._begun]
        ago = time.monotonic() - min(begun) if begun else None
        return None if ago is None else time.time_ns() - round(ago * 1e9)

    def of(self, report: Report) -> dict[str, float | None]:
        """`seconds_sample`, `seconds_score` and `seconds_train` of a step."""
        samples = [score.sample.id for score in report.groups]
        scores = [score.id for score in report.groups]
        sampled = self._known(self._answered, samples)
        found: dict[str, float | None] = {
            "seconds_sample": _span(self._known(self._begun, samples), sampled),
            "seconds_score": _span(sampled, self._known(self._answered, scores)),
        }
        if report.train is not None:
            published = Publish(version=report.train.step + 1, seq=0).id
            found["seconds_train"] = _span(
                self._known(self._begun, [report.train.id]), self._known(self._answered, [published])
            )
        return found

    @staticmethod
    def _known(times: LRUCache[str, float], ids: Sequence[str]) -> list[float]:
        """The times of all of them; none if one is missing."""
        found = [times[id] for id in ids if id in times]
        return found if len(found) == len(ids) else []


def _span(starts: Sequence[float], ends: Sequence[float]) -> float | None:
    """From the first start to the last end."""
    return max(0.0, max(ends) - min(starts)) if starts and ends else None

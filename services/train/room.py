"""Which runs are in memory: as many as their states fit into a budget of bytes, and all of them in turn.

A run's size follows from its rank and the layers that it trains. One that has work and finds no room waits in line.
For the first in line, runs without work leave, the least recently used first; when those are not enough, runs that
have worked for a turn while it waited leave in mid-work, the longest in memory first, and stand in line themselves.
A run larger than the whole budget comes in alone. Knows nothing of snapshots and leases: it says who comes and goes.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import psutil
import torch

from events.failure import NotFound
from events.record_store import Records
from events.records import RunRecord
from services.model.base import BaseModel
from services.model.lora import LoraSpec
from services.train.held import HeldRun
from services.train.run import state_bytes

SHARE = 0.5
"""Of the memory that is free beside the base model; the rest is for passes and copies."""


class Room:
    """One trainer's memory for the states of its runs."""

    def __init__(
        self, base: BaseModel, records: Records, budget: int | None = None, turn_seconds: float = 10.0
    ) -> None:
        """budget: bytes; None = half of what is free now."""
        self._base = base
        self._records = records
        self._budget = int(SHARE * free_bytes(base.device)) if budget is None else budget
        self._turn = turn_seconds

    async def measure(self, run: HeldRun) -> None:
        """Find out how many bytes an identified run takes. Raises BusUnavailable."""
        if run.size is None:
            try:
                record = await self._records.get(RunRecord, run.tenant, run.run_id)
            except NotFound:
                return  # it has no state to come: its commands fail
            run.size = state_bytes(LoraSpec(**record.lora.model_dump()), self._base)

    def fits(self, run: HeldRun, inside: Iterable[HeldRun]) -> bool:
        """Whether there is room for one more."""
        used = sum(_size(one) for one in inside)
        return used == 0 or used + _size(run) <= self._budget

    def leavers(self, first: HeldRun, inside: Sequence[HeldRun], now: float) -> list[HeldRun]:
        """Who shall leave for the first in line; nobody while that would not suffice, or enough are leaving.

        inside: the runs in memory; those that are `idle` may leave at once.
        """
        staying = [run for run in inside if not run.leaving]
        idle = sorted((run for run in staying if run.idle), key=lambda run: run.last_used)
        busy = sorted((run for run in staying if not run.idle), key=lambda run: run.came)
        chosen: list[HeldRun] = []
        for run in idle + [run for run in busy if now >= self.turn_ends(first, run)]:
            if self.fits(first, staying):
                break
            staying.remove(run)
            chosen.append(run)
        return chosen if self.fits(first, staying) else []

    def turn_ends(self, first: HeldRun, run: HeldRun) -> float:
        """When a run has worked for a turn while another waited."""
        assert first.waits_since is not None, "asked for a run that waits"
        return max(first.waits_since, run.came) + self._turn


def _size(run: HeldRun) -> int:
    return run.size or 0


def free_bytes(device: torch.device, cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Memory of the device that nobody uses; of a CPU's, what this container may have."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    free = int(psutil.virtual_memory().available)
    limit, used = cgroup / "memory.max", cgroup / "memory.current"
    if limit.is_file() and used.is_file() and (text := limit.read_text().strip()) != "max":
        free = min(free, int(text) - int(used.read_text()))
    return max(0, free)

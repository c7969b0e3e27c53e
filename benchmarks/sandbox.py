"""What the sandbox costs: a guest that does nothing, from the order to its end.

    task bench -- sandbox

That is a fork of the warm interpreter, streams, a scratch folder, every mechanism that is in force here, and the
guest's burial: what a program's own time comes on top of.
"""

import asyncio
import statistics
import time

from benchmarks.record import Cell, record
from services.reward.code.place import GUESTS
from services.reward.sandbox import Limits, Sandbox

ENTRY = "services.reward.sandbox.attempts:nothing"
RUNS, WARM_UP = 1000, 50
AT_ONCE = (1, 2)


async def measure(sandbox: Sandbox, runs: int, at_once: int) -> tuple[list[float], float]:
    """(seconds of each run, runs per second)"""
    left, taken = iter(range(runs)), []

    async def work() -> None:
        for _ in left:
            begin = time.perf_counter()
            ended = await sandbox.run(ENTRY, b"", limits=Limits())
            taken.append(time.perf_counter() - begin)
            assert (ended.how, ended.code) == ("exit", 0), ended

    begin = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(at_once)))
    return taken, runs / (time.perf_counter() - begin)


async def measure_all() -> tuple[list[list[Cell]], list[str]]:
    """(rows, mechanisms in force)"""
    async with Sandbox(GUESTS) as sandbox:
        await measure(sandbox, WARM_UP, 1)
        rows: list[list[Cell]] = []
        for at_once in AT_ONCE:
            taken, speed = await measure(sandbox, RUNS, at_once)
            percentiles = statistics.quantiles(taken, n=100)
            median, high = (round(1000 * percentiles[which - 1], 2) for which in (50, 99))
            rows.append([at_once, median, high, round(speed)])
        return rows, [layer.name for layer in sandbox.layers if layer.in_force]


def main() -> None:
    """Measure and record the table."""
    rows, layers = asyncio.run(measure_all())
    note = (
        f"A guest that does nothing, from the order until it is gone; {RUNS} runs. {len(layers)} mechanisms in force"
        f"{', bubblewrap among them' if 'namespaces' in layers else ', without namespaces'}."
    )
    columns = ["guests at once", "p50 ms", "p99 ms", "guests/s"]
    record("sandbox", columns, rows, command="task bench -- sandbox", note=note)


if __name__ == "__main__":
    main()

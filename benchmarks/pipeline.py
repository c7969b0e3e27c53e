"""Whether waiting for rewards holds up trainer and sampler: four RL runs at once, whose grader takes its time.

    python -m benchmarks.pipeline [ROUNDS]

The runs are the server's own, on one trainer and one sampler with a core each; the grader is a service that answers
after so many seconds and computes nothing. The same four runs go on through all delays, up and down in turns, and what
trainer and sampler do is taken from their own facts once the change of the delay has worn off. Beside that stands the
same loop as a client writes it, one thing after the other, in four threads.

When can the busier stage, which takes c seconds for a batch, always be at work? With n runs and staleness s there are
n·(1 + s) batches under way, and each is sampled, waits d seconds for its rewards and is trained, which takes L + d
seconds where nobody is in its way; L is c and what the other stage takes. So there are at most n·(1 + s) / (L + d)
batches a second (Little's law), and the busier stage is never idle only if

    n·c·(1 + s) ≥ L + d

`n·c·(1 + s) ≥ c + d` is the same where the other stage takes no time, and `≥ 2c + d` where it takes as long. L is
measured, by a run that is alone and does one thing after the other; both are printed. A client's loop has s = 0.
"""

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import rekindle
from benchmarks.pipeline_runs import BASE, client_runs, make_base, server_runs, upload_questions
from benchmarks.rates import Ledger, Rates, listening, now
from benchmarks.record import Cell, record
from benchmarks.slow_grader import SlowGrader
from examples.text2sql.stack import running_stack
from services.local import nats_server

RUNS, STALENESS = 4, 1
DELAYS = (0.0, 0.5, 2.0, 10.0)
ROUNDS = 3
WINDOW_SECONDS, WINDOW_ROUNDS = 18.0, 2
"""How long a delay is looked at, at least, and how many rounds of a run's batches."""
WARM_UP_STEPS = 3
SETTLE_SECONDS = 6.0
"""Until a change has worn off, beside the delays before and after."""


@dataclass(frozen=True, slots=True)
class Bench:
    """What all measurements use."""

    service: rekindle.ServiceClient
    grader: SlowGrader
    ledger: Ledger

    def warm_up(self, runs: Sequence[str]) -> None:
        """Return once all are at work."""
        for run in runs:
            self.ledger.wait(run, 0.0, steps=WARM_UP_STEPS)

    def measure(self, runs: Sequence[str], delay: float, rounds_of: int) -> Rates:
        """Of these training runs, once they have got used to the delay; `rounds_of`: batches of a run at once."""
        before, self.grader.delay = self.grader.delay, delay
        if before != delay:
            time.sleep(SETTLE_SECONDS + before + delay)
        since = now()
        time.sleep(WINDOW_SECONDS)
        for run in runs:
            self.ledger.wait(run, since, steps=WINDOW_ROUNDS * rounds_of + 1)
        return self.ledger.rates(runs, since, rounds_of)


@dataclass(frozen=True, slots=True)
class Found:
    """All that was measured."""

    alone: float
    """L: seconds of a step of one run that does one thing after the other."""
    pipelined: dict[float, Rates]
    """By delay."""
    sequential: dict[float, Rates]

    @property
    def stage(self) -> float:
        """c: without a delay there are always more batches than the busier stage can take."""
        return 1 / self.pipelined[0.0].steps

    def possible(self, delay: float) -> float:
        """Share of the throughput without a delay that the pipeline can have."""
        return min(1.0, RUNS * self.stage * (1 + STALENESS) / (self.alone + delay))

    def row(self, delay: float) -> list[Cell]:
        at, least, own = self.pipelined[delay], self.pipelined[0.0], self.sequential[delay]
        room = RUNS * self.stage * (1 + STALENESS)
        trained, sampled = at.trained / least.trained, at.sampled / least.sampled
        return [
            f"{delay:g}",
            round(at.trained),
            round(at.sampled),
            f"{trained:.1%}",
            f"{sampled:.1%}",
            compared(room, self.stage + delay),
            compared(room, self.alone + delay),
            f"{trained / self.possible(delay):.1%}",
            round(own.trained),
            round(own.sampled),
        ]


COLUMNS = [
    "grader waits s",
    "trained tokens/s",
    "sampled tokens/s",
    "trained, of 0 s",
    "sampled, of 0 s",
    "4c(1+s) ≥ c+d",
    "4c(1+s) ≥ L+d",
    "of the bound",
    "sequential: trained tokens/s",
    "sampled tokens/s",
]


def compared(room: float, wanted: float) -> str:
    """E.g. `5.6 ≥ 2.7`."""
    return f"{room:.1f} {'≥' if room >= wanted else '<'} {wanted:.1f}"


def median(found: Sequence[Rates]) -> Rates:
    """Each rate's own."""
    return Rates(
        trained=statistics.median(one.trained for one in found),
        sampled=statistics.median(one.sampled for one in found),
        steps=statistics.median(one.steps for one in found),
    )


def measure_alone(bench: Bench) -> float:
    """Seconds of a step of one run without staleness and without a delay."""
    with server_runs(bench.service, bench.grader, 1, max_staleness=0) as runs:
        bench.warm_up(runs)
        since = now()
        bench.ledger.wait(runs[0], since, steps=6)
        return 1 / bench.ledger.rates(runs, since, 1).steps


def measure_pipelined(bench: Bench, rounds: int) -> dict[float, Rates]:
    """By delay, the medians of the rounds, which go up and down in turns."""
    found: dict[float, list[Rates]] = {delay: [] for delay in DELAYS}
    bench.grader.delay = DELAYS[0]
    with server_runs(bench.service, bench.grader, RUNS, max_staleness=STALENESS) as runs:
        bench.warm_up(runs)
        for number in range(rounds):
            for delay in DELAYS if number % 2 == 0 else DELAYS[::-1]:
                rates = bench.measure(runs, delay, 1 + STALENESS)
                found[delay].append(rates)
                say(f"round {number + 1}", delay, rates)
    return {delay: median(rates) for delay, rates in found.items()}


def measure_sequential(bench: Bench) -> dict[float, Rates]:
    """By delay."""
    found = {}
    bench.grader.delay = DELAYS[0]
    with client_runs(bench.service, bench.grader, RUNS) as runs:
        bench.warm_up(runs)
        for delay in DELAYS:
            found[delay] = bench.measure(runs, delay, 1)
            say("sequential", delay, found[delay])
    return found


def say(what: str, delay: float, rates: Rates) -> None:
    print(
        f"{what:12} {delay:4g} s  trained {rates.trained:7,.0f} tokens/s  sampled {rates.sampled:6,.0f} tokens/s"
        f"  {1 / rates.steps:5.2f} s a step",
        flush=True,
    )


def main(rounds: int = ROUNDS) -> None:
    """Measure and record."""
    os.environ["REKINDLE_THREADS"] = "1"  # of trainer and sampler, which have a core each then
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base = make_base(folder / "model")
        with (
            running_stack(None, f"{BASE}={base}", folder / "stack") as stack,
            rekindle.ServiceClient(stack.url, "tml-bench") as service,
            SlowGrader() as grader,
            listening(nats_server.address(folder / "stack").url) as ledger,
        ):
            upload_questions(service)
            bench = Bench(service, grader, ledger)
            found = Found(
                alone=measure_alone(bench),
                pipelined=measure_pipelined(bench, rounds),
                sequential=measure_sequential(bench),
            )
    report(found, rounds)


def report(found: Found, rounds: int) -> None:
    """Record the table."""
    note = (
        f"{RUNS} runs at once, max_staleness {STALENESS}; medians of {rounds} round(s), up and down in turns, of the "
        f"same runs. c = {found.stage:.2f} s: a step of all runs together where the grader does not wait; L = "
        f"{found.alone:.2f} s: a step of a run that is alone and does one thing after the other. The busier stage is "
        "never idle only if 4c(1+s) ≥ L+d, else there are at most 4(1+s)/(L+d) steps a second: how near that comes "
        "is `of the bound`. Sequential: the same loop as a client writes it, in four threads, one round."
    )
    rows = [found.row(delay) for delay in DELAYS]
    record("pipeline", COLUMNS, rows, command="task bench -- pipeline", note=note)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS)

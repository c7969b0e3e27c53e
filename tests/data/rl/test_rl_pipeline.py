"""Waiting for rewards holds up neither sampler nor trainer, as far as the staleness allows.

Several runs share one sampler and one trainer, each of which does one thing at a time and takes c seconds for a
batch. A batch needs c to be sampled, d to be scored and c to be trained, and a run has 1 + s of them under way, so n
runs keep the stages busy if n·c·(1 + s) ≥ 2c + d; otherwise they make n·(1 + s) batches in 2c + d seconds.
"""

import heapq
import random
from typing import Any

import pytest

from services.data.rl import messages as m
from services.data.rl.machine import initial, outstanding, step
from tests.data.rl.rl_world import make_spec

STAGE = 1.0
STEPS = 30


def seconds_a_step(runs: int, staleness: int, delay: float, noise: float = 0.0, **changes: Any) -> float:
    """Seconds from one step of all runs together to the next, in a world where time is a number."""
    spec = make_spec(groups=4, steps=STEPS, max_staleness=staleness, **changes)
    chance = random.Random(0)
    free = {"sampler": 0.0, "trainer": 0.0}
    events: list[tuple[float, int, int, m.Event]] = []
    states = [initial(spec, 1000) for _ in range(runs)]

    def spread(seconds: float) -> float:
        return seconds * chance.uniform(1 - noise, 1 + noise)

    def occupied(machine: str, now: float, seconds: float) -> float:
        free[machine] = max(free[machine], now) + spread(seconds)
        return free[machine]

    def happen(run: int, now: float, commands: tuple[m.Command, ...]) -> None:
        for command in commands:
            time, event = now, None
            match command:
                case m.Create():
                    event = m.Created()
                case m.Publish():
                    time, event = max(now, free["trainer"]), m.Published(version=command.version)
                case m.Sample(batch=batch, group=group, attempt=attempt):
                    time = occupied("sampler", now, STAGE / spec.groups)
                    event = m.Sampled(batch=batch, group=group, attempt=attempt)
                case m.Score(batch=batch, group=group, attempt=attempt):
                    time = now + spread(delay)
                    event = m.Scored(batch=batch, group=group, attempt=attempt, rewards=(0.0, 1.0))
                case m.Train():
                    time, event = occupied("trainer", now, STAGE), m.Trained(step=command.step)
                case m.Probe():
                    time, event = max(now, free["sampler"]), m.Probed(step=command.train.step, gap=0.0)
                case m.Report():
                    event = m.Reported(row=command.row)
                case m.Finish():
                    continue
            assert event is not None, f"nothing answers {command.kind} here"
            heapq.heappush(events, (time, len(events) + chance.getrandbits(40), run, event))

    for run, state in enumerate(states):
        happen(run, 0.0, outstanding(spec, state))
    ended: list[float] = []
    while events:
        now, _, run, event = heapq.heappop(events)
        states[run], commands = step(spec, states[run], event)
        happen(run, now, commands)
        if isinstance(event, m.Trained):
            ended.append(now)
    assert len(ended) == runs * STEPS
    start, stop = len(ended) // 4, 3 * len(ended) // 4  # neither the beginning nor the end, when runs are few
    return (ended[stop] - ended[start]) / (stop - start)


def test_one_run_without_staleness_does_one_thing_after_the_other():
    assert seconds_a_step(runs=1, staleness=0, delay=0.0) == pytest.approx(2 * STAGE)
    assert seconds_a_step(runs=1, staleness=0, delay=3.0) == pytest.approx(2 * STAGE + 3.0)


def test_one_run_with_staleness_keeps_both_stages_busy():
    assert seconds_a_step(runs=1, staleness=1, delay=0.0) == pytest.approx(STAGE)
    assert seconds_a_step(runs=1, staleness=2, delay=1.0) == pytest.approx(STAGE)


@pytest.mark.parametrize("delay", [0.5, 2.0, 6.0])
def test_four_runs_keep_both_stages_busy_up_to_the_bound(delay: float):
    assert 2 * STAGE + delay <= 4 * STAGE * 2
    assert seconds_a_step(runs=4, staleness=1, delay=delay) <= STAGE / 0.95


@pytest.mark.parametrize(("staleness", "delay"), [(0, 10.0), (1, 10.0), (1, 20.0), (2, 20.0)])
def test_beyond_the_bound_the_delay_decides(staleness: int, delay: float):
    bound = (2 * STAGE + delay) / (4 * (1 + staleness))
    assert bound > STAGE
    assert bound <= seconds_a_step(runs=4, staleness=staleness, delay=delay) * 1.001 <= 1.05 * bound


def test_times_that_vary_cost_little():
    steady = seconds_a_step(runs=4, staleness=1, delay=2.0)
    assert seconds_a_step(runs=4, staleness=1, delay=2.0, noise=0.5) <= 1.1 * steady

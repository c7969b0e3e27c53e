"""Numbers of a training run's log are taken one after the other, so that who dies or pauses leaves no hole in it.

A trainer gives up a number that does not arrive while later ones are there; a run would fail of it.
"""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from events.failure import UserError
from services.data.rl import messages as m
from services.data.rl.perform import Performer
from services.data.rl.publish import NOTHING_TO_LEARN
from services.data.rl.results import LostGroup
from tests.data.rl.rl_world import make_run

SAMPLE = m.Sample(batch=0, group=0, attempt=0, prompt=0, version=0)
SCORE = m.Score(batch=0, group=0, attempt=0, sample=SAMPLE)
TRAIN = m.Train(step=0, seq=2, groups=(SCORE,), learning_rate=0.1)
SAID: tuple[m.Command, ...] = (
    TRAIN,
    m.Publish(version=1, seq=4),
    m.Save(version=1, seq=5),
    m.Train(step=1, seq=6, groups=(), learning_rate=0.1),
    m.Publish(version=2, seq=8),
)


async def soon(*_: object) -> None:
    """As slow as the bus."""
    for _turn in range(3):
        await asyncio.sleep(0)


class Numbers:
    """A log that remembers in which order its numbers were taken, and the performer that takes them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.taken: list[int] = []
        self.purged: list[str] = []
        edge: Any = SimpleNamespace(
            records=SimpleNamespace(create=soon, get=soon),
            bus=SimpleNamespace(first=soon, purge=self.purge),
            log=SimpleNamespace(submit=self.append, reject=self.append),
        )
        run = make_run(checkpoints={"every": 1})
        nothing: Any = None
        self.performer = Performer(edge, "local", run, nothing, nothing, nothing)
        for part, name in (("_results", "trained"), ("_log", "_batch")):
            monkeypatch.setattr(getattr(self.performer, part), name, soon)

    async def purge(self, stream: str, subject: str) -> None:
        self.purged.append(subject)

    async def append(self, tenant: str, run: object, number: int, *_: object) -> None:
        await soon()
        self.taken.append(number)


async def test_numbers_are_taken_in_the_order_in_which_they_were_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    numbers = Numbers(monkeypatch)
    await asyncio.gather(*(numbers.performer(command) for command in SAID))
    assert numbers.taken == [2, 3, 4, 5, 6, 7, 8]


async def test_nothing_overtakes_a_step_whose_rollouts_are_drawn_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    numbers, lost, drawn = Numbers(monkeypatch), asyncio.Event(), asyncio.Event()
    performer = numbers.performer

    async def batch(_: object) -> None:
        if not lost.is_set():
            lost.set()
            raise LostGroup(SCORE)

    async def wait(_: object) -> None:
        assert len(numbers.purged) == 1, (
            "what was said of the rollouts that are lost may be untrue of those to come"
        )
        await drawn.wait()

    monkeypatch.setattr(performer._log, "_batch", batch)
    for part, name, does in (
        ("_asking", "sample", wait),
        ("_asking", "score", soon),
        ("_results", "verdicts", soon),
    ):
        monkeypatch.setattr(getattr(performer, part), name, does)
    async with asyncio.TaskGroup() as group:
        for command in SAID:
            group.create_task(performer(command))
        await lost.wait()
        for _ in range(50):
            await asyncio.sleep(0)
        assert numbers.taken == []
        drawn.set()
    assert numbers.taken == [2, 3, 4, 5, 6, 7, 8]


async def test_a_step_whose_rollouts_were_drawn_again_and_teach_nothing_is_taken_and_no_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    numbers = Numbers(monkeypatch)
    rejected: list[int] = []

    async def reject(tenant: str, run: object, number: int, *_: object) -> None:
        rejected.append(number)

    async def failed(number: int) -> None:
        raise UserError(NOTHING_TO_LEARN)

    numbers.performer._log._edge.log.reject = reject
    monkeypatch.setattr(numbers.performer._results, "trained", failed)
    assert await numbers.performer(TRAIN) == m.Trained(step=0)  # `_batch` finds nothing
    assert (rejected, numbers.taken) == ([2, 3], [])

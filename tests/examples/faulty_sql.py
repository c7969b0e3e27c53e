"""The SQL grader with faults: a process that imports this, as a test has grading processes do, grades SQL by it."""

import os
import signal

from rekindle.types import rewards
from services.reward import graders
from services.reward.graders.base import Graded, Item
from services.reward.graders.sql import SqlGrader
from tests.examples.fates import fate_of, name_of, strikes


class FaultySql(SqlGrader):
    """Fails as it is fated to, in its own code; else grades."""

    def grade(self, item: Item) -> Graded:
        name = name_of(item.prompt, item.completion, item.columns)
        fate = fate_of(name)
        if strikes(fate, name):
            fail(fate.kind)
        return super().grade(item)


def fail(kind: str) -> None:
    if kind == "raise":
        raise RuntimeError("a fault")
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    while True:
        signal.pause()


graders.register(rewards.Sql, FaultySql)

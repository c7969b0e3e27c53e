"""Graders that fail in every way a grader can; registered in the processes of a test's pool, never on the wire."""

import os
import signal
import sys
import time
from typing import Literal

from rekindle.types import rewards
from services.reward import graders
from services.reward.graders.base import Graded, Grader, Invalid, Item


class BrokenParams(rewards.Params):
    loads: bool = True


class Broken(rewards.Exact):
    type: Literal["broken"] = "broken"
    params: BrokenParams = BrokenParams()
    invalid_value: float | None = 0.0


class BrokenGrader(Grader[BrokenParams]):
    """Does what the completion says."""

    release = 1

    def __init__(self, params, mark=lambda _phase: None):
        super().__init__(params, mark)
        if not params.loads:
            raise ImportError("no such library")
        self.seen = 0

    def grade(self, item: Item) -> Graded:
        self.seen += 1
        what, _, rest = item.completion.partition(" ")
        if what == "rollout":
            self.mark("rollout")
            what, _, rest = rest.partition(" ")
        return getattr(self, f"do_{what}")(rest)

    def do_pass(self, value):
        return Graded(float(value or 1))

    def do_nan(self, _):
        return Graded(float("nan"))

    def do_invalid(self, reason):
        raise Invalid(reason)

    def do_raise(self, reason):
        raise RuntimeError(reason)

    def do_overrun(self, reason):
        raise TimeoutError(reason)

    def do_raise_first(self, _):
        if self.seen == 1:
            raise RuntimeError("the first time is the hardest")
        return Graded(float(self.seen))

    def do_hang(self, _):
        while True:
            signal.pause()

    def do_exit(self, code):
        sys.stderr.write("last words\n")
        sys.exit(int(code))

    def do_die(self, _):
        os.kill(os.getpid(), signal.SIGKILL)

    def do_eat(self, _):
        hoard = []
        while True:
            hoard.append(bytearray(2**24))

    def do_print(self, text):
        forged = '{"outcome": "scored", "value": 99, "reason": null, "seconds": 0}\n'
        sys.stdout.write(forged)
        sys.stdout.flush()
        os.write(1, forged.encode())
        sys.stderr.write("x" * 200_000)
        return Graded(1.0, f"read {sys.stdin.read()!r}")

    def do_write(self, path):
        with open(path, "w") as file:
            file.write("x")
        return Graded(1.0)

    def do_environment(self, _):
        return Graded(1.0, " ".join(sorted(os.environ)))

    def do_pid(self, _):
        return Graded(float(os.getpid()))

    def do_slow(self, seconds):
        time.sleep(float(seconds))
        return Graded(1.0)


graders.register(Broken, BrokenGrader)

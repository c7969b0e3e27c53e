"""One program on one test: which guests run, what passes between them, and what their ends mean.

A pair runs the program as a script, and what it printed is compared here. Assertions run in two guests, the test in
one and the program in the other, with a socket between them. The program's guest is never asked whether a test
passed; the test's guest says so on a pipe that the program has not.
"""

import asyncio
import json
import signal
import socket
from dataclasses import dataclass

from events import tasks
from rekindle.types.rewards import PythonParams
from services.reward.code.place import Place
from services.reward.code.rows import Assertions, Pair, Test, same_output
from services.reward.guests.program import SCRIPT, SERVE, SYNTAX
from services.reward.guests.tester import TEST
from services.reward.sandbox import Ended, Limits, SandboxError

TESTER_GRACE = 0.5
"""Seconds that a test's guest has beyond the program's, so that a program that hangs is what ends first."""
TESTER_MEMORY = 2**29
THREADS = 4
"""That a program may start."""
SHOWN = 80
"""Characters of what a program printed, in a reason."""


class BrokenTest(Exception):
    """The test itself is wrong: no program could pass it, or any could."""


@dataclass(frozen=True, slots=True)
class Tried:
    """What a program made of a test. Example: Tried(passed=True, ended=True)."""

    passed: bool
    ended: bool
    """Whether the program ran to an end: it did not die, hang or pass a limit."""
    reason: str = ""
    overran: bool = False
    syntax: bool = False
    """It is no Python: other tests would say the same."""


async def attempt(sandbox: Place, source: bytes, test: Test, params: PythonParams) -> Tried:
    """Raises BrokenTest, or SandboxError when nothing is known of the program."""
    if isinstance(test, Pair):
        return await _pair(sandbox, source, test, params)
    return await _assertions(sandbox, source, test, params)


def limits(params: PythonParams) -> Limits:
    """Of the program."""
    return Limits(
        seconds=params.seconds,
        cpu_seconds=params.seconds,
        memory_bytes=params.memory_bytes,
        output_bytes=params.output_bytes,
        threads=THREADS,
    )


async def _pair(sandbox: Place, source: bytes, test: Pair, params: PythonParams) -> Tried:
    ended = await sandbox.run(SCRIPT, source, limits=limits(params), stdin=test.stdin.encode())
    if _is_clean(ended):
        passed = same_output(test.stdout, ended.stdout)
        return Tried(passed, True, "" if passed else f"printed {_shown(ended.stdout)}")
    if ended.report.startswith(SYNTAX):
        return Tried(False, False, ended.report.removeprefix(SYNTAX).decode(errors="replace"), syntax=True)
    return _died(ended, params)


async def _assertions(sandbox: Place, source: bytes, test: Assertions, params: PythonParams) -> Tried:
    order = json.dumps([test.setup, test.text]).encode()
    grace = params.seconds + TESTER_GRACE
    tester_limits = Limits(seconds=grace, cpu_seconds=grace, memory_bytes=TESTER_MEMORY)
    near, far = socket.socketpair()
    with near, far:
        program = asyncio.create_task(sandbox.run(SERVE, source, limits=limits(params), fds=[near.fileno()]))
        tester = asyncio.create_task(sandbox.run(TEST, order, limits=tester_limits, fds=[far.fileno()]))
        try:
            await asyncio.wait({program, tester}, return_when=asyncio.FIRST_COMPLETED)
            near.shutdown(
                socket.SHUT_RDWR
            )  # ours are copies: without this, neither would hear of the other's end
            ended = await tester
            if _overran(ended) and not program.done() and _is_clean(await program):
                # Who has less time is still there: its time began long after the other's.
                raise SandboxError("the program began too long after its test")
            return _verdict(ended, program.result() if program.done() else None, params)
        finally:
            await tasks.end(program, tester)


def _verdict(tester: Ended, program: Ended | None, params: PythonParams) -> Tried:
    """`program`: how it ended, if it did so before the test. Raises BrokenTest."""
    clean = _is_clean(tester) and tester.report
    word, reason = json.loads(tester.report) if clean else ("lost", "")
    if word == "passed":
        return Tried(True, True)
    if word == "broken":
        raise BrokenTest(reason)
    if word == "failed":
        return Tried(False, True, reason)
    if word == "syntax":
        return Tried(False, False, reason, syntax=True)
    if program is not None and not _is_clean(program):
        return _died(program, params)
    if not clean:
        return _died(tester, params, who="the test")
    return Tried(False, False, reason)


def _died(ended: Ended, params: PythonParams, who: str = "the program") -> Tried:
    return Tried(False, False, f"{who} {how(ended, limits(params))}", overran=_overran(ended))


def _overran(ended: Ended) -> bool:
    return ended.how in ("time", "cpu")


def _is_clean(ended: Ended) -> bool:
    return (ended.how, ended.code) == ("exit", 0)


def how(ended: Ended, limits: Limits) -> str:
    """The end of a guest in words, to follow who it was."""
    match ended.how:
        case "time" | "cpu":
            return f"took longer than {limits.seconds:g} s"
        case "memory":
            return f"used more than {limits.memory_bytes // 2**20} MiB of memory"
        case "output":
            return f"printed more than {limits.output_bytes} bytes, or wrote too many files"
        case "signal":
            return f"was ended by {_signal(ended.code or 0)}"
    words = ended.stderr.decode(errors="replace").strip().rpartition("\n")[2]
    return f"ended with status {ended.code}" + (f": {words}" if words else "")


def _signal(number: int) -> str:
    """Its name; those for programs' own use have none, but end them all the same."""
    named = number in {one.value for one in signal.Signals}
    return signal.Signals(number).name if named else f"signal {number}"


def _shown(printed: bytes) -> str:
    text = printed.decode(errors="replace").strip()
    return repr(text) if len(text) <= SHOWN else f"{text[:SHOWN]!r}…"

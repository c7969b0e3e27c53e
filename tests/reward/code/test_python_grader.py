"""What programs earn on tests: honest ones, wrong ones, and rows that are wrong themselves."""

import asyncio
import os
import socket
import tracemalloc
from collections.abc import Sequence
from typing import Any

import pytest

from services.reward.code.place import Nowhere
from services.reward.code.rows import same_output
from services.reward.guests.tester import TEST
from services.reward.sandbox import Ended, Limits, Sandbox
from tests.reward.code.rooms import ADD, judged, scored

pytestmark = pytest.mark.asyncio(loop_scope="module")

SUM = "print(sum(map(int, input().split())))"
PAIR = {"stdin": "2 3\n", "stdout": "5\n"}


async def test_the_value_is_the_share_of_tests_that_pass(sandbox: Sandbox):
    tests = ["assert add(2, 3) == 5", "assert add(2, 2) == 5", "assert add('a', 'b') == 'ab'", PAIR]
    score = await judged(sandbox, ADD, tests)
    assert (score.outcome, score.value, score.attempts) == ("scored", 0.5, 1)
    assert score.reason == "test 2 of 4: AssertionError (line 1)"
    assert (await judged(sandbox, ADD, tests, all_or_nothing=True)).value == 0.0
    assert (await judged(sandbox, ADD, tests[0], all_or_nothing=True)).value == 1.0


@pytest.mark.parametrize(
    ("printed", "value"), [("5\n", 1.0), ("5", 1.0), ("  5", 0.0), ("5 \n\n", 1.0), ("5.0\n", 0.0), ("", 0.0)]
)
async def test_what_is_printed_is_compared_but_for_white_space_at_ends(
    sandbox: Sandbox, printed: str, value: float
):
    score = await judged(sandbox, f"print({printed!r}, end='')", [PAIR])
    assert (score.outcome, score.value) == ("scored", value)


async def test_what_is_printed_takes_little_more_memory_than_it_is_long():
    printed = b"\n" * 2**20 + b"x"
    tracemalloc.start()
    try:
        assert not same_output("5\n", printed)
        assert tracemalloc.get_traced_memory()[1] < 3 * len(printed)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("program", "value"),
    [
        (SUM, 1.0),
        ("import sys\nprint(sum(int(one) for line in sys.stdin for one in line.split()))", 1.0),
        (f"if __name__ == '__main__':\n    {SUM}", 1.0),
        (f"import threading\nthreading.Thread(target=lambda: {SUM}).start()", 1.0),
        (f"import atexit\natexit.register(lambda: {SUM})", 1.0),
        (f"import sys\n{SUM}\nsys.exit()", 1.0),
        (f"import os, sys\n{SUM}\nsys.stdout.flush()\nos._exit(0)", 1.0),
        ("print(4)", 0.0),
    ],
)
async def test_a_script_runs_as_from_a_shell(sandbox: Sandbox, program: str, value: float):
    assert (await judged(sandbox, program, [PAIR])).value == value


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        (f"{SUM}\nraise ValueError('no')", "ended with status 1: ValueError: no"),
        (f"import sys\n{SUM}\nsys.exit(3)", "ended with status 3"),
        ("while True: pass", "took longer than 0.5 s"),
        ("import time\ntime.sleep(9)", "took longer than 0.5 s"),
        ("print('x' * 3_000_000)", "printed more than 1048576 bytes"),
        ("x = bytearray(2**33)", "used more than 512 MiB"),
        ("import ctypes\nctypes.string_at(0)", "was ended by SIGSEGV"),
    ],
)
async def test_a_script_that_runs_to_no_end_is_invalid_and_says_how_it_ended(
    sandbox: Sandbox, program: str, reason: str
):
    score = await judged(sandbox, program, [PAIR], seconds=0.5)
    assert (score.outcome, score.value) == ("invalid", -1.0)
    assert score.reason is not None and score.reason.startswith(f"test 1 of 1: the program {reason}")


@pytest.mark.parametrize(
    ("completion", "params", "outcome"),
    [
        ("", {}, "invalid"),
        ("I cannot do that.", {}, "invalid"),
        ("def add(a, b: return", {}, "invalid"),
        ("x = '\0'", {}, "invalid"),
        (f"It is easy:\n```python\nno\n```\nor\n```python\n{ADD}```\nDone.", {}, "scored"),
        (f"<code>{ADD}</code> no", {"pattern": r"(?s)<code>(.*?)</code>"}, "scored"),
        (ADD, {"pattern": r"(?s)<code>(.*?)</code>"}, "invalid"),
        ("a" * 40 + "!", {"pattern": "(a+)+$", "seconds": 0.1}, "timeout"),
    ],
)
async def test_the_program_is_the_last_block_or_what_the_pattern_finds(
    sandbox: Sandbox, completion: str, params: dict, outcome: str
):
    score = await judged(sandbox, completion, "assert add(1, 2) == 3", **params)
    assert score.outcome == outcome, score
    assert score.value == {"invalid": -1.0, "scored": 1.0, "timeout": None}[outcome]


async def test_a_program_that_fails_some_tests_by_dying_is_scored_on_all(sandbox: Sandbox):
    program = "import os\ndef half(n):\n    if n % 2: os._exit(0)\n    return n // 2\n"
    score = await judged(sandbox, program, ["assert half(4) == 2", "assert half(3) == 1"])
    assert (score.outcome, score.value) == ("scored", 0.5)
    assert score.reason == "test 2 of 2: the program has ended"


async def test_after_two_tests_that_overran_the_others_count_as_not_passed(sandbox: Sandbox):
    program = "def slow(n):\n    while n == 0: pass\n    return n\n"
    tests = [f"assert slow({n}) == {n}" for n in (1, 0, 2, 0, 3, 4)]
    score = await judged(sandbox, program, tests, seconds=0.3)
    assert (score.outcome, score.value) == ("scored", 2 / 6)
    assert score.reason == "test 2 of 6: the program took longer than 0.3 s"


class Late:
    """A place where tests end by the clock before their programs do."""

    def __init__(self, end: Ended) -> None:
        self.end = end

    async def run(
        self, entry: str, payload: bytes, *, limits: Limits, fds: Sequence[int] = (), **_: Any
    ) -> Ended:
        if entry == TEST:
            return Ended("time", None, b"", b"", b"", 5.5)
        with socket.socket(fileno=os.dup(fds[0])) as line:
            assert await asyncio.to_thread(line.recv, 1) == b"", "its test has gone"
        return self.end


async def test_a_program_that_began_long_after_its_test_is_not_charged_with_the_time_before():
    late = await judged(Late(Ended("exit", 0, b"", b"", b"", 5.0)), ADD, "assert add(1, 2) == 3")
    assert (late.outcome, late.attempts, late.reason) == (
        "error",
        3,
        "the program began too long after its test",
    )
    slow = await judged(Late(Ended("time", None, b"", b"", b"", 5.0)), ADD, "assert add(1, 2) == 3")
    assert (slow.outcome, slow.value) == ("invalid", -1.0)


async def test_items_have_their_own_processes_and_their_own_scores(sandbox: Sandbox):
    poison = "import builtins\nbuiltins.len = lambda _: 3\ndef add(a, b): return a + b"
    found = await scored(sandbox, [ADD, poison, ADD], {"tests": ["assert len([add(1, 2)]) == 1"]})
    assert [one.value for one in found] == [1.0, -1.0, 1.0], "it spoiled its own process alone"


@pytest.mark.parametrize(
    ("tests", "reason"),
    [
        ([], "column 'tests': 0 tests, expected 1 to 64"),
        (["assert True"] * 65, "column 'tests': 65 tests"),
        ([{"stdin": "1"}], "column 'tests': test 1: expected a text of Python or"),
        ([{"stdin": "1", "stdout": "1", "timeout": 3}], "column 'tests': test 1: expected"),
        (["assert add(1, 2) == 3", 7], "column 'tests': test 2: expected"),
        ([" "], "column 'tests': test 1: expected"),
        (["assert add(1, 2) =="], "the test does not compile: SyntaxError"),
        (["import nothing_like_it"], "the test failed before it used the program: ModuleNotFoundError"),
        (["assert 1 + 1 == 2"], "the test ended without having used the program"),
        (["def check(candidate):\n    assert candidate(1, 2) == 3"], "the test ended without having used"),
        (["from solution import add\ndef check(c):\n    assert c(1, 2) == 4"], "the test ended without"),
    ],
)
async def test_a_row_that_no_program_could_pass_or_any_could_is_an_error_and_no_number(
    sandbox: Sandbox, tests: list, reason: str
):
    score = await judged(sandbox, ADD, tests)
    assert (score.outcome, score.value, score.attempts) == ("error", None, 1)
    assert score.reason is not None and score.reason.startswith(reason)


RAISES = "try:\n    add('x', [])\nexcept Exception:\n    pass\nelse:\n    raise AssertionError"


@pytest.mark.parametrize(
    ("program", "tests", "value"),
    [
        ("add = bool", ["assert add(7)", "assert not add(8)"], 0.5),
        ("add = 5", [RAISES, "assert add(1, 2) == 3"], 0.5),
        ("nothing = 1", [RAISES, "assert add(1, 2) == 3"], 0.5),
        (
            "nothing = 1",
            [f"try:\n    from solution import add\nexcept ImportError:\n    add = None\n{RAISES}"],
            1.0,
        ),
        ("answer = 42", ["assert answer == 42", "import solution\nassert solution.answer == 41"], 0.5),
    ],
)
async def test_no_program_makes_its_test_look_broken_by_what_it_puts_under_a_name(
    sandbox: Sandbox, program: str, tests: list, value: float
):
    score = await judged(sandbox, program, tests)
    assert (score.outcome, score.value) == ("scored", value), score.reason


async def test_setup_runs_before_each_test_of_assertions(sandbox: Sandbox):
    setup = {"helpers": "import math as m\ndef near(a, b):\n    return m.isclose(a, b)"}
    tests = ["assert near(add(0.1, 0.2), 0.3)", "assert near(add(1, 1), 3)", PAIR]
    score = await judged(sandbox, ADD, tests, setup, setup_column="helpers")
    assert score.value == 1 / 3
    score = await judged(sandbox, ADD, tests, {"helpers": 1}, setup_column="helpers")
    assert score.outcome == "error" and score.reason == "column 'helpers': a int, expected a text"


async def test_where_nothing_may_run_there_is_an_error_and_no_number():
    score = await judged(Nowhere("the kernel has no Landlock"), ADD, "assert add(1, 2) == 3")
    assert (score.outcome, score.value, score.attempts) == ("error", None, 3)
    assert score.reason == "this server runs no code: the kernel has no Landlock"

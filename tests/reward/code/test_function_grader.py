"""Users' reward functions: called as TRL calls them, and one bad row harms no other."""

import asyncio
import time
from typing import Any

import pytest

from events.failure import NotFound, UserError
from rekindle.types.rewards import Function, FunctionInfo, FunctionParams, RegisterRequest, Score, ScoreItem
from services.reward.code.function import FunctionRunner
from services.reward.code.place import Nowhere, Place
from services.reward.code.register import Registrar
from services.reward.functions import Code
from services.reward.sandbox import Sandbox

pytestmark = pytest.mark.asyncio(loop_scope="module")

VERSION = "0" * 16
LENGTHS = "def f(completions): return [len(one) for one in completions]"


def items(*completions: str, **columns: Any) -> list[ScoreItem]:
    return [ScoreItem(prompt=f"p{one}", completion=one, columns=columns) for one in completions]


def runner(place: Place, source: str = LENGTHS) -> FunctionRunner:
    async def find(tenant: str, name: str, version: str) -> Code:
        if tenant != "t":
            raise NotFound(f"function {name!r} does not exist")
        return Code(source, "f")

    return FunctionRunner(place, asyncio.Semaphore(2), find)


async def scored(
    place: Place, source: str, listed: list[ScoreItem], seconds: float = 5.0, **shared: Any
) -> list[Score]:
    spec = Function(params=FunctionParams(name="f", version=VERSION, seconds=seconds))
    return await runner(place, source).score("t", spec, listed, shared)


@pytest.mark.parametrize(
    ("source", "values"),
    [
        (LENGTHS, [1.0, 2.0]),
        (
            "async def f(completions, **columns):\n    return [float(len(one)) for one in completions]",
            [1.0, 2.0],
        ),
        (
            "def f(prompts, completions): return [p == 'p' + c for p, c in zip(prompts, completions)]",
            [1.0, 1.0],
        ),
        ("def f(answer, own): return [a + b for a, b in zip(answer, own)]", [11.0, 11.0]),
        ("def f(**columns): return [len(columns)] * 2", [4.0, 4.0]),
        ("def f(completions, other=3): return (other, other)", [3.0, 3.0]),
        (
            "from dataclasses import dataclass\n@dataclass\nclass R:\n    x: int\ndef f(): return [R(1).x, 2]",
            [1.0, 2.0],
        ),
    ],
)
async def test_it_is_given_lists_by_name_and_gives_one_of_numbers(
    sandbox: Sandbox, source: str, values: list[float]
):
    found = await scored(sandbox, source, items("a", "bb", own=1), answer=10)
    assert [(one.outcome, one.value, one.attempts) for one in found] == [("scored", one, 1) for one in values]


async def test_none_is_no_opinion_and_no_number(sandbox: Sandbox):
    found = await scored(sandbox, "def f(completions): return [None, 2]", items("a", "b"))
    assert [(one.outcome, one.value) for one in found] == [("invalid", None), ("scored", 2.0)]
    assert found[0].reason == "does not apply"


async def test_one_bad_row_harms_no_other(sandbox: Sandbox):
    source = "def f(completions): return [10 / len(one) for one in completions]"
    found = await scored(sandbox, source, items("a", "", "bb"))
    assert [(one.outcome, one.value, one.attempts) for one in found] == [
        ("scored", 10.0, 1),
        ("error", None, 3),
        ("scored", 5.0, 1),
    ]
    assert found[1].reason == "ZeroDivisionError: division by zero (line 1)"


async def test_one_slow_row_holds_up_no_other(sandbox: Sandbox):
    source = "import time\ndef f(completions): return [time.sleep(len(one) > 3 and 60) or 1 for one in completions]"
    begin = time.perf_counter()
    found = await scored(sandbox, source, items("a", "slow", "b"), seconds=0.3)
    assert [(one.outcome, one.value) for one in found] == [
        ("scored", 1.0),
        ("timeout", None),
        ("scored", 1.0),
    ]
    assert found[1].reason == "the function took longer than 0.3 s" and time.perf_counter() - begin < 20


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("return None", "TypeError: returned a NoneType, expected a list of 1 numbers"),
        ("return 1.0", "TypeError: returned a float"),
        ("return 'x'", "TypeError: returned a str"),
        ("return []", "ValueError: returned 0 rewards"),
        ("return [1, 2]", "ValueError: returned 2 rewards"),
        ("return ['1']", "TypeError: returned a str among the rewards"),
        ("return [float('nan')]", "ValueError: returned nan among the rewards"),
        ("return [float('inf')]", "ValueError: returned inf among the rewards"),
        ("return [[1]]", "TypeError"),
        ("raise SystemExit(0)", "SystemExit: 0"),
        ("import os; os._exit(0)", "the function ended without its rewards"),
        ("import os; os._exit(7)", "the function ended with status 7"),
        ("import ctypes; ctypes.string_at(0)", "the function was ended by SIGSEGV"),
        ("import os; os.write(3, b'[1]'); os._exit(0)", "the function ended without its rewards"),
        ("import os; os.write(3, b'{\"rewards\": [1e999]}'); os._exit(0)", "the function ended without"),
        ("return bytearray(2**34)", "MemoryError"),
        ("print('x' * 10_000_000)", "the function printed more than"),
        ("return undefined", "NameError: name 'undefined' is not defined (line 2)"),
        ("import socket; socket.socket()", "PermissionError"),
    ],
)
async def test_what_is_no_list_of_numbers_is_an_error_and_no_number(sandbox: Sandbox, body: str, reason: str):
    (score,) = await scored(sandbox, f"def f(completions):\n    {body}", items("a"))
    assert (score.outcome, score.value, score.attempts) == ("error", None, 3)
    assert score.reason is not None and score.reason.startswith(reason)


async def test_a_function_that_is_gone_or_has_nowhere_to_run_scores_nothing(sandbox: Sandbox):
    spec = Function(params=FunctionParams(name="f", version=VERSION))
    (score,) = await runner(sandbox).score("another", spec, items("a"), {})
    assert (score.outcome, score.value, score.reason) == ("error", None, "function 'f' does not exist")
    (score,) = await scored(Nowhere("no Landlock"), LENGTHS, items("a"))
    assert (score.outcome, score.reason) == ("error", "this server runs no code: no Landlock")


# ---- Registration ----


async def register(place: Place, source: str, examples: list[ScoreItem]) -> tuple[Any, list[FunctionInfo]]:
    kept: list[FunctionInfo] = []

    async def keep(tenant: str, info: FunctionInfo, text: str) -> FunctionInfo:
        kept.append(info)
        return info

    wanted = RegisterRequest(name="mine", source=source, examples=tuple(examples), pure=True)
    return await Registrar(runner(place), keep).register("t", wanted), kept


async def test_a_function_that_scores_its_examples_is_kept(sandbox: Sandbox):
    found, (info,) = await register(sandbox, LENGTHS, items("a", "bb"))
    assert found.function == info and (info.name, info.function, info.pure) == ("mine", "f", True)
    assert [one.value for one in found.scores] == [1.0, 2.0]


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (
            "def f(completions): return [1 / len(c) for c in completions]",
            "examples[1]: error: ZeroDivisionError",
        ),
        ("raise ValueError('at import')\ndef f(): ...", "examples[0]: error: ValueError: at import (line 1)"),
        ("# /// script\n# dependencies = ['nothing-like-it']\n# ///\n" + LENGTHS, "source: requires what"),
        ("def f(", "source: not Python"),
    ],
)
async def test_a_function_that_fails_is_refused_as_its_user_s_mistake(
    sandbox: Sandbox, source: str, reason: str
):
    with pytest.raises(UserError) as told:
        await register(sandbox, source, items("a", ""))
    assert str(told.value).startswith(reason)

"""A user's reward function, called once for some items, as TRL calls it. It is trusted with its own numbers alone.

The report is `{"rewards": [number or null, …]}` or `{"error": text}`.
"""

import asyncio
import inspect
import json
import math
import sys
from collections.abc import Awaitable, Callable
from types import ModuleType
from typing import Any, BinaryIO

from services.reward.guests.peer import describe

CALL = f"{__name__}:call"
NAME = "reward_function"
FILE = "<reward function>"


def call(payload: bytes, report: BinaryIO, fds: list[int]) -> None:
    """Load `source` and call `function` with `prompts`, `completions` and those of `columns` that it takes."""
    order = json.loads(payload)
    try:
        said: dict[str, Any] = {"rewards": _rewards(order)}
    except BaseException as error:  # noqa: BLE001 - the function's own failure, told as one
        said = {"error": describe(error) + _line(error)}
    report.write(json.dumps(said).encode())


def _rewards(order: dict[str, Any]) -> list[float | None]:
    module = ModuleType(NAME)
    sys.modules[NAME] = module
    exec(compile(order["source"], FILE, "exec", dont_inherit=True), vars(module))
    function = getattr(module, order["function"])
    named = {"prompts": order["prompts"], "completions": order["completions"]}
    result = function(**_taken(function, {**order["columns"], **named}))
    if inspect.isawaitable(result):
        result = asyncio.run(_awaited(result))
    return checked(result, len(order["prompts"]))


async def _awaited(result: Awaitable[Any]) -> Any:
    return await result


def _taken(function: Callable[..., Any], named: dict[str, Any]) -> dict[str, Any]:
    """The arguments that the function takes."""
    parameters = inspect.signature(function).parameters.values()
    if any(one.kind is one.VAR_KEYWORD for one in parameters):
        return named
    return {one.name: named[one.name] for one in parameters if one.name in named}


def checked(result: Any, count: int) -> list[float | None]:
    """The numbers. Raises TypeError or ValueError for what is no list of `count` numbers and Nones."""
    expected = f"expected a list of {count} numbers"
    if isinstance(result, str | bytes | dict) or not hasattr(result, "__iter__"):
        raise TypeError(f"returned a {type(result).__name__}, {expected}")
    found = list(result)
    if len(found) != count:
        raise ValueError(f"returned {len(found)} rewards, {expected}")
    return [None if one is None else _number(one) for one in found]


def _number(value: Any) -> float:
    if isinstance(value, str | bytes):
        raise TypeError(f"returned a {type(value).__name__} among the rewards, expected numbers")
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"returned {number} among the rewards, expected finite numbers")
    return number


def _line(error: BaseException) -> str:
    """Where in the user's file it happened."""
    line, trace = None, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == FILE:
            line = trace.tb_lineno
        trace = trace.tb_next
    return "" if line is None else f" (line {line})"

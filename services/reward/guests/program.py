"""The rollout's program in a guest of its own: run as a script, or loaded and then asked by a tester.

Nothing that a guest here says is believed by itself: what a script printed is compared elsewhere, what the program
answers is compared by the tester. The modules that programs often use are imported here, so that forks have them.
"""

import atexit
import bisect as bisect
import builtins
import collections as collections
import copy as copy
import dataclasses as dataclasses
import datetime as datetime
import functools as functools
import heapq as heapq
import itertools as itertools
import json
import math as math
import operator as operator
import random as random
import re
import statistics as statistics
import string as string
import sys
import threading
import typing as typing
from types import CodeType, ModuleType
from typing import Any, BinaryIO

from services.reward.guests.peer import Lost, Peer, describe

NAME = "solution"
"""What a tester imports it as."""
SCRIPT = f"{__name__}:script"
SERVE = f"{__name__}:serve"
EXTRACT = f"{__name__}:extract"
SYNTAX = b"syntax: "
"""How the report of a script begins that does not compile."""
UNREADABLE = (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError)
"""What `compile` may raise."""


def script(payload: bytes, report: BinaryIO, fds: list[int]) -> None:
    """Run a program as `python program.py` would, to the end of its threads and exit handlers."""
    try:
        code = _compiled(payload)
    except UNREADABLE as error:
        report.write(SYNTAX + describe(error).encode(errors="replace"))
        sys.exit(1)
    atexit._clear()
    exec(code, vars(_module("__main__")))
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    atexit._run_exitfuncs()


def serve(payload: bytes, report: BinaryIO, fds: list[int]) -> None:
    """Load a program as a module and answer a tester, who is at the other end of the one descriptor."""
    peer = Program(fds[0])
    module = _module(NAME)
    try:
        _load(peer, payload, module)
        peer.serve()
    except Lost:
        return


def _load(peer: "Program", payload: bytes, module: ModuleType) -> None:
    def find(names: list[str]) -> dict[str, Any]:
        return {name: vars(module)[name] for name in names if name in vars(module)}

    try:
        code = _compiled(payload)
    except UNREADABLE as error:
        peer.send(["syntax", describe(error)])
        return
    try:
        exec(code, vars(module))
    except BaseException as error:  # noqa: BLE001 - told to the tester
        peer.send(["broken", describe(error)])
        return
    peer.lend(find)
    peer.lend(module)
    peer.send(["ready"])


class Program(Peer):
    """The side of the program, which may do anything with itself."""

    def _resolve(self, wire: list[Any]) -> Any:
        match wire:
            case ["builtin", str() as name]:
                return getattr(builtins, name)
        return super()._resolve(wire)


def extract(payload: bytes, report: BinaryIO, fds: list[int]) -> None:
    """Find the program in a completion: `[pattern, text]` → the first group of the first match, or all of it."""
    pattern, text = json.loads(payload)
    found = re.search(pattern, text)
    if found is not None:
        report.write((found[1] if found.re.groups else found[0] or "").encode(errors="replace"))


def _compiled(source: bytes) -> CodeType:
    return compile(source.decode(), "<program>", "exec", dont_inherit=True)


def _module(name: str) -> ModuleType:
    module = ModuleType(name)
    sys.modules[name] = module
    return module

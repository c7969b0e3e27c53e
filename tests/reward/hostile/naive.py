"""How graders are often written: program and test in one process, and status 0 means passed. Shows what cheats."""

import json
import sys
from types import ModuleType
from typing import BinaryIO

TOGETHER = f"{__name__}:together"


def together(payload: bytes, report: BinaryIO, fds: list[int]) -> None:
    order = json.loads(payload)
    program, test = order
    module = sys.modules["solution"] = ModuleType("solution")
    exec(compile(program, "<program>", "exec"), vars(module))
    exec(compile(test, "<test>", "exec"), vars(module))

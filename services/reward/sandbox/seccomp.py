"""Seccomp filters without a library: classic BPF over the number and the arguments of a system call.

A filter is put together once, in the warm interpreter; the one thing that differs between guests is the number of
their own process, which is written into its places after the fork. Needs no privileges beside `no_new_privs`.

Sources: seccomp(2), include/uapi/linux/{filter,seccomp,audit}.h.
"""

import ctypes
import platform
import sys
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from services.reward.sandbox import libc
from services.reward.sandbox.syscalls import NUMBERS

LOAD, JUMP_EQUAL, JUMP_AT_LEAST, JUMP_ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
AT_NUMBER, AT_ARCHITECTURE, AT_ARGUMENTS = 0, 4, 16
AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
X32_BIT = 0x40000000
SECCOMP_SET_MODE_FILTER = 1
MODE_KILL, MODE_ERRNO, MODE_ALLOW = 0x80000000, 0x00050000, 0x7FFF0000

OWN_PROCESS = -1
"""In place of a value: the guest's own process id."""


class Step(NamedTuple):
    """One instruction: `value` is its operand; the jumps skip that many instructions."""

    code: int
    yes: int
    no: int
    value: int


Block = tuple[Step, ...]
"""Instructions that begin with any accumulator and end in a verdict on every way."""

ALLOW: Block = (Step(RETURN, 0, 0, MODE_ALLOW),)
KILL: Block = (Step(RETURN, 0, 0, MODE_KILL),)


def error(number: int) -> Block:
    """The call does nothing and returns this errno; with 0 it does nothing and returns 0."""
    return (Step(RETURN, 0, 0, MODE_ERRNO | number),)


def _low(argument: int) -> Step:
    assert sys.byteorder == "little", "the low half of an argument comes first"
    return Step(LOAD, 0, 0, AT_ARGUMENTS + 8 * argument)


def _high(argument: int) -> Step:
    return Step(LOAD, 0, 0, AT_ARGUMENTS + 8 * argument + 4)


def equals_any(argument: int, values: Sequence[int], then: Block, otherwise: Block) -> Block:
    """Judge by a 32-bit argument: the kernel ignores the upper half of an int, so this does."""
    tests = tuple(
        Step(JUMP_EQUAL, len(values) - 1 - place + len(otherwise), 0, value)
        for place, value in enumerate(values)
    )
    return (_low(argument), *tests, *otherwise, *then)


def no_flags(argument: int, flags: int, then: Block, otherwise: Block) -> Block:
    """`then` if none of `flags` is set in the lower half of an argument."""
    return (_low(argument), Step(JUMP_ANY_BIT, len(then), 0, flags), *then, *otherwise)


def null_pointer(argument: int, then: Block, otherwise: Block) -> Block:
    """`then` if all 64 bits of an argument are 0."""
    tests = (
        _low(argument),
        Step(JUMP_EQUAL, 0, 2, 0),
        _high(argument),
        Step(JUMP_EQUAL, len(otherwise), 0, 0),
    )
    return (*tests, *otherwise, *then)


class Filter:
    """A program ready to be installed. Raises NotImplementedError for a processor it has no numbers for."""

    def __init__(self, verdicts: Mapping[str, Block], default: Block) -> None:
        steps = assemble(verdicts, default, platform.machine())
        self._places = [place for place, step in enumerate(steps) if step.value == OWN_PROCESS]
        self._program = (_Instruction * len(steps))(*[_Instruction(*step) for step in steps])
        self._header = _Program(len(steps), self._program)

    def install(self, process: int) -> None:
        """On this thread and all that it starts, for good. `process` is this process's id. Raises OSError."""
        for place in self._places:
            self._program[place].value = process
        number = NUMBERS["seccomp"][_column(platform.machine())]
        libc.syscall(number, SECCOMP_SET_MODE_FILTER, 0, ctypes.byref(self._header))


def assemble(verdicts: Mapping[str, Block], default: Block, machine: str) -> list[Step]:
    """The program: neighbours with one verdict become a range, and ranges are tried from the highest down."""
    column = _column(machine)
    by_number = {
        NUMBERS[name][column]: block for name, block in verdicts.items() if NUMBERS[name][column] >= 0
    }
    starts: list[tuple[int, Block]] = [(0, default)]
    for number in range(max(by_number) + 2):
        block = by_number.get(number, default)
        if block != starts[-1][1]:
            starts.append((number, block))
    if starts[0][0] == starts[1][0]:
        starts.pop(0)
    steps = [
        Step(LOAD, 0, 0, AT_ARCHITECTURE),
        Step(JUMP_EQUAL, len(KILL), 0, AUDIT_ARCH[machine]),
        *KILL,
        Step(LOAD, 0, 0, AT_NUMBER),
        Step(JUMP_AT_LEAST, 0, len(KILL), X32_BIT),
        *KILL,
    ]
    for number, block in reversed(starts[1:]):
        steps += [Step(JUMP_AT_LEAST, 0, len(block), number), *block]
    steps += starts[0][1]
    assert len(steps) < 4096, "the kernel takes no longer program"
    return steps


def _column(machine: str) -> int:
    if machine not in AUDIT_ARCH:
        raise NotImplementedError(f"no seccomp filter for {machine}, only for {', '.join(AUDIT_ARCH)}")
    return list(AUDIT_ARCH).index(machine)


class _Instruction(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_uint16),
        ("yes", ctypes.c_uint8),
        ("no", ctypes.c_uint8),
        ("value", ctypes.c_uint32),
    )


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint16), ("steps", ctypes.POINTER(_Instruction)))

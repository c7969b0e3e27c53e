"""The filter's program, run by a small interpreter: also for the processor that the tests do not run on."""

import errno

import pytest

from services.reward.sandbox import rules, seccomp
from services.reward.sandbox.seccomp import AUDIT_ARCH, OWN_PROCESS, Step
from services.reward.sandbox.syscalls import NUMBERS

ALLOW, KILL = seccomp.MODE_ALLOW, seccomp.MODE_KILL
EPERM, ENOSYS = seccomp.MODE_ERRNO | errno.EPERM, seccomp.MODE_ERRNO | errno.ENOSYS
MACHINES = list(AUDIT_ARCH)


def judge(steps: list[Step], architecture: int, number: int, *arguments: int) -> int:
    """The verdict, by the semantics of classic BPF."""
    words = {seccomp.AT_NUMBER: number, seccomp.AT_ARCHITECTURE: architecture}
    for place, value in enumerate((*arguments, *[0] * 6)[:6]):
        words[seccomp.AT_ARGUMENTS + 8 * place] = value if value == OWN_PROCESS else value & 0xFFFFFFFF
        words[seccomp.AT_ARGUMENTS + 8 * place + 4] = value >> 32
    at, loaded = 0, 0
    while True:
        code, yes, no, value = steps[at]
        at += 1
        match code:
            case seccomp.LOAD:
                loaded = words[value]
            case seccomp.RETURN:
                return value
            case seccomp.JUMP_EQUAL:
                at += yes if loaded == value else no
            case seccomp.JUMP_AT_LEAST:
                at += yes if loaded >= value else no
            case seccomp.JUMP_ANY_BIT:
                at += yes if loaded & value else no


def verdict(machine: str, name: str, *arguments: int, threads: bool = False) -> int:
    steps = seccomp.assemble(*rules.verdicts(frozenset(), threads), machine)
    return judge(steps, AUDIT_ARCH[machine], NUMBERS[name][MACHINES.index(machine)], *arguments)


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("without", [frozenset(), *map(frozenset, zip(rules.GROUPS, strict=True))], ids=str)
def test_every_call_gets_the_verdict_of_its_rule(machine: str, without: frozenset[str]):
    verdicts, default = rules.verdicts(without, threads=True)
    steps = seccomp.assemble(verdicts, default, machine)
    named = {NUMBERS[name][MACHINES.index(machine)]: block for name, block in verdicts.items()}
    for number in range(600):
        block = list(named.get(number, default))
        assert judge(steps, AUDIT_ARCH[machine], number, 7) == judge(block, 0, number, 7), number


@pytest.mark.parametrize("machine", MACHINES)
def test_another_architecture_and_the_x32_interface_are_killed(machine: str):
    steps = seccomp.assemble(*rules.verdicts(frozenset(), threads=False), machine)
    assert judge(steps, 0x40000003, NUMBERS["read"][MACHINES.index(machine)]) == KILL
    assert judge(steps, AUDIT_ARCH[machine], seccomp.X32_BIT | 1) == KILL


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("read", (), ALLOW),
        ("socket", (2, 1, 0), EPERM),
        ("execve", (), EPERM),
        ("ptrace", (), KILL),
        ("io_uring_setup", (), KILL),
        ("clone3", (), ENOSYS),
        ("clone", (17,), EPERM),
        ("fchmodat", (), seccomp.MODE_ERRNO),
        ("kill", (1, 9), EPERM),
        ("kill", (OWN_PROCESS, 9), ALLOW),  # the place is filled when the number is known
        ("sendto", (3, 1, 1, 0, 0), ALLOW),
        ("sendto", (3, 1, 1, 0, 1), EPERM),
        ("sendto", (3, 1, 1, 0, 1 << 32), EPERM),
        ("socketpair", (1, 1), ALLOW),
        ("socketpair", (1, 1 | 0o2000000), ALLOW),
        ("socketpair", (1, 2), EPERM),
        ("socketpair", (2, 1), EPERM),
        ("prlimit64", (1,), EPERM),
        ("fcntl", (0, 8), EPERM),
        ("openat", (0, 0, 0o1001), ALLOW),
        ("openat", (0, 0, 0o1000), EPERM),
        ("ioctl", (0, 0x5412), EPERM),
    ],
    ids=str,
)  # fmt: skip
def test_arguments_decide_where_they_must(machine: str, name: str, arguments: tuple[int, ...], expected: int):
    assert verdict(machine, name, *arguments) == expected


@pytest.mark.parametrize("machine", MACHINES)
def test_threads_are_let_through_only_where_they_are_allowed_and_never_namespaces(machine: str):
    thread = rules.CLONE_THREAD | 0x0F00
    assert verdict(machine, "clone", thread, threads=True) == ALLOW
    assert verdict(machine, "clone", thread, threads=False) == EPERM
    assert verdict(machine, "clone", thread | 0x10000000, threads=True) == EPERM


def test_another_processor_is_refused_by_name():
    with pytest.raises(NotImplementedError, match="no seccomp filter for riscv64"):
        seccomp.assemble(*rules.verdicts(frozenset(), threads=False), "riscv64")

"""Each mechanism alone stops what it is for: a small hostile program fails under it and succeeds without it.

What else would stop the program is left out in both cases. The programs report `got it` if they could.
"""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from services.reward.sandbox import MECHANISMS, Ended, Level, Limits, Sandbox
from services.reward.sandbox.scratch import Scratch

pytestmark = pytest.mark.asyncio(loop_scope="module")

GUESTS = "tests.reward.sandbox.guests"
ROOT = Path(__file__).resolve().parents[3]
QUICK = Limits(seconds=20.0, cpu_seconds=10.0)
KIB = 1024

SIGNALS = ("seccomp signals", "landlock scope", "uid drop")
FILTERS = tuple(name for name in MECHANISMS if name.startswith(("seccomp", "landlock")))
PROCESSES = ("seccomp processes", "thread limit")

# name, mechanism, others that would stop it too, limits, program
PROGRAMS: list[tuple[str, str, tuple[str, ...], Limits, str]] = [
    ("sleep", "wall clock", (), Limits(seconds=0.2), "import time; time.sleep(0.6)"),
    (
        "compute",
        "cpu limit",
        (),
        Limits(seconds=20, cpu_seconds=0.2),
        "import time\nwhile time.process_time() < 0.6: pass",
    ),
    ("much memory", "memory limit", (), Limits(memory_bytes=64 * KIB * KIB), "bytearray(128 * 1024 * 1024)"),
    (
        "a large file",
        "file size limit",
        (),
        Limits(file_bytes=50 * KIB),
        "open('large', 'wb').write(bytes(100_000))",
    ),
    (
        "many files",
        "file size limit",
        (),
        Limits(file_bytes=50 * KIB),
        "import time\nfor n in range(20): open(str(n), 'wb').write(bytes(10_000))\ntime.sleep(0.6)",
    ),
    (
        "many descriptors",
        "open files limit",
        (),
        Limits(open_files=32),
        "import os\nfor _ in range(100): os.dup(0)",
    ),
    ("much output", "output limit", (), Limits(output_bytes=10_000), "print('x' * 200_000, flush=True)"),
    ("a thread", "thread limit", (), QUICK, "import threading; threading.Thread(target=print).start()"),
    (
        "a thread too many",
        "thread limit",
        (),
        Limits(threads=2),
        "import threading, time\nfor _ in range(5): threading.Thread(target=time.sleep, args=(0.6,)).start()\n"
        "time.sleep(0.6)",
    ),
    ("priority", "priority", (), QUICK, "import os; assert os.getpriority(os.PRIO_PROCESS, 0) <= 0"),
    (
        "the family's group",
        "own session",
        (),
        QUICK,
        "import os; assert os.getpgid(0) == os.getpgid(os.getppid())",
    ),
    (
        "descriptors of the interpreter",
        "closed descriptors",
        (),
        QUICK,
        "import os\ndef there(fd):\n    try: return bool(os.fstat(fd))\n    except OSError: return False\n"
        "assert any(map(there, range(5, 100)))",
    ),
    ("a forged report", "report pipe", (), QUICK, "import os; os.write(1, b'got it'); os._exit(0)"),
    (
        "set-uid programs",
        "no new privileges",
        FILTERS,
        QUICK,
        "import ctypes; assert ctypes.CDLL(None).prctl(39, 0, 0, 0, 0) == 0",
    ),
    (
        "being dumpable",
        "not dumpable",
        ("uid drop",),
        QUICK,
        "import ctypes; assert ctypes.CDLL(None).prctl(3, 0, 0, 0, 0) == 1",
    ),
    ("read /etc", "landlock filesystem", (), QUICK, "open('/etc/passwd').read()"),
    (
        "read /proc",
        "landlock filesystem",
        (),
        QUICK,
        "open('/proc/meminfo').read(1)",
    ),
    (
        "write elsewhere",
        "landlock filesystem",
        (),
        QUICK,
        "import os\nelsewhere = '/dev/shm/' + os.path.basename(os.getcwd())\nos.mkdir(elsewhere)\nos.rmdir(elsewhere)",
    ),
    (
        "follow a link out",
        "landlock filesystem",
        (),
        QUICK,
        "import os; os.symlink('/etc', 'etc'); open('etc/passwd')",
    ),
    (
        "a datagram",
        "seccomp network",
        (),
        QUICK,
        "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'', ('127.0.0.1', 9))",
    ),
    (
        "an abstract socket",
        "seccomp network",
        ("landlock scope",),
        QUICK,
        "import os, socket; socket.socket(socket.AF_UNIX).bind('\\0' + os.getcwd())",
    ),
    (
        "a datagram pair sent elsewhere",
        "seccomp network",
        (),
        QUICK,
        "import socket; socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)",
    ),
    (
        "TCP",
        "landlock network",
        ("seccomp network",),
        QUICK,
        "import socket; socket.socket().bind(('127.0.0.1', 0))",
    ),
    ("fork", "seccomp processes", ("thread limit",), QUICK, "import os\nif os.fork() == 0: os._exit(0)"),
    (
        "exec",
        "seccomp processes",
        ("landlock filesystem", "seccomp kernel surface"),
        QUICK,
        "import os\nos.set_inheritable(3, True)\nos.execv('/bin/sh', ['sh', '-c', 'printf \"got it\" >&3'])",
    ),
    (
        "others' limits",
        "seccomp processes",
        ("uid drop", "not dumpable"),
        QUICK,
        "import os, resource; resource.prlimit(os.getppid(), resource.RLIMIT_CORE)",
    ),
    (
        "a signal, past the others",
        "seccomp signals",
        ("landlock scope", "uid drop"),
        QUICK,
        "import os; os.kill(os.getppid(), 0)",
    ),
    (
        "a signal, past the filter",
        "landlock scope",
        ("seccomp signals", "uid drop"),
        QUICK,
        "import os; os.kill(os.getppid(), 0)",
    ),
    (
        "a signal, past both",
        "uid drop",
        ("seccomp signals", "landlock scope"),
        QUICK,
        "import os; os.kill(os.getppid(), 0)",
    ),
    (
        "SIGIO to others",
        "seccomp signals",
        ("landlock scope",),
        QUICK,
        "import fcntl, os; fcntl.fcntl(0, fcntl.F_SETOWN, os.getpid())",
    ),
    (
        "tracing",
        "seccomp tracing",
        (),
        QUICK,
        "import ctypes; assert ctypes.CDLL(None).ptrace(0, 0, 0, 0) == 0",
    ),
    (
        "being dumpable again",
        "seccomp tracing",
        (),
        QUICK,
        "import ctypes; assert ctypes.CDLL(None).prctl(4, 1, 0, 0, 0) == 0",
    ),
    (
        "modes",
        "seccomp metadata",
        (),
        QUICK,
        "import os; os.chmod('.', 0o711); assert os.stat('.').st_mode & 0o777 == 0o711",
    ),
    (
        "empty a file that it may read",
        "seccomp metadata",
        (),
        QUICK,
        "import os; open('f', 'w').write('x'); os.close(os.open('f', os.O_RDONLY | os.O_TRUNC)); "
        "assert os.stat('f').st_size == 0",
    ),
    (
        "shared memory",
        "seccomp kernel surface",
        (),
        QUICK,
        "import ctypes; libc = ctypes.CDLL(None); made = libc.shmget(0, 4096, 0o600)\n"
        "assert made >= 0; libc.shmctl(made, 0, None)",
    ),
    (
        "disk behind a file's end",
        "seccomp kernel surface",
        (),
        Limits(seconds=20, file_bytes=4096),
        "import ctypes, os; fd = os.open('f', os.O_CREAT | os.O_RDWR)\n"
        "assert ctypes.CDLL(None).fallocate(fd, 1, ctypes.c_long(0), ctypes.c_long(4096)) == 0",
    ),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox([GUESTS], namespaces=False) as entered:
        yield entered


async def execute(sandbox: Sandbox, code: str, limits: Limits, without: set[str]) -> Ended:
    program = f"{code}\nreport.write(b'got it')\n"
    return await sandbox.attempt(f"{GUESTS}:run_code", program.encode(), limits, frozenset(without))


def needs(sandbox: Sandbox, mechanism: str) -> None:
    layer = next(each for each in sandbox.layers if each.name == mechanism)
    if not layer.in_force:
        pytest.skip(f"{mechanism} is not in force here: {layer.detail}")


@pytest.mark.parametrize(
    ("mechanism", "others", "limits", "code"), [row[1:] for row in PROGRAMS], ids=[row[0] for row in PROGRAMS]
)
async def test_a_program_is_stopped_by_one_mechanism_and_by_nothing_else(
    sandbox: Sandbox, mechanism: str, others: tuple[str, ...], limits: Limits, code: str
):
    needs(sandbox, mechanism)
    held = await execute(sandbox, code, limits, {*others})
    assert held.report == b"", held
    free = await execute(sandbox, code, limits, {*others, mechanism})
    assert free.report == b"got it", free.stderr.decode()


async def test_most_mechanisms_are_tried_here():
    elsewhere = {"death with parent", "private scratch", "clean environment", "namespaces"}
    assert {row[1] for row in PROGRAMS} | elsewhere == MECHANISMS.keys()


async def test_calls_that_no_honest_code_makes_kill(sandbox: Sandbox):
    code = "import ctypes; ctypes.CDLL(None).unshare(0)"
    ended = await execute(sandbox, code, QUICK, set())
    assert (ended.how, ended.code) == ("signal", signal.SIGSYS)


async def test_a_child_that_a_guest_leaves_goes_with_its_session(sandbox: Sandbox):
    code = (
        "import os, time\nchild = os.fork()\n"
        "if child == 0:\n    for fd in range(4): os.close(fd)\n    time.sleep(60)\n    os._exit(0)\n"
        "open('pid', 'w').write(str(child)); print(child)"
    )
    for without, outlives in ((set(), False), ({"own session"}, True)):
        ended = await execute(sandbox, code, QUICK, {*PROCESSES, *without})
        child = int(ended.stdout)
        if outlives:
            os.kill(child, signal.SIGKILL)
        else:
            await until(lambda: not runs(child))  # noqa: B023 - awaited within the loop


async def test_a_guest_leaves_nothing_in_the_next_ones_folder(sandbox: Sandbox):
    for without, found in ((set(), b""), ({"private scratch"}, b"got it")):
        await execute(sandbox, "open('left', 'w').close()", QUICK, without)
        ended = await execute(sandbox, "import os; assert 'left' in os.listdir()", QUICK, without)
        assert ended.report == found
    await sandbox._scratch.clear_shared()


async def test_a_guest_sees_no_variable_of_the_service(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("API_KEY", "secret")
    code = "import os; assert os.environ['API_KEY'] == 'secret'"
    for without, found in ((set(), b""), ({"clean environment"}, b"got it")):
        async with Sandbox([GUESTS], namespaces=False, without=frozenset(without)) as own:
            assert (await execute(own, code, QUICK, without)).report == found


SERVICE = f"""
import asyncio, os, sys
from services.reward.sandbox import Limits, Sandbox

async def main():
    async with Sandbox(["{GUESTS}"], namespaces=False) as sandbox:
        take, feed = os.pipe()
        code = b"import os, time; os.write(fds[0], b'here'); time.sleep(60)"
        run = asyncio.create_task(sandbox.attempt(
            "{GUESTS}:run_code", code, Limits(seconds=60), frozenset(sys.argv[1:]), fds=[feed]))
        await asyncio.to_thread(os.read, take, 4)
        while not sandbox._watched:  # a guest may be faster than the news that it has begun
            await asyncio.sleep(0.01)
        (watched,) = sandbox._watched
        print(watched.guest.process, flush=True)
        await run

asyncio.run(main())
"""


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """One that other users may pass through, unlike pytest's own; the folders of a killed service stay in it."""
    with tempfile.TemporaryDirectory() as path:
        Path(path).chmod(0o711)
        yield Path(path)


async def test_guests_die_with_the_service(open_folder: Path):
    for without, outlives in ([], False), (["death with parent"], True):
        service = subprocess.Popen(  # noqa: ASYNC220 - nothing else goes on here
            [sys.executable, "-c", SERVICE, *without],
            cwd=ROOT,
            env={
                **os.environ,
                "TMPDIR": str(open_folder),
                "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            },
            stdout=subprocess.PIPE,
        )
        with service:
            guest = int(service.stdout.readline())
            warm = parent(guest)
            service.kill()
        await until(lambda: not runs(warm))  # noqa: B023 - awaited within the loop
        if outlives:
            assert runs(guest)
            os.kill(guest, signal.SIGKILL)
        else:
            await until(lambda: not runs(guest))  # noqa: B023


async def test_the_folders_of_a_killed_service_go_when_another_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    die = "os.mkdir(Scratch().make(None) + '/deep'); os.kill(os.getpid(), 9)"
    code = f"import os; from services.reward.sandbox.scratch import Scratch; {die}"
    python_path = os.pathsep.join(filter(None, sys.path))
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": python_path}
    service = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=environment)  # noqa: ASYNC220
    assert service.wait() == -signal.SIGKILL
    (left,) = os.listdir(tmp_path)
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "kept").mkdir(parents=True)
    link = tmp_path / left.replace(".", ".linked-")
    link.symlink_to(elsewhere)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    living = [Path(Scratch().path).name, Path(Scratch().path).name]
    assert sorted(os.listdir(tmp_path)) == sorted([*living, link.name, elsewhere.name])
    assert os.listdir(elsewhere) == ["kept"]


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="needs bubblewrap (Debian: apt install bubblewrap)")
async def test_namespaces_hide_the_machine_where_they_may_be_made():
    async with Sandbox([GUESTS], floor=Level.NONE) as own:
        needs(own, "namespaces")
        everything = set(MECHANISMS) - {"namespaces", "no new privileges"}
        code = f"import os; os.kill({os.getpid()}, 0)"
        assert (await execute(own, code, QUICK, everything)).report == b""
        code = "import socket; assert len(socket.if_nameindex()) > 1"
        assert (await execute(own, code, QUICK, everything)).report == b""
        code = "open('/etc/passwd')"
        assert (await execute(own, code, QUICK, everything)).report == b""


def runs(process: int) -> bool:
    """Whether it exists and is not merely waited for."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def parent(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - other processes set no events
            await asyncio.sleep(0.01)

"""The sandbox as its users see it: what a run gives back, how it ends, and what is left of it (nothing)."""

import asyncio
import gc
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from services.reward.sandbox import (
    MECHANISMS,
    Ended,
    Layer,
    Level,
    Limits,
    Sandbox,
    SandboxDied,
    SandboxError,
    SandboxTooWeak,
    probe,
    scratch,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

GUESTS = "tests.reward.sandbox.guests"
MIB = 1024 * 1024
QUICK = Limits(seconds=20.0, cpu_seconds=10.0)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox([GUESTS], namespaces=False) as entered:
        yield entered


async def execute(sandbox: Sandbox, code: str, limits: Limits = QUICK, **more: object) -> Ended:
    return await sandbox.run(f"{GUESTS}:run_code", code.encode(), limits=limits, **more)


def folders(sandbox: Sandbox) -> list[str]:
    return os.listdir(sandbox._scratch.path)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - other processes set no events
            await asyncio.sleep(0.01)


async def test_an_honest_program_gives_its_output_report_and_status(sandbox: Sandbox):
    code = "import sys; print(sys.stdin.read()); print('e', file=sys.stderr); report.write(b'r'); sys.exit(3)"
    ended = await execute(sandbox, code, stdin=b"in")
    assert (ended.how, ended.code) == ("exit", 3)
    assert (ended.stdout, ended.stderr, ended.report) == (b"in\n", b"e\n", b"r")
    assert 0 < ended.seconds < 20


async def test_payload_and_input_larger_than_any_pipe_arrive_whole(sandbox: Sandbox):
    much = os.urandom(3 * MIB)
    ended = await sandbox.run(f"{GUESTS}:echo", much, limits=Limits(output_bytes=4 * MIB))
    assert ended.report == much
    code = "import sys; report.write(sys.stdin.buffer.read())"
    assert (await execute(sandbox, code, Limits(output_bytes=4 * MIB), stdin=much)).report == much


async def test_a_payload_too_large_for_the_guest_is_its_own_fault(sandbox: Sandbox):
    ended = await sandbox.run(f"{GUESTS}:echo", bytes(100 * MIB), limits=Limits(memory_bytes=32 * MIB))
    assert ended.how == "memory"


async def test_an_uncaught_exception_is_a_traceback_and_status_one(sandbox: Sandbox):
    ended = await execute(sandbox, "1 / 0")
    assert (ended.how, ended.code) == ("exit", 1) and b"ZeroDivisionError" in ended.stderr


async def test_input_that_nobody_reads_holds_nothing_up(sandbox: Sandbox):
    assert (await execute(sandbox, "pass", stdin=bytes(MIB))).how == "exit"


@pytest.mark.parametrize(
    ("code", "limits", "how", "number"),
    [
        ("import os; os._exit(7)", QUICK, "exit", 7),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", QUICK, "signal", signal.SIGSEGV),
        ("import time; time.sleep(60)", Limits(seconds=0.1), "time", None),
        ("while True: pass", Limits(seconds=20, cpu_seconds=0.2), "cpu", None),
        ("bytes(10**12)", QUICK, "memory", None),
        ("x = [bytes(1 << 20) for _ in range(10**6)]", Limits(memory_bytes=64 * MIB), "memory", None),
        ("while True: print('x' * 1000)", Limits(output_bytes=10_000), "output", None),
    ],
    ids=["exit", "signal", "time", "cpu", "memory at once", "memory bit by bit", "output"],
)
async def test_every_end_has_its_name(sandbox: Sandbox, code: str, limits: Limits, how: str, number: int):
    ended = await execute(sandbox, code, limits)
    assert (ended.how, ended.code) == (how, number)


async def test_output_is_cut_where_the_limit_was_reached(sandbox: Sandbox):
    ended = await execute(sandbox, "report.write(b'r' * 50_000)", Limits(output_bytes=1000))
    assert ended.how == "output" and ended.report == b"r" * 1000


async def test_cancellation_kills_the_guest_and_removes_its_folder(sandbox: Sandbox):
    code = "open('here', 'w').close()\nwhile True: pass"
    run = asyncio.create_task(execute(sandbox, code))
    await until(lambda: any(os.listdir(Path(sandbox._scratch.path, each)) for each in folders(sandbox)))
    await until(lambda: sandbox._watched)
    (watched,) = sandbox._watched
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    await until(lambda: not Path(f"/proc/{watched.guest.process}").exists())
    await until(lambda: not folders(sandbox))


async def test_fifty_runs_at_once_do_not_mix(sandbox: Sandbox):
    payloads = [f"guest {number}".encode() for number in range(50)]
    runs = [sandbox.run(f"{GUESTS}:echo", payload, limits=QUICK) for payload in payloads]
    assert [ended.report for ended in await asyncio.gather(*runs)] == payloads
    assert not folders(sandbox)


async def test_two_guests_may_talk_by_a_socket_that_both_are_given(sandbox: Sandbox):
    talk = "import socket; s = socket.socket(fileno=fds[0]); s.sendall(b'%s'); report.write(s.recv(9))"
    one, other = socket.socketpair()
    with one, other:
        runs = [
            execute(sandbox, talk % word, fds=[end.fileno()])
            for word, end in (("ping", one), ("pong", other))
        ]
        first, second = await asyncio.gather(*runs)
    assert (first.report, second.report) == (b"pong", b"ping"), first.stderr


async def test_nothing_of_one_guest_is_seen_by_the_next(sandbox: Sandbox):
    await execute(
        sandbox,
        "import builtins, os, sys, json; builtins.mark = json.mark = 1; sys.path.append('mark'); "
        "os.environ['MARK'] = '1'; open('mark', 'w').write('1')",
    )
    ended = await execute(
        sandbox,
        "import builtins, gc, os, sys, json\n"
        "assert not hasattr(builtins, 'mark') and not hasattr(json, 'mark') and 'mark' not in sys.path\n"
        "assert 'MARK' not in os.environ and os.listdir() == []\n"
        "report.write(b'clean')",
    )
    assert ended.report == b"clean", ended.stderr


async def test_no_payload_reaches_the_memory_of_the_warm_interpreter(sandbox: Sandbox):
    secret = os.urandom(16).hex().encode()
    await sandbox.run(f"{GUESTS}:echo", secret, limits=QUICK)
    dump = (
        "for line in list(open('/proc/self/maps')):\n"
        "    span, rights = line.split()[:2]\n"
        "    if rights.startswith('rw'):\n"
        "        low, high = (int(each, 16) for each in span.split('-'))\n"
        "        with open('/proc/self/mem', 'rb', 0) as memory:\n"
        "            memory.seek(low)\n"
        "            report.write(memory.read(high - low))\n"
        "report.write(b'all of it')"
    )
    open_book = frozenset({"landlock filesystem", "not dumpable", "uid drop", "output limit"})
    ended = await sandbox.attempt(f"{GUESTS}:run_code", dump.encode(), QUICK, open_book)
    assert ended.report.endswith(b"all of it"), ended.stderr
    assert GUESTS.encode() in ended.report and secret not in ended.report


@pytest.mark.parametrize(
    "code",
    [
        "import os; os.mkdir('a', 0); os.mkdir('b'); open('b/c', 'w').close(); os.chmod('b', 0); os.chmod('.', 0)",
        "import os\nfor _ in range(1500): os.mkdir('deep'); os.chdir('deep')",
        "import os; os.symlink('/', 'root'); os.mkdir('d'); os.symlink('/etc', 'd/etc'); os.mkdir('d/e')",
    ],
    ids=["without rights", "deeper than a path", "links"],
)
async def test_a_scratch_folder_is_removed_whatever_was_done_to_it(sandbox: Sandbox, code: str):
    for without in (frozenset(), frozenset({"seccomp metadata"})):
        ended = await sandbox.attempt(f"{GUESTS}:run_code", code.encode(), QUICK, without)
        assert ended.code == 0 or ended.how == "output", ended.stderr  # depth may have been noticed
        assert not folders(sandbox)


async def test_a_folder_is_measured_by_all_that_is_in_it(tmp_path: Path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").write_bytes(bytes(10_000))
    assert scratch.holds(str(tmp_path), 20_000) and not scratch.holds(str(tmp_path), 9_000)
    assert scratch.holds(str(tmp_path / "gone"), 0)


async def test_no_descriptor_is_left_over_two_hundred_runs(sandbox: Sandbox):
    async def some(count: int) -> None:
        codes = ["pass", "1/0", "import os; os._exit(1)", "print('x' * 2_000_000)"]
        await asyncio.gather(*(execute(sandbox, codes[number % 4]) for number in range(count)))

    await some(20)
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        await some(40)
    assert len(os.listdir("/proc/self/fd")) <= before


async def test_a_dead_warm_interpreter_is_an_error_once_and_replaced(sandbox: Sandbox):
    run = asyncio.create_task(execute(sandbox, "import time; time.sleep(60)"))
    await until(lambda: sandbox._watched)
    (watched,) = sandbox._watched
    sandbox._warm._process.kill()
    with pytest.raises(SandboxDied):
        await run
    await until(lambda: not Path(f"/proc/{watched.guest.process}").exists())
    assert (await sandbox.run(f"{GUESTS}:echo", b"again", limits=QUICK)).report == b"again"
    assert not folders(sandbox)


async def test_entries_are_only_those_of_preloaded_modules(sandbox: Sandbox):
    with pytest.raises(ValueError, match="entry: 'os:system'"):
        await sandbox.run("os:system", b"", limits=QUICK)
    with pytest.raises(SandboxError, match="no guest could be started: AttributeError"):
        await sandbox.run(f"{GUESTS}:missing", b"", limits=QUICK)


async def test_a_guest_that_cannot_be_confined_never_runs_and_says_nothing_about_its_code(sandbox: Sandbox):
    with pytest.raises(SandboxError, match="could not be confined"):
        await sandbox.attempt(
            f"{GUESTS}:echo", b"", QUICK, frozenset({"no new privileges", "landlock filesystem"})
        )


async def test_a_preload_that_fails_or_starts_threads_is_an_error():
    with pytest.raises(SandboxError, match="No module named 'there_is_none'"):
        await Sandbox(["there_is_none"]).__aenter__()
    with pytest.raises(SandboxError, match="has started a thread"):
        await Sandbox(["tests.reward.sandbox.threaded"]).__aenter__()


async def test_all_that_a_guest_needs_of_numpy_and_asyncio_works(sandbox: Sandbox):
    code = (
        "import asyncio, sqlite3, tempfile, decimal, random, hashlib, json, re, datetime, shutil, collections\n"
        "import numpy\n"
        "async def main(): await asyncio.sleep(0); return 2\n"
        "assert asyncio.run(main()) == 2\n"
        "assert numpy.linalg.inv(numpy.eye(3)).sum() == 3\n"
        "with tempfile.TemporaryDirectory() as folder:\n"
        "    open(folder + '/a', 'w').write('a'); shutil.copy2(folder + '/a', folder + '/b')\n"
        "    sqlite3.connect(folder + '/db').execute('create table t (a)')\n"
        "datetime.datetime.now().astimezone(); hashlib.sha256(b'').digest()\n"
        "print('fine')"
    )
    ended = await execute(sandbox, code)
    assert ended.stdout == b"fine\n", ended.stderr.decode()


async def test_the_floor_names_what_is_missing():
    found = [Layer(name, name != "landlock filesystem", "ABI 0") for name in MECHANISMS]
    with pytest.raises(SandboxTooWeak, match=r"floor CONFINED: landlock filesystem \(ABI 0\)"):
        probe.check(found, Level.CONFINED)
    probe.check(found, Level.LIMITS)
    probe.check(found, Level.CONFINED, frozenset({"landlock filesystem"}))
    assert probe.level(found) == Level.LIMITS


async def test_other_systems_are_refused_by_name(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sys.platform", "darwin")
    with pytest.raises(SandboxTooWeak, match=r"needs Linux .* this is darwin"):
        await Sandbox().__aenter__()


async def test_what_is_probed_is_what_the_table_says(sandbox: Sandbox):
    assert [layer.name for layer in sandbox.layers] == list(MECHANISMS)
    assert probe.level(sandbox.layers) >= Level.CONFINED


async def test_a_mechanism_that_is_left_out_must_be_known():
    with pytest.raises(ValueError, match="without: no such mechanism: moat"):
        Sandbox(without=frozenset({"moat"}))


@pytest.mark.parametrize(
    "field", ["seconds", "cpu_seconds", "memory_bytes", "output_bytes", "threads", "open_files"]
)
async def test_limits_that_make_no_sense_are_refused_by_name(field: str):
    with pytest.raises(ValueError, match=f"^{field}: must"):
        Limits(**{field: -1})

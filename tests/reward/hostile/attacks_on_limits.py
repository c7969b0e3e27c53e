"""Programs that want more than their share: of processes, memory, disk, time, and of the service's patience."""

from tests.reward.hostile.attack import (
    ALONE,
    Attack,
    Evidence,
    Gain,
    Saw,
    finished,
    left,
    outlived,
    tells,
)

GIB = 1024**3
MIB = 1024**2
FORKING = ("thread limit",)
CHILD = "if child == 0:\n    time.sleep(0.5)\n    os._exit(0)\ntime.sleep(0.5)"
has_children = Saw(lambda evidence: bool(evidence.seen.children))
maps_much = Saw(lambda evidence: evidence.seen.mapped_bytes >= GIB)


def overran(seconds: float) -> Gain:
    """It ran to its end, later than its limit was."""
    return lambda evidence: finished(evidence) and evidence.ended[0].seconds > seconds


def fills(size: int) -> Gain:
    """So many bytes were in its folder, and it ended by itself."""
    return Saw(lambda evidence: evidence.seen.scratch_bytes >= size)


def floods(stream: str) -> Gain:
    """More than the limit of its output has come up."""
    return lambda evidence: len(getattr(evidence.ended[0], stream)) > MIB


def _left_shared_memory(evidence: Evidence) -> bool:
    """A segment of System V, by its key; removed after this."""
    return evidence.world.segment(0x5EED)


PROCESSES = [
    Attack(
        name="fork bomb",
        tries="forks until nothing is left",
        program="import os\nwhile True: os.fork()",
        by="seccomp processes",
        also=FORKING,
        says="PermissionError",
        switched=False,
    ),
    Attack(
        name="a child",
        tries="forks once",
        program=f"import os, time\nchild = os.fork()\n{CHILD}",
        by="seccomp processes",
        also=FORKING,
        says="PermissionError",
        gain=has_children,
    ),
    Attack(
        name="forks, one ignored error after the other",
        tries="forks ten times whatever it is told",
        program="""
            import os, time
            for _ in range(10):
                try:
                    if os.fork() == 0:
                        time.sleep(0.5)
                        os._exit(0)
                except OSError:
                    pass
            time.sleep(0.3)
            """,
        by="seccomp processes",
        also=FORKING,
        outcome="0",
        gain=Saw(lambda evidence: len(evidence.seen.children) == 10),
    ),
    Attack(
        name="multiprocessing",
        tries="starts a worker of the standard library",
        program="""
            import multiprocessing, time
            multiprocessing.Process(target=time.sleep, args=(0.5,)).start()
            time.sleep(0.3)
            """,
        by="seccomp processes",
        also=FORKING,
        says="PermissionError",
        gain=has_children,
    ),
    Attack(
        name="subprocess",
        tries="runs a shell",
        program="import subprocess\nsubprocess.run(['/bin/sleep', '0.3'], check=True)",
        by="seccomp processes",
        also=(*FORKING, "landlock filesystem", "seccomp kernel surface"),
        says="PermissionError",
        gain=has_children,
    ),
    Attack(
        name="posix_spawn",
        tries="runs a program without a fork",
        program="import os\nos.waitpid(os.posix_spawn('/bin/sleep', ['sleep', '0.3'], {}), 0)",
        by="seccomp processes",
        also=(*FORKING, "landlock filesystem", "seccomp kernel surface"),
        says="PermissionError",
        gain=has_children,
    ),
    Attack(
        name="clone by number",
        tries="clones itself by ctypes, past the interpreter",
        program=f"""
            import ctypes, os, time
            child = ctypes.CDLL(None).syscall(56, 17, 0, 0, 0, 0)
            assert child >= 0
            {CHILD.replace(chr(10), chr(10) + " " * 12)}
            """,
        by="seccomp processes",
        also=FORKING,
        says="AssertionError",
        gain=has_children,
        needs=frozenset({"x86_64"}),
    ),
    Attack(
        name="clone3 and vfork by number",
        tries="finds another call that makes processes",
        program="""
            import ctypes
            call = ctypes.CDLL(None, use_errno=True).syscall
            assert call(435, (ctypes.c_uint64 * 8)(), 64) == -1 and ctypes.get_errno() == 38
            assert call(58) == -1 and ctypes.get_errno() == 1
            """,
        by="seccomp processes",
        outcome="0",
        switched=False,
        needs=frozenset({"x86_64"}),
    ),
    Attack(
        name="exec",
        tries="becomes a shell",
        program="import os\nos.set_inheritable(1, True)\nos.execv('/bin/sh', ['sh', '-c', 'echo got$((6 * 7))it'])",
        by="seccomp processes",
        also=("landlock filesystem", "seccomp kernel surface"),
        says="PermissionError",
        gain=tells(b"got42it"),
    ),
    Attack(
        name="a daemon",
        tries="leaves its session, to be there when it is gone",
        program="""
            import os, time
            child = os.fork()
            if child == 0:
                os.setsid()
                for fd in range(4): os.close(fd)
                time.sleep(60)
                os._exit(0)
            time.sleep(0.1)
            print(child)
            """,
        by="seccomp processes",
        also=FORKING,
        says="PermissionError",
        gain=outlived,
    ),
    Attack(
        name="an orphan",
        tries="leaves a child behind, where it could fork",
        program="""
            import os, time
            child = os.fork()
            if child == 0:
                for fd in range(4): os.close(fd)
                time.sleep(60)
                os._exit(0)
            print(child)
            """,
        by="own session",
        also=(*FORKING, "seccomp processes"),
        says="PermissionError",
        gain=outlived,
    ),
    Attack(
        name="thread bomb",
        tries="starts forty threads",
        program="""
            import threading, time
            for _ in range(40): threading.Thread(target=time.sleep, args=(0.5,)).start()
            """,
        by="thread limit",
        also=("memory limit",),
        says="can't start new thread|SIGKILL",
        gain=Saw(lambda evidence: evidence.seen.threads > 40),
    ),
    Attack(
        name="threads that swallow errors",
        tries="goes on starting threads whatever it is told",
        program="""
            import threading, time
            while True:
                try: threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
                except RuntimeError: pass
            """,
        by="thread limit",
        says="took longer|SIGKILL",
        seconds=0.4,
        switched=False,
    ),
    Attack(
        name="priority",
        tries="computes as urgently as the service",
        program="import time\ntime.sleep(0.2)",
        by="priority",
        outcome="0",
        gain=Saw(lambda evidence: evidence.seen.niceness <= 0),
    ),
    Attack(
        name="others' priority",
        tries="slows a process of the service",
        program="import os\nos.setpriority(os.PRIO_PROCESS, VICTIM, 19)",
        by="seccomp processes",
        also=("uid drop",),
        says="PermissionError",
        gain=lambda evidence: evidence.world.slowed(),
    ),
    Attack(
        name="others' limits",
        tries="takes a process of the service its descriptors",
        program="import resource\nresource.prlimit(VICTIM, resource.RLIMIT_NOFILE, (1, 1))",
        by="seccomp processes",
        also=("uid drop",),
        says="PermissionError",
        gain=lambda evidence: evidence.world.bounded(),
    ),
    Attack(
        name="too many descriptors",
        tries="opens descriptors until none is left",
        program="import os, time\nfor _ in range(200): os.dup(0)\ntime.sleep(0.3)",
        by="open files limit",
        says="Too many open files",
        gain=Saw(lambda evidence: finished(evidence) and evidence.seen.descriptors > 200),
        needs=frozenset({"root"}),
    ),
    Attack(
        name="a crash",
        tries="reads where nothing is",
        program="import ctypes\nctypes.string_at(0)",
        by=ALONE,
        says="SIGSEGV",
    ),
    Attack(
        name="a call stack without end",
        tries="lets a recursion in C run over its stack",
        program="""
            import sys
            sys.setrecursionlimit(10**9)
            nested = []
            for _ in range(10**5): nested = [nested]
            repr(nested)
            """,
        by=ALONE,
        says="SIGSEGV|memory",
    ),
    Attack(
        name="abort",
        tries="ends by SIGABRT, with a core dump",
        program="import os\nos.abort()",
        by=ALONE,
        says="SIGABRT",
    ),
]

MEMORY = [
    Attack(
        name="one large object",
        tries="takes a gigabyte at once",
        program="import time\nx = bytearray(2**30)\ntime.sleep(0.3)",
        by="memory limit",
        says="memory",
        gain=maps_much,
    ),
    Attack(
        name="mmap",
        tries="maps a gigabyte of nobody's memory",
        program="import mmap, time\nx = mmap.mmap(-1, 2**30)\ntime.sleep(0.3)",
        by="memory limit",
        says="Cannot allocate memory",
        gain=maps_much,
    ),
    Attack(
        name="shared mapping",
        tries="maps a gigabyte that no heap counts",
        program="""
            import mmap, time
            x = mmap.mmap(-1, 2**30, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS | 0x4000)
            time.sleep(0.3)
            """,
        by="memory limit",
        says="Cannot allocate memory",
        gain=maps_much,
    ),
    Attack(
        name="libc's own heap",
        tries="allocates behind the interpreter's back",
        program="""
            import ctypes, time
            libc = ctypes.CDLL(None)
            libc.malloc.restype = ctypes.c_void_p
            assert all(libc.malloc(ctypes.c_size_t(2**28)) for _ in range(4))
            time.sleep(0.3)
            """,
        by="memory limit",
        says="AssertionError",
        gain=maps_much,
    ),
    Attack(
        name="a list that grows",
        tries="takes memory bit by bit",
        program="x = []\nwhile True: x.append([0] * 10**6)",
        by="memory limit",
        says="memory",
        switched=False,
    ),
    Attack(
        name="a list that grows, errors ignored",
        tries="takes memory whatever it is told",
        program="x = []\nwhile True:\n    try: x.append(bytes(10**7))\n    except MemoryError: pass",
        by="memory limit",
        says="took longer",
        seconds=0.5,
        switched=False,
    ),
    Attack(
        name="a large number",
        tries="shifts a number out to a gigabyte",
        program="import time\nx = 1 << (8 * 2**30)\ntime.sleep(0.3)",
        by="memory limit",
        says="memory",
        gain=maps_much,
    ),
    Attack(
        name="a wide format",
        tries="has a number printed two gigabytes wide",
        program="x = '%2000000000d' % 1",
        by="memory limit",
        says="memory",
        switched=False,
    ),
    Attack(
        name="recursion without end",
        tries="piles frames up",
        program="import sys\nsys.setrecursionlimit(10**9)\ndef f(n): return f(n + 1) + n\nf(0)",
        by="memory limit",
        says="memory|SIGSEGV|took longer",
        seconds=2.0,
        switched=False,
    ),
    Attack(
        name="source that is a bomb",
        tries="is nested deeper than the compiler goes",
        program="-" * 100_000 + "1",
        by=ALONE,
        says="does not compile|SIGSEGV|memory",
    ),
    Attack(
        name="a compiled bomb",
        tries="has the compiler read a list of twenty million numbers",
        program="compile('x = [' + '0,' * 20_000_000 + ']', 'bomb', 'exec')",
        by="memory limit",
        switched=False,
        says="memory|took longer",
        seconds=2.0,
    ),
    Attack(
        name="an anonymous file",
        tries="keeps memory in a file without a name",
        program="import os\nos.write(os.memfd_create('x'), bytes(2**20))",
        by="seccomp kernel surface",
        says="PermissionError",
        gain=finished,
    ),
    Attack(
        name="shared memory that stays",
        tries="leaves a segment of System V when it is gone",
        program="import ctypes\nassert ctypes.CDLL(None).shmget(0x5eed, 4096, 0o1600) >= 0",
        by="seccomp kernel surface",
        says="AssertionError",
        gain=_left_shared_memory,
    ),
]

DISK = [
    Attack(
        name="a large file",
        tries="writes forty megabytes",
        program="import time\nopen('x', 'wb').write(bytes(40 * 2**20))\ntime.sleep(0.3)",
        by="file size limit",
        says="File too large|too many files",
        gain=fills(40 * MIB),
    ),
    Attack(
        name="many files",
        tries="writes forty megabytes in ten files, and goes on",
        program="import time\nfor n in range(10): open(str(n), 'wb').write(bytes(4 * 2**20))\ntime.sleep(2)",
        by="file size limit",
        says="too many files",
        gain=finished,
    ),
    Attack(
        name="a sparse file",
        tries="claims a terabyte that it does not write",
        program="import os, time\nos.truncate(os.open('x', os.O_CREAT | os.O_RDWR), 2**40)\ntime.sleep(0.3)",
        by="file size limit",
        says="File too large",
        gain=fills(2**40),
    ),
    Attack(
        name="a file without a name",
        tries="writes to a file that it has removed",
        program="""
            import os
            file = open('x', 'wb', 0)
            os.unlink('x')
            assert file.write(bytes(20 * 2**20)) == 20 * 2**20
            """,
        by="file size limit",
        says="AssertionError|File too large",
        gain=finished,
    ),
    Attack(
        name="disk behind a file's end",
        tries="reserves blocks that no size shows",
        program="""
            import ctypes, os
            fd = os.open('f', os.O_CREAT | os.O_RDWR)
            assert ctypes.CDLL(None).fallocate(fd, 1, ctypes.c_long(0), ctypes.c_long(2**20)) == 0
            """,
        by="seccomp kernel surface",
        says="AssertionError",
        gain=finished,
    ),
    Attack(
        name="folders without end",
        tries="nests folders deeper than a path can be long",
        program="import os\nwhile True:\n    os.mkdir('d')\n    os.chdir('d')",
        by="file size limit",
        says="too many files|took longer",
        seconds=1.0,
        switched=False,
    ),
    Attack(
        name="empty files without end",
        tries="uses the file system's names up",
        program="n = 0\nwhile True:\n    n += 1\n    open(str(n), 'x').close()",
        by="file size limit",
        says="too many files|took longer",
        seconds=1.0,
        switched=False,
    ),
    Attack(
        name="a folder that nobody may open",
        tries="hides files from whoever measures and removes",
        program="import os\nos.mkdir('d', 0)\nos.mkdir('e', 0)",
        by="file size limit",
        outcome="0 or invalid",
        switched=False,
    ),
    Attack(
        name="names that are no text",
        tries="makes files that cannot be named",
        program="import os\nfor n in range(128, 256): os.mkdir(bytes([n])); os.symlink(b'/', bytes([n, n]))",
        by="private scratch",
        outcome="0",
        switched=False,
    ),
    Attack(
        name="a file elsewhere",
        tries="writes where anybody may",
        program="open(ELSEWHERE + '/x', 'w').write('x')",
        by="landlock filesystem",
        says="PermissionError",
        gain=left,
    ),
    Attack(
        name="a file for the next one",
        tries="leaves a word for its own next run, which has another test",
        program="""
            import os
            if os.path.exists('left'): print(open('left').read())
            else: print(open('left', 'w').write(input()))
            """,
        tests=[{"stdin": "8", "stdout": "nothing"}, {"stdin": "0", "stdout": "8"}],
        by="private scratch",
        also=("uid drop",),
        outcome="0",
    ),
]

TIME = [
    Attack(
        name="endless loop",
        tries="computes for ever",
        program="while True: pass",
        by="wall clock",
        says="took longer",
        seconds=0.3,
        switched=False,
    ),
    Attack(
        name="more than its time",
        tries="computes for longer than it may, where no clock on the wall would stop it",
        program="import time\nwhile time.process_time() < 1.0: pass",
        by="cpu limit",
        also=("wall clock",),
        says="took longer",
        seconds=0.3,
        gain=overran(0.9),
    ),
    Attack(
        name="sleep",
        tries="sleeps for longer than it may",
        program="import time\ntime.sleep(0.9)",
        by="wall clock",
        says="took longer",
        seconds=0.3,
        gain=overran(0.8),
    ),
    Attack(
        name="select",
        tries="waits for nothing",
        program="import select\nselect.select([], [], [])",
        by="wall clock",
        says="took longer",
        seconds=0.3,
        switched=False,
    ),
    Attack(
        name="deaf to signals",
        tries="ignores all signals that can be ignored",
        program="""
            import signal
            for number in signal.valid_signals() - {9, 19}: signal.signal(number, signal.SIG_IGN)
            while True: signal.pause()
            """,
        by="wall clock",
        says="took longer",
        seconds=0.3,
        switched=False,
    ),
    Attack(
        name="stopped",
        tries="stops itself, so that no processor time passes",
        program="import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)",
        by="wall clock",
        says="took longer",
        seconds=0.3,
        switched=False,
    ),
    Attack(
        name="a leader that has left",
        tries="ends its main thread, and goes on in another",
        program="""
            import ctypes, threading, time
            threading.Thread(target=time.sleep, args=(60,)).start()
            ctypes.CDLL(None).syscall(60, 0)
            """,
        by="wall clock",
        says="took longer",
        seconds=0.3,
        switched=False,
        needs=frozenset({"x86_64"}),
    ),
    Attack(
        name="a long sum in C",
        tries="never comes back to the interpreter",
        program="sum(iter(int, 1))",
        by="wall clock",
        says="took longer",
        seconds=0.3,
        switched=False,
    ),
    Attack(
        name="a large power",
        tries="has one multiplication take hours",
        program="x = 7 ** (10 ** 8)",
        by="wall clock",
        says="took longer|memory",
        seconds=0.3,
        switched=False,
    ),
    Attack(
        name="a bad pattern",
        tries="has a regular expression go back for ever",
        program="import re\nre.match('(a+)+$', 'a' * 60 + 'b')",
        by="wall clock",
        says="took longer",
        seconds=0.3,
        switched=False,
    ),
    Attack(
        name="an order without end",
        tries="sorts by a key that never answers",
        program="class K:\n    def __lt__(self, other):\n        while True: pass\nsorted([K(), K()])",
        by="wall clock",
        says="took longer",
        seconds=0.3,
        switched=False,
    ),
    Attack(
        name="four threads that compute",
        tries="uses four times its time on four cores",
        program="""
            import hashlib, threading
            def work():
                while True: hashlib.sha256(bytes(10**7))
            for _ in range(4): threading.Thread(target=work).start()
            """,
        by="cpu limit",
        also=("wall clock",),
        says="took longer",
        seconds=0.3,
        switched=False,
    ),
    Attack(
        name="an exit handler without end",
        tries="gives the right answer, and hangs at its exit",
        program="""
            import atexit
            def hang():
                while True: pass
            atexit.register(hang)
            print(5, flush=True)
            """,
        by="wall clock",
        says="took longer",
        seconds=0.3,
        switched=False,
    ),
    Attack(
        name="a destructor without end",
        tries="gives the right answer, and hangs in __del__",
        program="""
            class Hang:
                def __del__(self):
                    while True: pass
            print(5, flush=True)
            hang = Hang()
            del hang
            """,
        by="wall clock",
        says="took longer",
        seconds=0.3,
        switched=False,
    ),
    Attack(
        name="a service that dies",
        tries="goes on when the service is killed",
        program="import time\ntime.sleep(60)",
        by="death with parent",
        says="took longer",
        seconds=0.3,
    ),
]

OUTPUT = [
    Attack(
        name="standard output",
        tries="prints three megabytes",
        program="print('x' * 3_000_000)",
        by="output limit",
        says="printed more",
        gain=floods("stdout"),
    ),
    Attack(
        name="standard error",
        tries="complains for three megabytes",
        program="import sys\nsys.stderr.write('x' * 3_000_000)",
        by="output limit",
        says="printed more",
        gain=floods("stderr"),
    ),
    Attack(
        name="the report",
        tries="fills the pipe that is not its own",
        program="import os\nos.write(3, bytes(3_000_000))",
        by="output limit",
        says="printed more",
        gain=floods("report"),
    ),
    Attack(
        name="lines without end",
        tries="prints for ever",
        program="while True: print('y')",
        by="output limit",
        says="printed more|took longer",
        seconds=2.0,
        switched=False,
    ),
]

FAMILIES = {
    "processes and threads": PROCESSES,
    "memory": MEMORY,
    "disk": DISK,
    "time": TIME,
    "output": OUTPUT,
}

"""Programs that want out: to the network, to files, to other processes, and deeper into the kernel."""

import platform

from services.reward.sandbox import MECHANISMS
from tests.reward.hostile.attack import (
    OUTSIDE,
    Attack,
    Evidence,
    Saw,
    finished,
    hurt,
    reached,
    tells,
    told,
    touched,
)

X86 = frozenset({"x86_64"})
ROOT = frozenset({"root"})
ALL_OF_LANDLOCK = ("landlock filesystem", "landlock network", "landlock scope")
FILTERS = tuple(name for name in MECHANISMS if name.startswith("seccomp"))
OTHERS = tuple(name for name in MECHANISMS if name not in ("namespaces", "no new privileges"))
SOCKET = 41 if platform.machine() == "x86_64" else 198


def _names_neighbours(evidence: Evidence) -> bool:
    folder = evidence.world._NEIGHBOUR.split("/")[-2]
    return any(folder.encode() in one.stdout for one in evidence.ended)


def _has_the_line(evidence: Evidence) -> bool:
    """It holds the socket by which the service orders guests."""
    numbers = {int(word) for one in evidence.ended for word in one.stdout.split()}
    return bool(numbers & evidence.world.lines())


def killed(call: str, reason: str = "SIGSYS") -> dict[str, object]:
    """What is common to calls that no honest code makes."""
    return {
        "program": f"import ctypes\nctypes.CDLL(None).syscall({call})",
        "by": "seccomp kernel surface",
        "says": reason,
        "switched": False,
        "needs": X86,
    }


NETWORK = [
    Attack(
        name="a datagram",
        tries="sends a word over UDP",
        program="import socket\nsocket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'word', ('127.0.0.1', UDP))",
        by="seccomp network",
        says="PermissionError",
        gain=reached,
    ),
    Attack(
        name="a connection",
        tries="connects by TCP",
        program="import socket\nsocket.create_connection(('127.0.0.1', TCP))",
        by="seccomp network",
        also=("landlock network",),
        says="PermissionError",
        gain=reached,
    ),
    Attack(
        name="a connection, past the filter",
        tries="connects by TCP, where sockets can be had",
        program="import socket\nsocket.create_connection(('127.0.0.1', TCP))",
        by="landlock network",
        also=("seccomp network",),
        says="PermissionError",
        gain=reached,
    ),
    Attack(
        name="a web request",
        tries="posts what it knows to a web server",
        program="""
            import urllib.request
            try: urllib.request.urlopen(f'http://127.0.0.1:{TCP}/', b'x', timeout=0.2)
            except TimeoutError: pass
            """,
        by="seccomp network",
        also=("landlock network",),
        says="URLError|PermissionError",
        gain=reached,
    ),
    Attack(
        name="a name",
        tries="asks for the address of a name, which carries a message",
        program="import socket\nsocket.getaddrinfo('secret.example.com', 80)",
        by="seccomp network",
        says="gaierror|PermissionError",
        switched=False,
    ),
    Attack(
        name="a listener",
        tries="waits for connections",
        program="import socket\nsocket.create_server(('127.0.0.1', 0))",
        by="seccomp network",
        also=("landlock network",),
        says="PermissionError",
        gain=finished,
    ),
    Attack(
        name="IPv6",
        tries="takes another family",
        program="import socket\nsocket.socket(socket.AF_INET6, socket.SOCK_DGRAM)",
        by="seccomp network",
        says="PermissionError",
        switched=False,
    ),
    Attack(
        name="ICMP",
        tries="sends raw packets",
        program="import socket\nsocket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)",
        by="seccomp network",
        says="PermissionError",
        switched=False,
    ),
    Attack(
        name="packets",
        tries="listens to the wire",
        program="import socket\nsocket.socket(socket.AF_PACKET, socket.SOCK_RAW, 3)",
        by="seccomp network",
        says="PermissionError",
        switched=False,
    ),
    Attack(
        name="netlink",
        tries="talks to the kernel's own network",
        program="import socket\nsocket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0).bind((0, 0))",
        by="seccomp network",
        says="PermissionError",
        gain=finished,
    ),
    Attack(
        name="other families",
        tries="finds one family of sockets that nobody thought of",
        program="""
            import socket
            def opens(family, kind):
                try: socket.socket(family, kind).close()
                except OSError: return False
                return True
            print([(f, k) for f in range(46) for k in (1, 2, 3, 5) if opens(f, k)])
            """,
        tests={"stdin": "", "stdout": "[(1, 1), (1, 2)]"},
        by="seccomp network",
        outcome="0",
        gain=tells(b"(1, 2)"),
    ),
    Attack(
        name="a Unix socket",
        tries="connects to a socket of the service by its path",
        program="import socket\nsocket.socket(socket.AF_UNIX).connect(SOCKET)",
        by="seccomp network",
        says="PermissionError",
        gain=reached,
    ),
    Attack(
        name="an abstract socket",
        tries="sends to a socket that is no file",
        program="import socket\nsocket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b'word', ABSTRACT)",
        by="seccomp network",
        also=("landlock scope",),
        says="PermissionError",
        gain=reached,
    ),
    Attack(
        name="an abstract socket, past the filter",
        tries="sends to a socket that is no file, where sockets can be had",
        program="import socket\nsocket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b'word', ABSTRACT)",
        by="landlock scope",
        also=("seccomp network",),
        says="PermissionError",
        gain=reached,
    ),
    Attack(
        name="a pair sent elsewhere",
        tries="sends to others by a socket that was made for talking to itself",
        program="""
            import socket
            one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
            one.sendto(b'word', ABSTRACT)
            """,
        by="seccomp network",
        also=("landlock scope",),
        says="PermissionError",
        gain=reached,
    ),
    Attack(
        name="shellcode",
        tries="opens a socket by machine code of its own",
        program="""
            import ctypes, mmap
            code = bytes.fromhex('b829000000bf02000000be0200000031d20f05c3')
            page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
            page.write(code)
            address = ctypes.addressof(ctypes.c_char.from_buffer(page))
            assert ctypes.CFUNCTYPE(ctypes.c_long)(address)() >= 0
            """,
        by="seccomp network",
        says="AssertionError",
        gain=finished,
        needs=X86,
    ),
    Attack(
        name="an extension of its own",
        tries="loads machine code from a file that it wrote, and opens a socket there",
        program="""
            import _socket, shutil, sys
            from importlib.machinery import ExtensionFileLoader
            from importlib.util import module_from_spec, spec_from_loader
            shutil.copy(_socket.__file__, 'own.so')
            module = module_from_spec(spec_from_loader('_socket', ExtensionFileLoader('_socket', './own.so')))
            print(module.socket(2, 2))
            """,
        by="seccomp network",
        says="PermissionError",
        gain=finished,
    ),
    Attack(
        name="io_uring",
        tries="has the kernel make the calls that it may not make",
        **killed("425, 8, ctypes.create_string_buffer(120)"),
    ),
]

FILES = [
    Attack(
        name="a key",
        tries="reads a file of the service",
        program="print(open(KEY).read())",
        by="landlock filesystem",
        also=("uid drop",),
        says="PermissionError",
        gain=told,
    ),
    Attack(
        name="a key, by a long way round",
        tries="climbs up from its own folder",
        program="print(open('../' * 20 + KEY).read())",
        by="landlock filesystem",
        also=("uid drop",),
        says="PermissionError",
        gain=told,
    ),
    Attack(
        name="a key, by a symbolic link",
        tries="follows a link of its own making",
        program="import os\nos.symlink(KEY, 'mine')\nprint(open('mine').read())",
        by="landlock filesystem",
        also=("uid drop",),
        says="PermissionError",
        gain=told,
    ),
    Attack(
        name="a key, by a hard link",
        tries="gives the file a second name in its own folder",
        program="import os\nos.link(KEY, 'mine')\nprint(open('mine').read())",
        by="landlock filesystem",
        also=("uid drop",),
        says="PermissionError|Invalid cross-device",
        gain=told,
    ),
    Attack(
        name="a key, by another's root",
        tries="goes through another process's view of the file system",
        program="print(open(f'/proc/{VICTIM}/root' + KEY).read())",
        by="landlock filesystem",
        also=("landlock network", "landlock scope", "uid drop", "not dumpable"),
        says="PermissionError",
        gain=told,
        needs=ROOT,
    ),
    Attack(
        name="a key, by its handle",
        tries="opens a file by a number instead of a path",
        **killed("304, -100, ctypes.create_string_buffer(200), 0"),
    ),
    Attack(
        name="passwords",
        tries="reads /etc/passwd",
        program="print(open('/etc/passwd').read())",
        by="landlock filesystem",
        says="PermissionError",
        gain=tells(b"root:"),
    ),
    Attack(
        name="a neighbour's file",
        tries="reads what another guest has in its folder, whose name it knows",
        program="print(open(NEIGHBOUR).read())",
        by="landlock filesystem",
        also=("uid drop",),
        says="PermissionError",
        gain=told,
    ),
    Attack(
        name="the neighbours",
        tries="finds out which other guests there are",
        program="import os\nNEIGHBOUR\nprint(os.listdir('..'))",
        by="landlock filesystem",
        also=("uid drop",),
        says="PermissionError",
        gain=_names_neighbours,
    ),
    Attack(
        name="the service's code",
        tries="reads the harness that it runs in",
        program="import sys\nprint(open(sys.modules['services.reward.guests.tester'].__file__).read())",
        by="landlock filesystem",
        says="PermissionError",
        gain=tells(b"only this process can say so"),
    ),
    Attack(
        name="the machine's root",
        tries="looks around",
        program="import os\nprint(os.listdir('/'))",
        by="landlock filesystem",
        says="PermissionError",
        gain=tells(b"'etc'"),
    ),
    Attack(
        name="devices",
        tries="reads the machine's memory, disk and log",
        program="""
            for device in ('mem', 'kmsg', 'tty', 'fuse', 'vda', 'sda', 'kvm', 'shm/x'):
                try: open('/dev/' + device, 'rb', 0).read(1)
                except (PermissionError, FileNotFoundError): continue
                print(5)
            """,
        by="landlock filesystem",
        outcome="0",
        switched=False,
    ),
    Attack(
        name="the modes of files",
        tries="opens a file of the service to everybody",
        program="import os\nos.chmod(BYSTANDER, 0o666)",
        by="seccomp metadata",
        also=("uid drop",),
        outcome="0",
        gain=touched,
    ),
    Attack(
        name="a file that is emptied by reading",
        tries="truncates a file while it opens it to read",
        program="import os\nos.open(BYSTANDER, os.O_RDONLY | os.O_TRUNC)",
        by="seccomp metadata",
        also=("landlock filesystem", "uid drop"),
        says="PermissionError",
        gain=touched,
    ),
    Attack(
        name="the environment",
        tries="reads the service's keys from its variables",
        program="import os\nprint(dict(os.environ))",
        by="clean environment",
        outcome="0",
        gain=tells(b"hostile-test-key"),
    ),
    Attack(
        name="descriptors that were left open",
        tries="finds the line by which the service orders guests",
        program="""
            import os, stat
            for fd in range(5, 256):
                try: state = os.fstat(fd)
                except OSError: continue
                if stat.S_ISSOCK(state.st_mode): print(state.st_ino)
            """,
        by="closed descriptors",
        outcome="0",
        gain=_has_the_line,
    ),
    Attack(
        name="set-uid",
        tries="starts a program that runs as the superuser",
        program="import os\nos.set_inheritable(1, True)\nos.execv(SUID, ['id'])",
        by="no new privileges",
        also=(*FILTERS, *ALL_OF_LANDLOCK),
        says="PermissionError",
        gain=tells(b"euid=0"),
        needs=ROOT,
    ),
]

PROC = [
    Attack(
        name="its own maps",
        tries="learns where everything lies in memory",
        program="print(open('/proc/self/maps').read())",
        by="landlock filesystem",
        says="PermissionError",
        gain=tells(b"[stack]"),
    ),
    Attack(
        name="its own memory",
        tries="writes to its memory past all protection",
        program="open('/proc/self/mem', 'r+b', 0)",
        by="landlock filesystem",
        also=("uid drop", "not dumpable"),
        says="PermissionError",
        gain=finished,
    ),
    Attack(
        name="its own descriptors",
        tries="opens its pipes anew, at the other end",
        program="""
            import os
            os.write(os.open('/proc/self/fd/0', os.O_WRONLY), b'7 7\\n')
            os.open('/proc/self/fd/1', os.O_RDONLY)
            os.open('/proc/self/fd/3', os.O_RDONLY)
            """,
        by=OUTSIDE,
        outcome="0 or invalid",
    ),
    Attack(
        name="others' commands",
        tries="reads what else runs here",
        program="print(open(f'/proc/{VICTIM}/cmdline').read())",
        by="landlock filesystem",
        says="PermissionError",
        gain=tells(b"sleep"),
    ),
    Attack(
        name="others' environment",
        tries="reads the variables of every process",
        program="""
            for number in range(1, 2000):
                try: print(open(f'/proc/{number}/environ').read())
                except OSError: pass
            """,
        by="landlock filesystem",
        outcome="0",
        switched=False,
    ),
    Attack(
        name="the kernel's settings",
        tries="has the kernel run a program of its own at the next crash",
        program="open('/proc/sys/kernel/core_pattern', 'w').write('|/tmp/x')",
        by="landlock filesystem",
        says="PermissionError",
        switched=False,
    ),
    Attack(
        name="the last to die",
        tries="has the kernel take others first when memory ends",
        program="open('/proc/self/oom_score_adj', 'w').write('-1000')",
        by="landlock filesystem",
        says="PermissionError",
        switched=False,
    ),
    Attack(
        name="what is to be seen of it",
        tries="lets itself be read by another process of its user",
        program="import time\ntime.sleep(0.3)",
        by="not dumpable",
        outcome="0",
        gain=Saw(lambda evidence: evidence.seen.readable),
        needs=frozenset({"unprivileged"}),
    ),
    Attack(
        name="the machine, past everything else",
        tries="kills a process of the service, where only namespaces hold it",
        program="import os, signal\nos.kill(VICTIM, signal.SIGKILL)",
        by="namespaces",
        also=OTHERS,
        says="PermissionError",
        gain=hurt,
    ),
]

SIGNALLING = ("seccomp signals", "landlock scope", "uid drop")

SIGNALS = [
    Attack(
        name="a kill",
        tries="kills a process of the service",
        program="import os, signal\nos.kill(VICTIM, signal.SIGKILL)",
        by="seccomp signals",
        also=("landlock scope", "uid drop"),
        says="PermissionError",
        gain=hurt,
    ),
    Attack(
        name="a kill, past the filter",
        tries="kills a process of the service, where signals can be sent",
        program="import os, signal\nos.kill(VICTIM, signal.SIGKILL)",
        by="landlock scope",
        also=("seccomp signals", "uid drop"),
        says="PermissionError",
        gain=hurt,
    ),
    Attack(
        name="a kill, past both",
        tries="kills a process of the service, where only the user is another",
        program="import os, signal\nos.kill(VICTIM, signal.SIGKILL)",
        by="uid drop",
        also=("seccomp signals", "landlock scope"),
        says="PermissionError",
        gain=hurt,
        needs=ROOT,
    ),
    Attack(
        name="everybody",
        tries="kills all that it can",
        program="import os, signal\nos.kill(-1, signal.SIGKILL)",
        by="seccomp signals",
        also=("landlock scope", "uid drop"),
        says="PermissionError",
        switched=False,
    ),
    Attack(
        name="its parent",
        tries="kills the warm interpreter, and with it all guests",
        program="import os, signal\nos.kill(os.getppid(), signal.SIGKILL)",
        by="seccomp signals",
        also=("landlock scope", "uid drop"),
        says="PermissionError",
        switched=False,
    ),
    Attack(
        name="its parent's group",
        tries="kills the family by its group",
        program="import os, signal\nos.killpg(os.getpgid(os.getppid()), signal.SIGKILL)",
        by="seccomp signals",
        also=("landlock scope", "uid drop", "own session"),
        says="PermissionError",
        switched=False,
    ),
    Attack(
        name="a thread's signal",
        tries="kills by the call for threads",
        program="import ctypes\nassert ctypes.CDLL(None).syscall(234, VICTIM, VICTIM, 9) == 0",
        by="seccomp signals",
        also=("landlock scope", "uid drop"),
        says="AssertionError",
        gain=hurt,
        needs=X86,
    ),
    Attack(
        name="a queued signal",
        tries="kills by the call that brings a word along",
        program="""
            import ctypes
            word = (ctypes.c_int * 32)(9, 0, -1)
            assert ctypes.CDLL(None).syscall(129, VICTIM, 9, word) == 0
            """,
        by="seccomp signals",
        also=("landlock scope", "uid drop"),
        says="AssertionError",
        gain=hurt,
        needs=X86,
    ),
    Attack(
        name="a signal by descriptor",
        tries="opens a process, and kills that",
        program="import os, signal\nsignal.pidfd_send_signal(os.pidfd_open(VICTIM), signal.SIGKILL)",
        by="seccomp signals",
        also=("landlock scope", "uid drop", "seccomp processes"),
        says="PermissionError",
        gain=hurt,
    ),
    Attack(
        name="a signal on input",
        tries="has the kernel tell another process by SIGIO",
        program="""
            import fcntl, os
            out, into = os.pipe()
            fcntl.fcntl(out, fcntl.F_SETOWN, VICTIM)
            fcntl.fcntl(out, fcntl.F_SETFL, os.O_ASYNC)
            os.write(into, b'x')
            """,
        by="seccomp signals",
        also=("landlock scope", "uid drop"),
        says="PermissionError",
        gain=hurt,
    ),
    Attack(
        name="life after its parent",
        tries="forgets that it is to die with the service",
        program="import ctypes\nassert ctypes.CDLL(None).prctl(1, 0, 0, 0, 0) == 0",
        by="seccomp tracing",
        says="AssertionError",
        gain=finished,
    ),
    Attack(
        name="the service's memory",
        tries="reads a secret out of the service",
        program="""
            import ctypes
            class Vector(ctypes.Structure): _fields_ = [('at', ctypes.c_void_p), ('size', ctypes.c_size_t)]
            process, address = MEMORY
            mine = ctypes.create_string_buffer(32)
            here, there = Vector(ctypes.addressof(mine), 32), Vector(address, 32)
            ctypes.CDLL(None).process_vm_readv(process, ctypes.byref(here), 1, ctypes.byref(there), 1, 0)
            print(mine.raw)
            """,
        by="seccomp tracing",
        also=(*ALL_OF_LANDLOCK, "uid drop"),
        says="SIGSYS",
        gain=told,
        needs=ROOT,
    ),
    Attack(
        name="the service's memory, past the filter",
        tries="reads a secret out of the service, where such calls can be made",
        program="""
            import ctypes
            class Vector(ctypes.Structure): _fields_ = [('at', ctypes.c_void_p), ('size', ctypes.c_size_t)]
            process, address = MEMORY
            mine = ctypes.create_string_buffer(32)
            here, there = Vector(ctypes.addressof(mine), 32), Vector(address, 32)
            ctypes.CDLL(None).process_vm_readv(process, ctypes.byref(here), 1, ctypes.byref(there), 1, 0)
            print(mine.raw)
            """,
        by="uid drop",
        also=(*ALL_OF_LANDLOCK, "seccomp tracing"),
        says="SIGSYS",
        gain=told,
        needs=ROOT,
    ),
    Attack(
        name="a debugger",
        tries="attaches to another process",
        program="import ctypes\nassert ctypes.CDLL(None).ptrace(16, VICTIM, 0, 0) == 0",
        by="seccomp tracing",
        also=(*ALL_OF_LANDLOCK, "uid drop"),
        says="SIGSYS",
        gain=finished,
        needs=ROOT,
    ),
    Attack(
        name="another's descriptors",
        tries="takes a file that another process has open",
        **{**killed("438, 0, 0, 0"), "by": "seccomp tracing"},
    ),
    Attack(
        name="being dumpable again",
        tries="takes back that nobody may read it",
        program="import ctypes\nassert ctypes.CDLL(None).prctl(4, 1, 0, 0, 0) == 0",
        by="seccomp tracing",
        says="AssertionError",
        gain=finished,
    ),
]

KERNEL = [
    Attack(
        name="a namespace",
        tries="makes a world of its own, where it would be the superuser",
        program="import ctypes\nassert ctypes.CDLL(None).unshare(0x04000000) == 0",
        by="seccomp kernel surface",
        also=("uid drop",),
        says="SIGSYS",
        gain=finished,
        needs=ROOT,
    ),
    Attack(name="another's namespace", tries="enters another's world", **killed("308, 0, 0")),
    Attack(
        name="a mount", tries="mounts a file system over its folder", **killed("165, 0, b'.', b'tmpfs', 0, 0")
    ),
    Attack(name="a new root", tries="changes what is at the root", **killed("161, b'.'")),
    Attack(name="bpf", tries="loads a program into the kernel", **killed("321, 0, 0, 0")),
    Attack(name="perf", tries="watches other processes' caches", **killed("298, 0, 0, -1, -1, 0")),
    Attack(name="userfaultfd", tries="stops the kernel in the middle of a copy", **killed("323, 0")),
    Attack(name="keys", tries="looks into the kernel's key ring", **killed("250, 0, -3, 0")),
    Attack(name="a module", tries="loads a driver", **killed("313, 0, b'', 0")),
    Attack(name="segments", tries="changes the processor's tables", **killed("154, 1, 0, 0")),
    Attack(
        name="the clock", tries="sets the machine's time", **killed("227, 0, ctypes.create_string_buffer(16)")
    ),
    Attack(
        name="the other interface", tries="makes calls by the numbers of x32", **killed("0x40000000 + 39")
    ),
    Attack(
        name="the old interface",
        tries="makes calls as 32-bit programs do, whose numbers mean others",
        program="""
            import ctypes, mmap
            page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
            page.write(bytes.fromhex('b814000000cd80c3'))
            address = ctypes.addressof(ctypes.c_char.from_buffer(page))
            assert ctypes.CFUNCTYPE(ctypes.c_int)(address)() > 0
            """,
        by="seccomp kernel surface",
        says="SIGSYS|SIGSEGV",
        switched=False,
        needs=X86,
    ),
    Attack(
        name="a filter of its own",
        tries="puts another filter before the one that holds it",
        program="import ctypes\nassert ctypes.CDLL(None).syscall(317, 0, 0, 0) != -1",
        by="seccomp kernel surface",
        says="AssertionError",
        switched=False,
        needs=X86,
    ),
    Attack(
        name="another user",
        tries="becomes the superuser",
        program="import os\nos.setuid(0)",
        by="seccomp kernel surface",
        also=("uid drop",),
        says="PermissionError",
        gain=finished,
        needs=ROOT,
    ),
    Attack(
        name="privileges",
        tries="takes capabilities",
        program="import ctypes\nassert ctypes.CDLL(None).capset(ctypes.create_string_buffer(24), 0) != -1",
        by="seccomp kernel surface",
        says="AssertionError",
        switched=False,
    ),
    Attack(
        name="calls that nobody knows",
        tries="makes every call that a later kernel may have",
        program="""
            import ctypes
            call = ctypes.CDLL(None, use_errno=True).syscall
            for number in range(449, 600):
                if call(number, -1, 0, 0, 0, 0, 0) != -1 or ctypes.get_errno() != 38:
                    print(5)
            """,
        by="seccomp kernel surface",
        outcome="0",
        switched=False,
    ),
]

FAMILIES = {
    "network": NETWORK,
    "files and keys": FILES,
    "other processes' data": PROC,
    "signals and tracing": SIGNALS,
    "kernel": KERNEL,
}

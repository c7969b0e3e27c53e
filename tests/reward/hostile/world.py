"""What attacks are aimed at: keys, sockets, processes and files of the service, all of them real.

A program names a target by a word in capitals, e.g. `open(KEY)`; only what is named is made.
"""

import ctypes
import os
import re
import resource
import secrets
import shutil
import socket
import stat
import subprocess
import tempfile
from contextlib import ExitStack, suppress
from functools import cached_property
from pathlib import Path
from types import TracebackType

from services.reward.sandbox import Sandbox
from tests.reward.hostile.observer import lives

WORD = re.compile(r"\b[A-Z]{3,}\b")


class World:
    """For one attack. A context manager, after which all of it is gone."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._stack = ExitStack()
        self.secret = secrets.token_hex(16)
        self.token = secrets.token_hex(16)

    def __enter__(self) -> "World":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._stack.close()

    def fill(self, program: str) -> str:
        """The program, with its targets."""
        targets = [word for word in dict.fromkeys(WORD.findall(program)) if hasattr(type(self), f"_{word}")]
        return "".join(f"{word} = {getattr(self, f'_{word}')!r}\n" for word in targets) + program

    @cached_property
    def folder(self) -> Path:
        """One that any user may pass through, with files that say themselves who may read them."""
        path = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="hostile-")))
        path.chmod(0o755)
        return path

    # ---- What may be stolen ----

    @cached_property
    def _KEY(self) -> str:
        """A file of the service, for its own eyes."""
        path = self.folder / "key"
        path.write_text(self.secret)
        path.chmod(0o600)
        return str(path)

    @cached_property
    def _NEIGHBOUR(self) -> str:
        """A file in the scratch folder of another guest."""
        folder = self._sandbox._scratch.make(40_001 if os.geteuid() == 0 else None)
        self._stack.callback(shutil.rmtree, folder)
        path = Path(folder, "data")
        path.write_text(self.secret)
        return str(path)

    @cached_property
    def _MEMORY(self) -> tuple[int, int]:
        """Process and address of a secret in the service's memory."""
        self._held = ctypes.create_string_buffer(self.secret.encode())
        return os.getpid(), ctypes.addressof(self._held)

    def lines(self) -> set[int]:
        """Numbers of the sockets of the warm interpreter."""
        assert self._sandbox._warm is not None
        folder = Path(f"/proc/{self._sandbox._warm._process.pid}/fd")
        found = set()
        for link in folder.iterdir():
            with suppress(FileNotFoundError):  # it goes on forking
                found.add(os.readlink(link))
        return {int(name[8:-1]) for name in found if name.startswith("socket:")}

    # ---- What may be reached ----

    @cached_property
    def _UDP(self) -> int:
        return int(self._listen(socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 0)).getsockname()[1])

    @cached_property
    def _TCP(self) -> int:
        return int(self._listen(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0)).getsockname()[1])

    @cached_property
    def _ABSTRACT(self) -> str:
        """Name of a datagram socket."""
        self._listen(socket.AF_UNIX, socket.SOCK_DGRAM, f"\0{self.token}")
        return f"\0{self.token}"

    @cached_property
    def _SOCKET(self) -> str:
        """Path of a stream socket that anybody may write to."""
        path = str(self.folder / "socket")
        self._listen(socket.AF_UNIX, socket.SOCK_STREAM, path)
        os.chmod(path, 0o777)
        return path

    def _listen(self, family: int, kind: int, address: str | tuple[str, int]) -> socket.socket:
        self._listening = self._stack.enter_context(socket.socket(family, kind))
        self._listening.bind(address)
        self._listening.setblocking(False)
        if kind == socket.SOCK_STREAM:
            self._listening.listen()
        return self._listening

    def reached(self) -> bool:
        """Whether anything arrived where it listens."""
        try:
            if self._listening.type == socket.SOCK_DGRAM:
                return bool(self._listening.recv(100))
            self._listening.accept()[0].close()
        except BlockingIOError:
            return False
        return True

    # ---- What may be hurt ----

    @cached_property
    def _VICTIM(self) -> int:
        """A process of the service's user."""
        self._process = subprocess.Popen(["/bin/sleep", "60"], env={})
        self._stack.callback(self._process.wait)
        self._stack.callback(self._process.kill)
        return self._process.pid

    def hurt(self) -> bool:
        """Whether a signal has ended the victim."""
        return not lives(self._process.pid)

    def slowed(self) -> bool:
        """Whether the victim's priority is lower than it was."""
        return os.getpriority(os.PRIO_PROCESS, self._process.pid) == 19

    def bounded(self) -> bool:
        """Whether the victim may open no more files."""
        return resource.prlimit(self._process.pid, resource.RLIMIT_NOFILE) == (1, 1)

    def segment(self, key: int) -> bool:
        """Whether shared memory with this key is there; no longer after this."""
        libc = ctypes.CDLL(None)
        found = libc.shmget(key, 0, 0)
        libc.shmctl(found, 0, None)
        return bool(found >= 0)

    @cached_property
    def _BYSTANDER(self) -> str:
        """A file that anybody may read."""
        path = self.folder / "bystander"
        path.write_text("here")
        path.chmod(0o644)
        return str(path)

    def touched(self) -> bool:
        """Whether that file is another than it was."""
        path = Path(self._BYSTANDER)
        return path.read_text() != "here" or stat.S_IMODE(path.stat().st_mode) != 0o644

    @cached_property
    def _ELSEWHERE(self) -> str:
        """A folder that anybody may write to."""
        path = self.folder / "elsewhere"
        path.mkdir()
        path.chmod(0o777)
        return str(path)

    def left(self) -> bool:
        """Whether there is something in it."""
        return bool(os.listdir(self._ELSEWHERE))

    @cached_property
    def _SUID(self) -> str:
        """A program that runs as the superuser, whoever starts it."""
        path = self.folder / "id"
        shutil.copy(shutil.which("id") or "/usr/bin/id", path)
        path.chmod(0o4755)
        return str(path)

    @cached_property
    def _TOKEN(self) -> str:
        """A word that nobody else knows."""
        return self.token

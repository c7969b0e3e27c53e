"""One process of the stack: what starts it, what it says of itself, how it is ended politely, then for good."""

import asyncio
import contextlib
import ctypes
import json
import os
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from events.platform import State, Verdict

PR_SET_PDEATHSIG = 1
LOG_LIMIT_BYTES = 10 * 1024 * 1024
SECRETS = "REKINDLE_KEY_"
"""Prefix of variables that no child inherits."""

Life = Literal["always", "on demand", "once", "optional"]


class Process(Protocol):
    """A running process, whoever started it."""

    @property
    def pid(self) -> int: ...

    @property
    def returncode(self) -> int | None: ...

    async def wait(self) -> int: ...

    def send_signal(self, signal: int) -> None: ...


@dataclass(frozen=True, slots=True)
class Inherited:
    """What a child gets from its parent."""

    log: int
    listening: int | None
    notify: int | None

    @property
    def passed(self) -> tuple[int, ...]:
        return tuple(fd for fd in (self.listening, self.notify) if fd is not None)

    @property
    def environment(self) -> dict[str, str]:
        fds = {"REKINDLE_SOCKET_FD": self.listening, "REKINDLE_NOTIFY_FD": self.notify}
        return {name: str(fd) for name, fd in fds.items() if fd is not None}


@dataclass(eq=False, slots=True)
class Child:
    """A process of the stack and what is known of it."""

    service: str
    command: list[str]
    log: Path
    name: str = ""
    """Of the service in its platform."""
    environment: dict[str, str] = field(default_factory=dict)
    life: Life = "always"
    parent: str | None = None
    """Name of the warm parent that can start it; None = nobody can."""
    notifies: bool = False
    """It says when it is ready; otherwise it is so once started."""
    listening: socket.socket | None = None
    """The socket that it serves, held here: whoever connects while it is away waits."""
    url: str | None = None
    base_model: str | None = None
    replica: int | None = None
    state: State = "zero"
    process: Process | None = None
    activations: int = 0
    early_exits: int = 0
    """Exits in a row before it was ready."""
    reason: str | None = None
    """Why it starts again."""
    verdict: Verdict | None = None
    """When and why it was last given up."""
    dead: list[str] = field(default_factory=list)
    """Its last processes that have ended, by the name that each went by on the bus."""

    @property
    def pid(self) -> int | None:
        running = self.process is not None and self.process.returncode is None
        return self.process.pid if running and self.process is not None else None

    async def stop(self, patience: float) -> None:
        """SIGTERM, and SIGKILL after `patience` seconds."""
        process = self.process
        if process is None or process.returncode is not None:
            return
        self.state = "stopping"
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(process.wait(), patience)
            except TimeoutError:
                process.send_signal(signal.SIGKILL)
                await process.wait()

    def last_words(self, lines: int = 15) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


async def spawn(child: Child, inherited: Inherited) -> Process:
    """Start it in a session of its own, so that Ctrl-C reaches the supervisor alone."""
    return await asyncio.create_subprocess_exec(
        *child.command,
        env={**_ours(), **child.environment, **inherited.environment},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=inherited.log,
        stderr=inherited.log,
        pass_fds=inherited.passed,
        start_new_session=True,
        preexec_fn=die_with_parent,
    )


def _ours() -> dict[str, str]:
    """Our environment without its secrets: who shall have one is given it."""
    return {name: value for name, value in os.environ.items() if not name.startswith(SECRETS)}


def die_with_parent() -> None:
    """Ask Linux to kill this process when its parent dies; other systems have no such thing.

    Not SIGTERM: nobody is left to insist, and a process may die at any moment without harm.
    """
    if hasattr(ctypes, "CDLL") and os.uname().sysname == "Linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def open_log(log: Path) -> int:
    """A file descriptor to append to; one that has grown large is put aside."""
    log.parent.mkdir(parents=True, exist_ok=True)
    if log.exists() and log.stat().st_size > LOG_LIMIT_BYTES:
        log.replace(log.with_suffix(".log.1"))
    return os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)


async def follow(fd: int, told: Callable[[State, int], None]) -> None:
    """Hear what a process says of itself over its pipe, until that ends; closes `fd`."""
    reader = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(reader)
    pipe = os.fdopen(fd, "rb", buffering=0)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, pipe)
    try:
        async for line in reader:
            said = json.loads(line)
            told(said["state"], said["activations"])
    finally:
        transport.close()

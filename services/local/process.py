"""One child process: started with the parent's death in mind, watched, ended politely, then for good."""

import asyncio
import ctypes
import os
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

State = Literal["zero", "starting", "ready", "stopping", "failed"]
PR_SET_PDEATHSIG = 1
LOG_LIMIT_BYTES = 10 * 1024 * 1024


@dataclass(eq=False, slots=True)
class Child:
    """A process of the stack and what is known of it."""

    service: str
    command: list[str]
    log: Path
    environment: dict[str, str] = field(default_factory=dict)
    health_url: str | None = None
    """Answers 200 when the process is ready, None = ready once started."""
    base_model: str | None = None
    replica: int | None = None
    pass_fds: tuple[int, ...] = ()
    state: State = "zero"
    process: asyncio.subprocess.Process | None = None
    early_exits: int = 0
    """Exits in a row before it was ready."""

    @property
    def name(self) -> str:
        return self.log.stem

    @property
    def pid(self) -> int | None:
        running = self.process is not None and self.process.returncode is None
        return self.process.pid if running and self.process is not None else None

    async def start(self) -> None:
        """Start it in a session of its own, so that Ctrl-C reaches the supervisor alone."""
        self.state = "starting"
        _rotate(self.log)
        with self.log.open("ab") as output:
            self.process = await asyncio.create_subprocess_exec(
                *self.command,
                env={**os.environ, **self.environment},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=self.pass_fds,
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )

    async def stop(self, patience: float) -> None:
        """SIGTERM, and SIGKILL after `patience` seconds."""
        process = self.process
        if process is None or process.returncode is not None:
            return
        self.state = "stopping"
        process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), patience)
        except TimeoutError:
            process.kill()
            await process.wait()

    def last_words(self, lines: int = 15) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


def _die_with_parent() -> None:
    """Ask Linux to kill it when the parent dies; other systems have no such thing.

    Not SIGTERM: nobody is left to insist, and a process may die at any moment without harm.
    """
    if hasattr(ctypes, "CDLL") and os.uname().sysname == "Linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _rotate(log: Path) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    if log.exists() and log.stat().st_size > LOG_LIMIT_BYTES:
        log.replace(log.with_suffix(".log.1"))

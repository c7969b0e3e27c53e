"""One grading process as its parent sees it: lines out, lines in, a clock, an end.

Whatever it prints is read and dropped but for its last words, which say why it died.
"""

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections import deque
from typing import Any

CHUNK = 65536
LAST_WORDS = 4096
"""Bytes of its standard error that are kept."""
SECOND_LOOK = 0.05
"""Seconds."""
DYING_SECONDS = 1.0
"""Between its last word and its end, if it ends by itself."""
KEPT = ("PATH", "LD_LIBRARY_PATH", "PYTHONHOME", "LANG")
"""Variables it is given, none of which is a secret."""


class Process:
    """A child of `services.reward.child`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin and process.stdout and process.stderr, "it was started with pipes"
        self._process = process
        self._stdin, self._stdout, self._stderr = process.stdin, process.stdout, process.stderr
        self._lines: deque[bytes] = deque()
        self._begun = b""
        """A line of which the end has not come."""
        self._printed = b""
        self._reading = asyncio.create_task(self._read_printed())
        self.overran = False
        """Whether it was silent for too long."""
        self.silence = 0.0
        """Seconds for which it said nothing, before its last answer or its end."""

    @classmethod
    async def start(cls, arguments: list[str]) -> "Process":
        """Raises OSError."""
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "services.reward.child", *arguments),
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            cwd="/",
            env=_environment(),
        )
        return cls(process)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def ended(self) -> bool:
        return self._reading.done() and self._process.returncode is not None

    def send(self, line: bytes) -> None:
        """Hand over a line; one that cannot be delivered shows as a missing answer."""
        if not self._stdin.is_closing():
            self._stdin.write(line)

    async def answer(self, seconds: float) -> dict[str, Any] | None:
        """Its next message; None if it died, or said nothing for `seconds` and was killed."""
        begin = time.monotonic()
        # What it has said already needs no clock; and if we were held up ourselves, it may have spoken in time.
        in_time = self._lines or await self._listen(seconds) or await self._listen(SECOND_LOOK)
        self.silence = time.monotonic() - begin
        if not in_time:
            self.overran = True
            self.kill()
        if not self._lines:
            return None
        answer: dict[str, Any] = json.loads(self._lines.popleft())
        return answer

    async def _listen(self, seconds: float) -> bool:
        """Wait for a line or its end; whether one of them came in time."""
        try:
            async with asyncio.timeout(seconds):
                while not self._lines and (chunk := await self._stdout.read(CHUNK)):
                    *lines, self._begun = (self._begun + chunk).split(b"\n")
                    self._lines.extend(lines)
        except TimeoutError:
            return False
        return True

    async def last_words(self) -> str:
        """How it died, once it is dead, and the last line that it printed."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DYING_SECONDS):
                await self._process.wait()
        await self.end()
        code = self._process.returncode
        assert code is not None, "it has ended"
        how = f"died of {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        words = self._printed.decode(errors="replace").strip().rpartition("\n")[2][-200:]
        return f"{how}: {words}" if words else how

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    async def end(self) -> None:
        """Kill it and wait until it is gone."""
        self.kill()
        self._stdin.close()
        await self._process.wait()
        await self._reading

    async def _read_printed(self) -> None:
        while chunk := await self._stderr.read(LAST_WORDS):
            self._printed = (self._printed + chunk)[-LAST_WORDS:]


def _environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path if entry)
    return {**kept, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", "OPENBLAS_NUM_THREADS": "1"}

"""The server that the loop talks to: one that runs already, or the whole stack started here and stopped after.

Promises that a stack started here is gone when the `with` block ends, however it ends. Measures the memory of
everything below this process; of a server elsewhere it knows nothing.
"""

import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import psutil

API_KEY = "tml-local"
"""What a stack that is started here takes."""
START_SECONDS = 120.0
STOP_SECONDS = 30.0


class StackError(RuntimeError):
    """The local stack did not start; the message ends with the last lines of its log."""


class Stack:
    """A Tinker API at `url`, and the peak memory seen so far of this process and its descendants."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.peak_rss_bytes = 0

    def measure(self) -> None:
        """Take one sample of the resident memory; shared pages count once for each process."""
        ours = psutil.Process()
        resident = 0
        for process in [ours, *ours.children(recursive=True)]:
            try:
                resident += process.memory_info().rss
            except psutil.NoSuchProcess:
                continue  # ended between the two calls
        self.peak_rss_bytes = max(self.peak_rss_bytes, resident)


@contextmanager
def running_stack(
    base_url: str | None, base_model: str, data_dir: Path, options: Sequence[str] = ()
) -> Iterator[Stack]:
    """The stack at `base_url`, or `rekindle up` with `base_model` (`[NAME=]DIR_OR_HUB_ID`), `data_dir` emptied."""
    if base_url is not None:
        yield Stack(base_url.rstrip("/"))
        return
    shutil.rmtree(data_dir, ignore_errors=True)  # what an earlier demo left
    data_dir.mkdir(parents=True)
    log = data_dir / "stack.log"
    command = [_rekindle(), "up", "--base-model", base_model, "--data-dir", str(data_dir), "--port", "0"]
    command += options
    with log.open("w", encoding="utf-8") as stderr:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True)
        try:
            yield Stack(_await_ready(process, log))
        finally:
            _stop(process)


def _rekindle() -> str:
    """The command installed beside this interpreter, whatever PATH says."""
    return str(Path(sys.executable).with_name("rekindle"))


def _await_ready(process: subprocess.Popen[str], log: Path) -> str:
    assert process.stdout is not None, "stdout is a pipe"
    # A stack that hangs before it is ready is ended, which ends the reading below.
    watchdog = threading.Timer(START_SECONDS, process.terminate)
    watchdog.start()
    try:
        for line in process.stdout:
            if line.startswith("ready "):
                threading.Thread(target=_drain, args=(process.stdout,), daemon=True).start()
                return line.removeprefix("ready ").strip()
    finally:
        watchdog.cancel()
    process.stdout.close()
    tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-20:])
    raise StackError(f"`{' '.join(map(str, process.args))}` ended before it was ready:\n{tail}")  # type: ignore[arg-type]


def _drain(stdout: IO[str]) -> None:
    """Read on to the end, so that a full pipe never blocks the stack."""
    with stdout:
        for _ in stdout:
            pass


def _stop(process: subprocess.Popen[str]) -> None:
    """Ctrl-C, as a person would; the whole tree is killed only if that does not help."""
    family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    process.send_signal(signal.SIGINT)
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        for child in family:
            if child.is_running():
                child.kill()
        process.wait()

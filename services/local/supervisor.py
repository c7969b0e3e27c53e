"""Parent of the whole stack on one machine: starts it, restarts what dies, takes it along when it goes.

Stateless: everything that matters is in NATS and the blob folder, so `rekindle up` on the same data folder goes
on where it stopped. One supervisor per data folder, by a lock that dies with the process.
"""

import asyncio
import contextlib
import fcntl
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import IO

import httpx
import structlog
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_fixed

from events.bus import Bus
from events.failure import BusUnavailable
from services.local import nats_server, stack
from services.local.process import Child
from services.local.stack import StackOptions

log = structlog.get_logger(__name__)

MAX_EARLY_EXITS = 5
MAX_FIRST_EXITS = 2
"""Of a stack that was never ready: what cannot start shall say so soon."""
STOP_PATIENCE = 10.0
NATS_PATIENCE = 15.0
"""Seconds that NATS may take to answer at the start."""


class StackFailed(Exception):
    """A process could not be started; the message says which and shows its last words."""


class DataDirInUse(Exception):
    """Another supervisor runs on this data folder."""


def lock(data_dir: Path) -> IO[str]:
    """Hold the data folder for the life of the returned file. Raises DataDirInUse."""
    data_dir.mkdir(parents=True, exist_ok=True)
    file = (data_dir / "lock").open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise DataDirInUse(f"{data_dir}: a stack is running on this data folder already") from None
    return file


def listen(host: str, port: int) -> socket.socket:
    """The gateway's socket, held here so that its death refuses no connection. Raises StackFailed."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    held = socket.socket(family, socket.SOCK_STREAM)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Accepted connections inherit it; the gateway's event loop takes an inherited socket for a Unix one and
    # does not set it, and then small answers wait 40 ms for the client's delayed acknowledgement.
    held.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        held.bind((host, port))
    except OSError as error:
        held.close()
        raise StackFailed(f"cannot listen on {host} port {port}: {error.strerror or error}") from error
    held.listen(4096)
    held.set_inheritable(True)
    return held


class Supervisor:
    """Runs the children of one stack."""

    def __init__(self, options: StackOptions) -> None:
        self._options = options
        self._children: list[Child] = []
        self._watchers: list[asyncio.Task[None]] = []
        self._stopping = False
        self._was_ready = False
        self._gave_up = asyncio.Event()

    async def run(self, ready: Callable[[], None], stop: asyncio.Event) -> None:
        """Start everything, call `ready`, and go on until `stop` is set. Raises StackFailed."""
        try:
            await self._start_nats()
            for child in stack.children(self._options):
                self._watch(child)
            await self._until_ready(stop)
            if not stop.is_set():
                self._was_ready = True
                ready()
            await self._until_stopped(stop)
        finally:
            await self._stop_all()

    async def _start_nats(self) -> None:
        """Start the server, unless an outside one is used, and wait for it. Raises StackFailed."""
        child = stack.nats_child(self._options)
        if child is not None:
            await _until_free(nats_server.address(self._options.data_dir).port)
            self._watch(child)
        url = self._options.outside_nats or nats_server.address(self._options.data_dir).url
        try:
            async with asyncio.timeout(NATS_PATIENCE):
                bus = await Bus.connect(url, name="supervisor")
                await bus.ensure_shared_streams()
                await bus.close()
        except (TimeoutError, BusUnavailable) as error:
            said = f":\n{child.last_words()}" if child is not None else " (NATS_URL)"
            raise StackFailed(f"NATS does not answer within {NATS_PATIENCE:.0f} s{said}") from error

    def _watch(self, child: Child) -> None:
        self._children.append(child)
        self._watchers.append(asyncio.create_task(self._keep_alive(child)))

    async def _keep_alive(self, child: Child) -> None:
        """Start the child again whenever it ends, more slowly while it fails at once."""
        while not self._stopping and child.early_exits < self._most_exits:
            await child.start()
            self._write_state()
            assert child.process is not None, "just started"
            healthy = asyncio.create_task(self._until_healthy(child))
            code = await child.process.wait()
            healthy.cancel()
            if self._stopping:
                return
            log.warning("process.ended", process=child.name, code=code, state=child.state)
            child.early_exits = 0 if child.state == "ready" else child.early_exits + 1
            child.state = "starting"
            self._write_state()
            await asyncio.sleep(min(10.0, 0.25 * 2**child.early_exits))
        if not self._stopping:
            child.state = "failed"
            self._write_state()
            self._gave_up.set()

    @property
    def _most_exits(self) -> int:
        return MAX_EARLY_EXITS if self._was_ready else MAX_FIRST_EXITS

    async def _until_healthy(self, child: Child) -> None:
        if child.health_url is not None:
            await _healthy(child.health_url)
        child.state = "ready"
        self._write_state()

    async def _until_ready(self, stop: asyncio.Event) -> None:
        """Wait for all children. Raises StackFailed when one gave up."""
        while not stop.is_set() and any(child.state != "ready" for child in self._children):
            self._check_children()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), 0.05)

    async def _until_stopped(self, stop: asyncio.Event) -> None:
        """Wait for `stop`. Raises StackFailed when a child gave up: nothing shall wait for it for ever."""
        waiting = [asyncio.create_task(event.wait()) for event in (stop, self._gave_up)]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waiting:
                task.cancel()
        if not stop.is_set():
            self._check_children()

    def _check_children(self) -> None:
        failed = next((child for child in self._children if child.state == "failed"), None)
        if failed is not None:
            words = failed.last_words()
            raise StackFailed(f"{failed.name} ended {failed.early_exits} times at its start:\n{words}")

    async def _stop_all(self) -> None:
        """The gateway first, NATS last; nothing is lost whatever the order."""
        self._stopping = True
        for child in self._children:
            child.state = "stopping" if child.pid is not None else child.state
        self._write_state()
        nats = [child for child in self._children if child.service == "nats"]
        others = [child for child in self._children if child.service != "nats"]
        await asyncio.gather(*(child.stop(STOP_PATIENCE) for child in others))
        await asyncio.gather(*(child.stop(STOP_PATIENCE) for child in nats))
        for watcher in self._watchers:
            watcher.cancel()
        await asyncio.gather(*self._watchers, return_exceptions=True)
        state_path(self._options.data_dir).unlink(missing_ok=True)

    def _write_state(self) -> None:
        rows = [_row("supervisor", "ready", os.getpid())]
        rows += [
            _row(child.service, child.state, child.pid, child.base_model, child.replica)
            for child in self._children
        ]
        path = state_path(self._options.data_dir)
        temporary = path.with_suffix(".new")
        temporary.write_text(json.dumps(rows))
        temporary.replace(path)


@retry(
    retry=retry_if_exception_type(StackFailed), wait=wait_fixed(0.1), stop=stop_after_delay(5), reraise=True
)
async def _until_free(port: int) -> None:
    """Wait for a server of a killed supervisor to be gone. Raises StackFailed when another process has the port."""
    try:
        listen("127.0.0.1", port).close()
    except StackFailed as error:
        raise StackFailed(f"NATS: {error}; the port stands in nats.json") from error


class _NotYet(Exception):
    """The process does not answer 200 yet."""


@retry(retry=retry_if_exception_type((_NotYet, httpx.HTTPError)), wait=wait_fixed(0.05))
async def _healthy(url: str) -> None:
    """Return once `url` answers 200."""
    async with httpx.AsyncClient(timeout=2.0, trust_env=False) as client:
        if (await client.get(url)).status_code != 200:
            raise _NotYet


def _row(
    service: str, state: str, pid: int | None, base_model: str | None = None, replica: int | None = None
) -> dict[str, object]:
    return {
        "service": service,
        "base_model": base_model,
        "replica": replica,
        "pid": pid,
        "state": state,
        "activations": 0,
        "rss_bytes": None,
    }


def state_path(data_dir: Path) -> Path:
    return data_dir / "processes.json"

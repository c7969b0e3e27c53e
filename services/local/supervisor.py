"""Parent of the whole stack on one machine: starts it, restarts what dies, takes it along when it goes.

Stateless: everything that matters is in NATS and the blob folder, so `rekindle up` on the same data folder goes
on where it stopped. One supervisor per data folder, by a lock that dies with the process.
"""

import asyncio
import contextlib
import fcntl
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO

import structlog
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_fixed

from events import tasks
from events.bus import Bus
from events.failure import BusUnavailable
from services.local import nats_server, stack
from services.local.keeper import Keeper, StackFailed
from services.local.parents import WarmParent
from services.local.process import Child, spawn
from services.local.stack import StackOptions, listen, state_path

log = structlog.get_logger(__name__)

STOP_PATIENCE = 10.0
NATS_PATIENCE = 15.0
"""Seconds that NATS may take to answer at the start."""


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


class Supervisor:
    """Runs the children of one stack."""

    def __init__(self, options: StackOptions) -> None:
        self._options = options
        self._keepers: list[Keeper] = []
        self._keeping: list[asyncio.Task[None]] = []
        self._parents: dict[str, WarmParent] = {}
        self._changed = asyncio.Event()

    async def run(self, ready: Callable[[], None], stop: asyncio.Event) -> None:
        """Start everything, call `ready`, and go on until `stop` is set. Raises StackFailed."""
        writing = asyncio.create_task(self._write_states())
        try:
            await self._start_nats()
            for child in stack.children(self._options):
                self._keep(child)
            if await self._until_ready(stop):
                ready()
            await self._until_stopped(stop)
        finally:
            await self._stop_all()
            await tasks.end(writing)
            state_path(self._options.data_dir).unlink(missing_ok=True)

    async def _start_nats(self) -> None:
        """Start the server, unless an outside one is used, and wait for it. Raises StackFailed."""
        child = stack.nats_child(self._options)
        if child is not None:
            await _until_free(nats_server.address(self._options.data_dir).port)
            self._keep(child)
        url = self._options.outside_nats or nats_server.address(self._options.data_dir).url
        try:
            async with asyncio.timeout(NATS_PATIENCE):
                bus = await Bus.connect(url, name="supervisor")
                await bus.ensure_shared_streams()
                await bus.close()
        except (TimeoutError, BusUnavailable) as error:
            said = f":\n{child.last_words()}" if child is not None else " (NATS_URL)"
            raise StackFailed(f"NATS does not answer within {NATS_PATIENCE:.0f} s{said}") from error

    def _keep(self, child: Child) -> None:
        if child.service == "warm":
            parent = self._parents[child.name] = WarmParent(child)
            start = parent.start
        else:
            start = self._parents[child.parent].fork if child.parent else spawn
        keeper = Keeper(child, start, self._changed.set)
        self._keepers.append(keeper)
        self._keeping.append(asyncio.create_task(keeper.keep()))

    @property
    def _children(self) -> list[Child]:
        return [keeper.child for keeper in self._keepers]

    async def _until_ready(self, stop: asyncio.Event) -> bool:
        """Wait for all that do not sleep; False when stopped. Raises StackFailed when one gave up."""
        while not stop.is_set() and any(
            child.state != "ready" for child in self._children if child.life in ("always", "once")
        ):
            self._check()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), 0.05)
        for keeper in self._keepers:
            keeper.patient = True
        return not stop.is_set()

    async def _until_stopped(self, stop: asyncio.Event) -> None:
        """Wait for `stop`. Raises StackFailed when a child gave up: nothing shall wait for it for ever."""
        stopping = asyncio.ensure_future(stop.wait())
        while not stop.is_set():
            self._check()
            living = [keeping for keeping in self._keeping if not keeping.done()]
            await asyncio.wait({stopping, *living}, return_when=asyncio.FIRST_COMPLETED)
        await stopping

    def _check(self) -> None:
        """Raises StackFailed when a child gave up."""
        for keeping in self._keeping:
            if keeping.done():
                keeping.result()

    async def _stop_all(self) -> None:
        """NATS and warm parents last; nothing is lost whatever the order."""
        await tasks.end(*self._keeping)
        last = [child for child in self._children if child.service in ("nats", "warm")]
        others = [child for child in self._children if child not in last]
        for some in (others, last):
            await asyncio.gather(*(child.stop(STOP_PATIENCE) for child in some))
        for child in self._children:
            if child.listening is not None and child.life == "on demand":
                child.listening.close()

    async def _write_states(self) -> None:
        """Keep the state file up to date, at most twenty times a second."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            self._write_state()
            await asyncio.sleep(0.05)

    def _write_state(self) -> None:
        rows = [row(Child("supervisor", [], Path("supervisor"), state="ready"), os.getpid())]
        rows += [row(child, child.pid) for child in self._children if child.life != "once"]
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
    except OSError as error:
        raise StackFailed(f"NATS: {error.strerror}; the port stands in nats.json") from error


def row(child: Child, pid: int | None) -> dict[str, object]:
    """What the state file says of a process."""
    return {
        "name": child.name or child.service,
        "service": child.service,
        "base_model": child.base_model,
        "replica": child.replica,
        "replicas": 0 if pid is None else 1,
        "pid": pid,
        "state": "starting" if child.state == "ready" and pid is None else child.state,
        "activations": child.activations,
        "rss_bytes": None,
        "url": child.url,
        "reason": child.reason,
        "dead": child.dead,
        "verdict": None if child.verdict is None else child.verdict.model_dump(mode="json"),
    }

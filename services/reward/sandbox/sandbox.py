"""The sandbox: runs one function in a process of its own that can do next to nothing, and says how it ended.

One warm interpreter a sandbox, started anew when it dies. Every run is a fork of it, with streams and a scratch
folder of its own, under the limits of the run and the mechanisms of `layers`. Limits that are not the kernel's (wall
clock, output, the folder as a whole) are enforced from here by a kill.

Knows nothing about grading.
"""

import asyncio
import itertools
import os
import random
from collections.abc import Sequence
from types import TracebackType

from services.reward.sandbox import bubblewrap, layers, probe, scratch, watch
from services.reward.sandbox.layers import Layer, Level
from services.reward.sandbox.limits import Ended, Limits
from services.reward.sandbox.run import STREAMS, Run
from services.reward.sandbox.warm import SandboxError, Warm
from services.reward.sandbox.wire import MOST_FDS, Order

UIDS = range(40_000, 60_000)
"""Users that guests become: seldom anybody's, and among the 65,536 that a container's user namespace has."""
PRELOAD = ("services.reward.sandbox.attempts",)


class Sandbox:
    """Runs guests, any number at once. An async context manager, bound to the event loop that entered it."""

    def __init__(
        self,
        preload: Sequence[str] = (),
        *,
        floor: Level = Level.CONFINED,
        readable: Sequence[str] = (),
        namespaces: bool | None = None,
        without: frozenset[str] = frozenset(),
    ) -> None:
        """`preload`: modules imported before the forks, which hold the entries and may start no thread.

        `floor`: what must be in force for it to be entered. `readable`: paths that guests may read beside the
        standard library and installed packages. `namespaces`: whether the warm interpreter runs in bubblewrap;
        None: if it can. `without` leaves mechanisms of `layers.MECHANISMS` out, which is for tests only; the floor
        does not demand those. Raises ValueError for an unknown one.
        """
        self._preload = (*PRELOAD, *preload)
        self._floor = floor
        self._readable = tuple(os.path.abspath(path) for path in readable)
        self._without = layers.known(without)
        self._namespaces = namespaces
        self._warm: Warm | None = None
        self._warming = asyncio.Lock()
        self._ids = itertools.count(1)
        first = random.randrange(len(UIDS))  # another sandbox on this machine begins elsewhere
        self._uids = itertools.cycle((*UIDS[first:], *UIDS[:first]))
        self._watched: set[watch.Watched] = set()
        self._lives: set[asyncio.Task[Ended]] = set()
        self.layers: tuple[Layer, ...] = ()
        """What is in force, found by trying when it was entered."""

    async def __aenter__(self) -> "Sandbox":
        """Raises SandboxTooWeak when the kernel gives less than the floor, SandboxError when nothing can start."""
        probe.check_system()
        self._scratch = scratch.Scratch()
        self._watch = asyncio.create_task(watch.watch(self._watched))
        try:
            await self._awake()
            self.layers = await probe.probe(self.attempt)
            await self._scratch.clear_shared()
            probe.check(self.layers, self._floor, self._without)
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        """Kills all guests; returns when they and their folders are gone."""
        if self._warm is not None:
            await self._warm.close()
        await asyncio.gather(*self._lives, return_exceptions=True)
        self._watch.cancel()
        await asyncio.gather(self._watch, return_exceptions=True)
        self._scratch.close()

    async def run(
        self, entry: str, payload: bytes, *, limits: Limits, stdin: bytes = b"", fds: Sequence[int] = ()
    ) -> Ended:
        """Call `entry` ("package.module:function" of a preloaded module) in a guest, wait until that is gone.

        The function is called as `function(payload, report, fds)`: `report` a binary file that only it has, `fds` the
        guest's copies of the descriptors given here. Whatever the guest does is an `Ended`; SandboxError says that
        the sandbox failed, and nothing about the guest. Cancellation kills the guest.
        Raises ValueError for an entry that is not of a preloaded module, and for too many `fds`.
        """
        return await self.attempt(entry, payload, limits, self._without, stdin, fds)

    async def attempt(
        self,
        entry: str,
        payload: bytes,
        limits: Limits,
        without: frozenset[str],
        stdin: bytes = b"",
        fds: Sequence[int] = (),
    ) -> Ended:
        """`run`, with mechanisms of its own left out; for the probe."""
        if entry.partition(":")[0] not in self._preload:
            raise ValueError(f"entry: {entry!r} is not in a preloaded module ({', '.join(self._preload)})")
        if len(fds) > MOST_FDS - STREAMS:
            raise ValueError(f"fds: at most {MOST_FDS - STREAMS}, are {len(fds)}")
        try:
            run = Run(limits, without, stdin, payload, fds)
        except OSError as error:
            raise SandboxError(f"no streams for a guest: {error}") from error
        life = asyncio.create_task(self._live(run, entry))
        self._lives.add(life)
        life.add_done_callback(self._lives.discard)
        try:
            return await asyncio.shield(life)
        except asyncio.CancelledError:
            run.kill("time")
            life.add_done_callback(lambda over: over.cancelled() or over.exception())  # nobody else will ask
            raise

    async def _live(self, run: Run, entry: str) -> Ended:
        try:
            warm = await self._awake()
            uid = next(self._uids) if warm.facts["uids"] and "uid drop" not in run.without else None
            folder = self._scratch.make(uid, shared="private scratch" in run.without)
        except BaseException as error:
            run.streams.give()
            run.streams.close()
            if isinstance(error, OSError):
                raise SandboxError(f"no folder for a guest: {error}") from error
            raise
        order = Order(
            id=next(self._ids),
            entry=entry,
            cpu_seconds=run.limits.cpu_seconds,
            memory_bytes=run.limits.memory_bytes,
            file_bytes=run.limits.file_bytes,
            open_files=run.limits.open_files,
            threads=run.limits.threads,
            scratch=folder,
            uid=uid,
            without=sorted(run.without),
        )
        try:
            return await run.live(warm, order, self._watched)
        finally:
            await self._scratch.clear(folder)

    async def _awake(self) -> Warm:
        """The warm interpreter; a new one if there is none that lives. Raises SandboxError."""
        if self._watch.done():
            raise SandboxError("nobody watches the guests any more") from self._watch.exception()
        async with self._warming:
            if self._warm is None or not self._warm.alive:
                if self._warm is not None:
                    await self._warm.close()
                self._warm = await self._start()
            return self._warm

    async def _start(self) -> Warm:
        environment = dict(os.environ) if "clean environment" in self._without else {}
        wrapper: list[str] = []
        if "namespaces" not in self._without and self._namespaces is not False:
            wrapper = await asyncio.to_thread(bubblewrap.command, self._scratch.path, self._readable)
        if self._namespaces and not wrapper:
            raise SandboxError("namespaces: bubblewrap is not installed, or may not make namespaces here")
        return await Warm.start(self._preload, self._readable, wrapper, environment)

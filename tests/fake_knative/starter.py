"""Starts the processes of pods: the module that the image's entry point is, forked by a parent that has imported it.

A fork is what starting costs here; what a cluster needs to fetch an image and load it is added by the caller. The
services' longest patiences are shorter (tests/chaos/mortal.py), so that what a dead pod had comes back sooner, and the
dispatcher does not pause for longer than a window lasts here: Knative takes no window below six seconds.
"""

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

from services.local.parents import WarmParent
from services.local.process import Child, Inherited, Process, open_log
from tests.chaos import mortal

SAMPLER = ["services.sample.app", "services.sample.torch_engine", "peft"]
PARENTS = {
    "light": [
        "services.gateway.app",
        "services.checkpoint.app",
        "services.data.app",
        "services.reward.app",
        "events.dispatcher.__main__",
        "events.knative",
    ],
    "torch": ["services.train.app", "services.train.register", *SAMPLER],
}


def module_of(container: dict[str, Any]) -> str:
    """What the container runs: its command, or the entry point of its image."""
    if command := container.get("command"):
        module: str = command[command.index("-m") + 1]
        return module
    image = container["image"].rpartition("/")[2].partition(":")[0]
    return "events.dispatcher.__main__" if image == "dispatcher" else f"services.{image}.app"


class Starter:
    """Two warm parents; they and all that they have started end with the thread that made them."""

    def __init__(self, logs: Path, local: dict[str, str]) -> None:
        """`local`: variables that libraries read when they are imported."""
        self._logs = logs
        self._local = local | {"OMP_NUM_THREADS": "1"}
        self._parents: dict[str, WarmParent] = {}
        self._processes: list[Process] = []

    async def open(self) -> None:
        for name, modules in PARENTS.items():
            command = [sys.executable, "-m", mortal.MODULE, *modules]
            child = Child("warm", command, self._logs / f"warm-{name}.log", environment=self._local)
            parent = self._parents[name] = WarmParent(child)
            _, notify = os.pipe()
            self._processes.append(await self._start(parent.start, child, notify))
        for parent in self._parents.values():  # how long imports take is not what a cold start is about
            await parent.warm.wait()

    async def start(self, pod: str, container: dict[str, Any], environment: dict[str, str]) -> Process:
        """A process for a container; its log is called as its service."""
        module = module_of(container)
        parent = next(one for name, one in self._parents.items() if module in PARENTS[name])
        log = self._logs / f"{pod}.log"
        child = Child(pod, [sys.executable, "-m", module], log, name=pod, environment=environment)
        return await self._start(parent.fork, child, None)

    async def _start(self, start: Any, child: Child, notify: int | None) -> Process:
        log = open_log(child.log)
        try:
            process: Process = await start(child, Inherited(log, None, notify))
        finally:
            os.close(log)
            if notify is not None:
                os.close(notify)
        return process

    async def close(self) -> None:
        for process in self._processes:
            process.send_signal(9)
        await asyncio.gather(*(process.wait() for process in self._processes))

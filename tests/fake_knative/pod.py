"""One pod: a container that starts late, is looked at until it is ready, starts again when it dies, and drains.

A pod that shall go takes no more requests, hears SIGTERM after Knative's drain, open requests or not, and SIGKILL
when its grace period, which is the revision's timeoutSeconds, is over (facts of Knative 1.23).
"""

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Callable
from typing import Any

import httpx

from events import tasks
from services.local.process import Process
from tests.fake_knative.gpus import NONE_FREE, Gpus

LOOK_SECONDS = 0.05
BACK_OFF, LONGEST_BACK_OFF = 0.2, 2.0
"""Seconds before a container that has ended starts again; twice as many each time."""


class Pod:
    """A replica at a port of this machine."""

    def __init__(
        self,
        name: str,
        port: int | None,
        start: Callable[[], Awaitable[Process]],
        changed: Callable[[], None],
        gpus: Gpus | None = None,
        needs: int = 0,
    ) -> None:
        """`start` starts the container, which is ready at once if it has no port; `changed` hears when that changes.

        `gpus`: of which it needs so many.
        """
        self.name, self.port = name, port
        self._start, self._changed = start, changed
        self.process: Process | None = None
        self.scheduled = True
        """Not, if there was no GPU when it was made, and still is none."""
        self.ready = False
        self.leaving = False
        self.requests = 0
        """Open at this pod."""
        self.exit_code: int | None = None
        """Of the last container that has ended by itself; None = none has."""
        self._ended = asyncio.Event()
        self._living = asyncio.create_task(self._live(gpus or Gpus(0), needs))

    async def _live(self, gpus: Gpus, needs: int) -> None:
        self.scheduled = gpus.free >= needs
        async with gpus.held(needs):
            self.scheduled = True
            await self._run()

    async def _run(self) -> None:
        wait = BACK_OFF
        while not self._ended.is_set():
            self.process = await self._start()
            looking = asyncio.create_task(self._look())
            code = await self.process.wait()
            await tasks.end(looking)
            self._set_ready(False)
            if self.leaving:
                return
            self.exit_code = code
            self._changed()
            await asyncio.sleep(wait)
            wait = min(LONGEST_BACK_OFF, 2 * wait)

    async def _look(self) -> None:
        """Its readiness probe."""
        if self.port is None:
            return self._set_ready(True)
        url = f"http://127.0.0.1:{self.port}/api/v1/healthz"
        async with httpx.AsyncClient(trust_env=False, timeout=2.0) as http:
            while True:
                with contextlib.suppress(httpx.HTTPError):
                    self._set_ready((await http.get(url)).status_code == 200)
                await asyncio.sleep(10 * LOOK_SECONDS if self.ready else LOOK_SECONDS)

    def _set_ready(self, ready: bool) -> None:
        if ready != self.ready:
            self.ready = ready
            self._changed()

    def send(self, number: signal.Signals) -> bool:
        """A signal from outside, as of the kernel; whether there was a process to hear it."""
        if self.process is None or self.process.returncode is not None:
            return False
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)
            return True
        return False

    def check(self) -> None:
        """Raises what has gone wrong with us, and not with the container."""
        if self._living.done() and not self._living.cancelled():
            self._living.result()

    def object(self, revision: dict[str, Any]) -> dict[str, Any]:
        """As the API server shows it; `revision`: the metadata of that."""
        runs = self.process is not None and self.process.returncode is None
        waits = {"waiting": {"reason": "ContainerCreating" if self.exit_code is None else "CrashLoopBackOff"}}
        ended = {} if self.exit_code is None else {"terminated": {"exitCode": self.exit_code}}
        scheduled = {"status": "True"} if self.scheduled else {"status": "False", "message": NONE_FREE}
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": self.name,
                "namespace": revision["namespace"],
                "labels": {**revision["labels"], "serving.knative.dev/revision": revision["name"]},
                **({"deletionTimestamp": "2026-11-22T10:00:00Z"} if self.leaving else {}),
            },
            "status": {
                "phase": "Running" if runs else "Pending",
                "conditions": [{"type": "PodScheduled", **scheduled}],
                "containerStatuses": [{"name": "user", "state": {} if runs else waits, "lastState": ended}],
            },
        }

    async def leave(self, drain: float, grace: float) -> None:
        """As Kubernetes deletes it; returns when it is gone. What has crashed starts no more."""
        self.leaving = True
        if self.process is None or self.process.returncode is not None:
            return await self.end()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace):
                if self.ready:
                    await asyncio.sleep(drain)  # it is the drain that is simulated
                self.send(signal.SIGTERM)
                await asyncio.shield(self._living)
        await self.end()

    async def end(self) -> None:
        """At once."""
        self.leaving = True
        self._ended.set()
        if self.process is None or self.process.returncode is not None:
            await tasks.end(self._living)
        elif self.send(signal.SIGKILL):
            await self._living

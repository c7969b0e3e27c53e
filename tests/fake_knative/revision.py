"""The one revision of a Knative Service: its pods, how many there shall be, who gets a request, what its status says.

Bounds of scale are read from the Service again and again; any other change of its template is not followed. Which
pods go at scale-down is random: Knative leaves it to the ReplicaSet, which does not know the idle ones.
"""

import asyncio
import contextlib
import functools
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

from services.local.nats_server import free_port
from services.local.process import Process
from tests.fake_knative.pod import Pod
from tests.fake_knative.scaling import Autoscaler, Bounds, seconds

Object = dict[str, Any]
PROGRESS = "serving.knative.dev/progress-deadline"
IDLE = ("False", "NoTraffic", "The target is not receiving traffic.")
QUEUED = ("Unknown", "Queued", "Requests to the target are being buffered as resources are provisioned.")
TIMED_OUT = ("False", "TimedOut", "The target could not be activated.")
UP = ("True", "", "")
Condition = tuple[str, str, str]
"""Status, reason, message."""


class Revision:
    """E.g. `train-tiny-1a2b3c-00001`."""

    def __init__(
        self,
        service: Object,
        start: Callable[[int], Awaitable[Process]],
        *,
        drain: float,
        rng: random.Random,
    ) -> None:
        """`start` starts a container that is to listen at a port."""
        self.service = service
        self.name = f"{service['metadata']['name']}-00001"
        self._start, self._drain, self._rng = start, drain, rng
        self._scaler = Autoscaler()
        self._changed = asyncio.Condition()
        self._telling: set[asyncio.Task[None]] = set()
        self._made: float | None = None
        self._state, self._since_state = (False, False), 0.0
        """Whether pods are wanted and whether one is ready; since when."""
        self.timed_out = False
        """It went to zero because no pod was ready in time."""
        self._since: dict[str, tuple[Condition, str]] = {}
        self.pods: list[Pod] = []
        self.leaving: set[asyncio.Task[None]] = set()
        self.open = 0
        self.arrived = 0
        self.wanted = 0
        self.initialized = False
        self.given_up = False
        """It has not proved in time that it starts."""

    @property
    def template(self) -> Object:
        found: Object = self.service["spec"]["template"]
        return found

    @property
    def concurrency(self) -> int:
        """Requests that a pod takes at once; 0 = any number."""
        return int(self.template["spec"].get("containerConcurrency") or 0)

    @property
    def ready(self) -> list[Pod]:
        return [pod for pod in self.pods if pod.ready]

    # ---- Requests ----

    @contextlib.asynccontextmanager
    async def slot(self, patience: float) -> AsyncIterator[Pod]:
        """A ready pod with room for a request. Raises TimeoutError if for `patience` seconds none is ready."""
        pod = await self._take(patience)
        pod.requests += 1
        try:
            yield pod
        finally:
            pod.requests -= 1
            self._tell()

    async def _take(self, patience: float) -> Pod:
        async with self._changed:
            while (pod := self._free()) is None:
                async with asyncio.timeout(None if self.ready else patience):
                    await self._changed.wait()
            return pod

    def _free(self) -> Pod | None:
        free = [pod for pod in self.ready if not self.concurrency or pod.requests < self.concurrency]
        return min(free, key=lambda pod: pod.requests, default=None)

    def _tell(self) -> None:
        async def tell() -> None:
            async with self._changed:
                self._changed.notify_all()

        task = asyncio.ensure_future(tell())
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)

    # ---- Scale ----

    def scale(self, elapsed: float) -> None:
        """Decide anew, and have as many pods; called again and again, `elapsed` seconds after the last time."""
        now, bounds = time.monotonic(), Bounds.of(self.template)
        load = self.open if bounds.metric == "concurrency" else self.arrived / elapsed
        self.arrived = 0
        decided = max(self._scaler.decide(bounds, load, len(self.pods), now), self._initially(bounds, now))
        self._want(decided, bounds, now)
        for pod in self.pods:
            pod.check()
        while len(self.pods) < self.wanted:
            port = free_port()
            start = functools.partial(self._start, port)
            self.pods.append(Pod(f"{self.name}-{port}", port, start, self._tell))
        while len(self.pods) > self.wanted:
            self.remove(self._rng.choice(self.pods))

    def _want(self, pods: int, bounds: Bounds, now: float) -> None:
        """A target that is being activated goes to zero at its progress deadline, one that is active after a window."""
        if self.wanted and not pods and not self.given_up:
            self.timed_out = not self.ready and now - self._since_state > self._deadline
            kept = not self.timed_out if not self.ready else now - self._since_state < bounds.window
            pods = int(kept)
        state = (pods > 0, bool(self.ready))
        if state != self._state:
            self._state, self._since_state = state, now
        self.timed_out = self.timed_out and not pods
        self.wanted = pods

    @property
    def _deadline(self) -> float:
        return seconds(self.template["metadata"]["annotations"].get(PROGRESS, "600s"))

    def _initially(self, bounds: Bounds, now: float) -> int:
        """Pods by which a new revision proves that it starts; given up when they do not come in time."""
        self._made = self._made or now
        self.initialized = self.initialized or len(self.ready) >= bounds.initial
        self.given_up = not self.initialized and now - self._made > self._deadline
        return 0 if self.initialized or self.given_up else bounds.initial

    def remove(self, pod: Pod) -> None:
        """Delete one pod, in peace; the next decision makes another where one is wanted."""
        self.pods.remove(pod)
        grace = float(self.template["spec"].get("timeoutSeconds", 300))
        task = asyncio.create_task(pod.leave(self._drain, grace))
        self.leaving.add(task)
        task.add_done_callback(self.leaving.discard)

    async def end(self) -> None:
        """All pods at once."""
        for task in list(self.leaving):
            task.cancel()
        await asyncio.gather(*(pod.end() for pod in self.pods))

    # ---- Status ----

    def objects(self) -> tuple[Object, Object]:
        """The Revision and its PodAutoscaler, as the API server shows them."""
        about = {"name": self.name, "namespace": self.service["metadata"]["namespace"]}
        scale = {
            "apiVersion": "autoscaling.internal.knative.dev/v1alpha1",
            "kind": "PodAutoscaler",
            "metadata": {**about, "annotations": {}},
            "spec": {},
            "status": {
                "actualScale": len(self.ready),
                "desiredScale": self.wanted,
                "conditions": [self._condition("Active", self._active())],
            },
        }
        revision = {
            "apiVersion": "serving.knative.dev/v1",
            "kind": "Revision",
            "metadata": {**about, "annotations": {}},
            "spec": {},
            "status": {"conditions": [self._condition("Ready", self._readiness())]},
        }
        return revision, scale

    def status(self, url: str) -> Object:
        """Of the Service."""
        ready = self._readiness()
        name, share = self.name, {"revisionName": self.name, "percent": 100}
        return {
            "url": url,
            "address": {"url": url},
            "latestCreatedRevisionName": name,
            **({"latestReadyRevisionName": name, "traffic": [share]} if self.initialized else {}),
            "conditions": [self._condition("ServiceReady", ready) | {"type": "Ready"}],
        }

    def _active(self) -> Condition:
        if self.given_up or self.timed_out:
            return TIMED_OUT
        if not self.wanted:
            return IDLE
        return UP if self.ready else QUEUED

    def _readiness(self) -> Condition:
        """A crash while no pod is ready counts at once, as Knative counts it."""
        if self.given_up:
            return "False", "ProgressDeadlineExceeded", "Initial scale was never achieved"
        crashed = next((pod.exit_code for pod in self.pods if pod.exit_code is not None), None)
        if self.wanted and not self.ready and crashed is not None:
            code = crashed if crashed >= 0 else 128 - crashed
            return "False", f"ExitCode{code}", f"Container failed with: exit code {code}"
        return UP if self.initialized else ("Unknown", "Deploying", "")

    def _condition(self, kind: str, now: Condition) -> Object:
        """With the moment since which it is so."""
        before, since = self._since.get(kind, (None, ""))
        if before is None or before[0] != now[0]:
            since = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        self._since[kind] = now, since
        status, reason, message = now
        return {
            "type": kind,
            "status": status,
            "lastTransitionTime": since,
            **({"reason": reason} if reason else {}),
            **({"message": message} if message else {}),
        }

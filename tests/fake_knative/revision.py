"""One revision of a Knative Service: its pods, how many there shall be, who gets a request, what its status says.

Its template never changes; bounds of scale that are annotated on the revision itself do. Which pods go at scale-down is
random: Knative leaves it to the ReplicaSet, which does not know the idle ones.
"""

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from events import tasks
from tests.fake_knative.gpus import NONE_FREE
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
Start = Callable[[Object, Callable[[], None]], Pod]


class Revision:
    """E.g. `train-tiny-1a2b3c-00001`."""

    def __init__(self, one: Object, start: Start, *, drain: float, rng: random.Random) -> None:
        """`one` is the object; `start` makes a pod of it, which tells when it has changed."""
        self.object = one
        self.name: str = one["metadata"]["name"]
        self._start, self._drain, self._rng = start, drain, rng
        self._scaler = Autoscaler()
        self._changed = asyncio.Condition()
        self._telling: set[asyncio.Task[None]] = set()
        self._made: float | None = None
        self._state, self._since_state = (False, False), 0.0
        """Whether pods are wanted and whether one is ready; since when."""
        self._since: dict[str, tuple[Condition, str]] = {}
        self._crash: int | None = None
        """Exit code of a pod, until one is ready again: scaling to zero does not make it forgotten."""
        self._timed_out = False
        """It has just gone to zero because no pod was ready in time; Knative says so until it looks again."""
        self.pods: list[Pod] = []
        self.leaving: dict[Pod, asyncio.Task[None]] = {}
        self.open = 0
        self.arrived = 0
        self.wanted = 0
        self.reachable = True
        """Whether the route names it; one that is not keeps no pod for itself."""
        self.initialized = False
        self.given_up = False
        """It has not proved in time that it starts."""

    @property
    def spec(self) -> Object:
        found: Object = self.object["spec"]
        return found

    @property
    def concurrency(self) -> int:
        """Requests that a pod takes at once; 0 = any number."""
        return int(self.spec.get("containerConcurrency") or 0)

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
        now, bounds = time.monotonic(), self._bounds()
        load = self.open if bounds.metric == "concurrency" else self.arrived / elapsed
        self.arrived = 0
        for pod in self.pods:
            pod.check()
        self._notice()
        decided = max(self._scaler.decide(bounds, load, len(self.pods), now), self._initially(bounds, now))
        self._want(decided, bounds, now)
        while len(self.pods) < self.wanted:
            self.pods.append(self._start(self.object, self._tell))
        while len(self.pods) > self.wanted:
            self.remove(self._rng.choice(self.pods))

    def _bounds(self) -> Bounds:
        """Nothing is kept or delayed where no request can come, nor of what has failed."""
        bounds = Bounds.of(self.object)
        return (
            bounds
            if self.reachable and not self.given_up
            else replace(bounds, least=0, delay=0.0, retention=0.0)
        )

    def _notice(self) -> None:
        """A crash while no pod is ready counts at once, as Knative counts it."""
        if self.ready:
            self._crash = None
        else:
            codes = [pod.exit_code for pod in self.pods if pod.exit_code is not None]
            self._crash = codes[0] if codes else self._crash

    def _want(self, pods: int, bounds: Bounds, now: float) -> None:
        """A target that is being activated goes to zero at its progress deadline, one that is active after a window."""
        if self.wanted and not pods and not self.given_up:
            pods = int(now - self._since_state < (bounds.window if self.ready else self._deadline))
        self._timed_out = self.wanted > 0 and not pods and not self.ready
        state = (pods > 0, bool(self.ready))
        if state != self._state:
            self._state, self._since_state = state, now
        self.wanted = pods

    @property
    def _deadline(self) -> float:
        return seconds(self.object["metadata"]["annotations"].get(PROGRESS, "600s"))

    def _initially(self, bounds: Bounds, now: float) -> int:
        """Pods by which a new revision proves that it starts; given up when they do not come in time."""
        self._made = self._made or now
        needed = max(bounds.initial, bounds.least)
        self.initialized = self.initialized or len(self.ready) >= needed
        self.given_up = not self.initialized and now - self._made > self._deadline
        return 0 if self.initialized or self.given_up else needed

    def remove(self, pod: Pod) -> None:
        """Delete one pod, in peace; the next decision makes another where one is wanted."""
        self.pods.remove(pod)
        grace = float(self.spec.get("timeoutSeconds", 300))
        task = self.leaving[pod] = asyncio.create_task(pod.leave(self._drain, grace))
        task.add_done_callback(lambda _: self.leaving.pop(pod))

    async def end(self) -> None:
        """All pods at once."""
        pods = [*self.pods, *self.leaving]
        await tasks.end(*self.leaving.values())
        await asyncio.gather(*(pod.end() for pod in pods))

    # ---- Status ----

    def objects(self) -> list[Object]:
        """The Revision, its PodAutoscaler and its pods, as the API server shows them."""
        about = {key: self.object["metadata"][key] for key in ("name", "namespace", "labels")}
        ready, counts = self._condition("Ready", self.readiness()), (len(self.ready), self.wanted)
        scale = {
            "apiVersion": "autoscaling.internal.knative.dev/v1alpha1",
            "kind": "PodAutoscaler",
            "metadata": about,
            "spec": {},
            "status": {
                **dict(zip(("actualScale", "desiredScale"), counts, strict=True)),
                "conditions": [self._condition("Active", self._active())],
            },
        }
        replicas = dict(zip(("actualReplicas", "desiredReplicas"), counts, strict=True))
        revision = {**self.object, "status": {**replicas, "conditions": [ready]}}
        return [revision, scale, *(pod.object(about) for pod in [*self.pods, *self.leaving])]

    def _active(self) -> Condition:
        if self._timed_out:
            return TIMED_OUT
        if not self.wanted:
            return IDLE
        return UP if self.ready else QUEUED

    def readiness(self) -> Condition:
        if self._crash is not None:
            code = self._crash if self._crash >= 0 else 128 - self._crash
            return "False", f"ExitCode{code}", f"Container failed with: exit code {code}"
        if self.wanted and not self.ready and not any(pod.scheduled for pod in self.pods):
            return "False", "Unschedulable", NONE_FREE
        if self.given_up:
            return "False", "ProgressDeadlineExceeded", "Initial scale was never achieved"
        return UP if self.initialized else ("Unknown", "Deploying", "")

    def _condition(self, kind: str, now: Condition) -> Object:
        """With the moment since which it is so."""
        before, since = self._since.get(kind, (None, ""))
        if before is None or before[0] != now[0]:
            since = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        self._since[kind] = now, since
        return condition(kind, now) | {"lastTransitionTime": since}


def condition(kind: str, now: Condition) -> Object:
    """As it stands in a status; what is empty is left out."""
    status, reason, message = now
    said = {"type": kind, "status": status, "reason": reason, "message": message}
    return {name: text for name, text in said.items() if text}

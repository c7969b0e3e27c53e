"""A cluster with Knative on this machine: it runs what is applied to a simulated API server as real processes.

Knative Services become pods of revisions behind an address of their own, Deployments (here: the dispatcher) and Jobs
become processes; StatefulSets are this machine's NATS server and a folder. What comes of them is written into the API
server's objects, as controllers do. It works in a thread; tests call its methods from their own.
"""

import asyncio
import contextlib
import logging
import random
import signal
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import uvicorn

from events import tasks
from services.local.nats_server import free_port
from services.local.process import Process
from services.local.stack import listen
from tests.cluster.api_server import ApiServer, Key
from tests.fake_knative import variables
from tests.fake_knative.gpus import Gpus, asked_for
from tests.fake_knative.pod import Pod
from tests.fake_knative.revision import Object, Revision
from tests.fake_knative.service import Service
from tests.fake_knative.starter import Starter

T = TypeVar("T")
SERVING = "serving.knative.dev/v1"
NAMESPACE = "rekindle"
TICK = 0.1
WAIT = 120.0


@dataclass(frozen=True, slots=True)
class Times:
    """What Knative, nodes and registries take, in seconds."""

    cold: float = 0.8
    """Until the process of a new pod starts: an image to fetch, a node to find."""
    patience: float = 0.3
    """How long a request is held while no replica is ready."""
    drain: float = 0.5
    """From the deletion of a pod to SIGTERM; 30 s in a cluster."""


@dataclass
class Served:
    """A Knative Service and what answers for it."""

    service: Service
    url: str
    server: uvicorn.Server
    serving: "asyncio.Task[None]"


@dataclass
class FakeKnative:
    """`running` makes one that works."""

    api: ApiServer
    local: dict[str, str]
    """Variables that hold for all processes of this machine."""
    folder: Path
    times: Times = field(default_factory=Times)
    gpus: Gpus = field(default_factory=lambda: Gpus(0))
    rng: random.Random = field(default_factory=lambda: random.Random(0))
    served: dict[str, Served] = field(default_factory=dict)
    plain: dict[str, list[Pod]] = field(default_factory=dict)
    """Pods of Deployments."""
    jobs: set[str] = field(default_factory=set)
    """Names of Jobs that have been done."""

    def __post_init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._starter = Starter(self.folder / "logs", self.local)
        self._stop = asyncio.Event()
        self._failure: BaseException | None = None
        self._jobs: dict[str, asyncio.Task[None]] = {}
        self._shown: dict[str, set[Key]] = {}
        """By service: its revisions and their pods, as the API server has them."""
        self._thread = threading.Thread(target=self._work)

    # ---- For tests, from their thread ----

    def until(self, true: Callable[[], bool], what: str, seconds: float = WAIT) -> None:
        """Wait for what happens in the cluster."""
        deadline = time.monotonic() + seconds
        while not true():
            if self._failure is not None:
                raise AssertionError("the fake has failed") from self._failure
            assert time.monotonic() < deadline, f"not so after {seconds:.0f} s: {what}"
            time.sleep(0.02)

    def call(self, work: Callable[[], T]) -> T:
        """Do something within the cluster's thread."""

        async def run() -> T:
            return work()

        return self._submit(run()).result(WAIT)

    def pods(self, name: str) -> list[Pod]:
        """Living ones of a Knative Service or Deployment."""
        found = self.served.get(name)
        return found.service.pods if found else list(self.plain.get(name, []))

    def kill(self, name: str) -> bool:
        """SIGKILL a pod, as the kernel does that runs out of memory; whether there was one."""
        pods = [pod for pod in self.pods(name) if pod.ready or name in self.plain]
        return bool(pods) and self.call(lambda: self.rng.choice(pods).send(signal.SIGKILL))

    def evict(self, name: str) -> bool:
        """Delete a ready pod, as a node that is drained does."""
        pods = [pod for pod in self.pods(name) if pod.ready]
        if not pods:
            return False
        self.call(lambda: self.served[name].service.remove(self.rng.choice(pods)))
        return True

    def break_off(self, name: str) -> bool:
        """Break an open request of a service off."""
        return self.call(self.served[name].service.break_one)

    def add_gpu(self) -> None:
        """A node joins."""
        self._submit(self.gpus.add(1)).result(WAIT)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End all processes. Raises what has gone wrong."""
        with contextlib.suppress(RuntimeError):  # it has ended by itself
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(WAIT)
        if self._failure is not None:
            raise self._failure

    # ---- In its own thread ----

    def _submit(self, work: Coroutine[Any, Any, T]) -> "Future[T]":
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def _work(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._run())
        except BaseException as error:  # noqa: BLE001 - raised again by who waits
            self._failure = error
        finally:
            self._loop.close()

    async def _run(self) -> None:
        try:
            await self._starter.open()
            last = time.monotonic()
            while not self._stop.is_set():
                with self.api.changed:
                    found = {key: one.object for key, one in self.api.objects.items()}
                await self._follow(found)
                now = time.monotonic()
                for name, served in self.served.items():
                    served.service.scale(max(now - last, 1e-3))
                    self._report(name, served)
                last = now
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(TICK):
                        await self._stop.wait()
        finally:
            await self._end()

    async def _follow(self, found: dict[Key, Object]) -> None:
        """Run what has been applied."""
        services = {key.name: one for key, one in found.items() if key[:2] == (SERVING, "services")}
        for name, one in services.items():
            if name not in self.served:
                self.served[name] = await self._serve(name)
            self._annotate(self.served[name].service, found)
            self.served[name].service.follow(one)
        for name in self.served.keys() - services.keys():
            await self._unserve(self.served.pop(name))
            with self.api.changed:
                for key in self._shown.pop(name):
                    self.api.delete(key)
        for key, one in found.items():
            if key[:2] == ("apps/v1", "deployments"):
                await self._deploy(key.name, one)
            if key[:2] == ("batch/v1", "jobs") and key.name not in self._jobs and "register" in key.name:
                self._jobs[key.name] = asyncio.create_task(self._do_job(key.name, one))

    def _annotate(self, service: Service, found: dict[Key, Object]) -> None:
        """Whoever annotates a revision itself changes its bounds in place."""
        for name, revision in service.revisions.items():
            key = Key(SERVING, "revisions", NAMESPACE, name)
            revision.object = found.get(key, revision.object)

    async def _serve(self, name: str) -> Served:
        service, held = Service(name, self._revision, self.times.patience, self.rng), listen("127.0.0.1", 0)
        server = uvicorn.Server(
            uvicorn.Config(service, lifespan="off", log_config=None, access_log=False, ws="none")
        )
        url = f"http://127.0.0.1:{held.getsockname()[1]}"
        return Served(service, url, server, asyncio.create_task(server.serve(sockets=[held])))

    def _revision(self, one: Object) -> Revision:
        return Revision(one, self._pod, drain=self.times.drain, rng=self.rng)

    def _pod(self, revision: Object, changed: Callable[[], None]) -> Pod:
        port, name = free_port(), revision["metadata"]["name"]
        service = revision["metadata"]["labels"]["serving.knative.dev/service"]
        return Pod(
            f"{name}-{port}",
            port,
            lambda: self._start(service, revision, port),
            changed,
            self.gpus,
            asked_for(revision),
        )

    async def _unserve(self, served: Served) -> None:
        await served.service.end()
        served.server.should_exit = True
        await served.serving

    async def _start(self, name: str, template: Object, port: int, cold: float | None = None) -> Process:
        await asyncio.sleep(self.times.cold if cold is None else cold)  # the cold start that is simulated
        local = self.local | {"REKINDLE_HOST": "127.0.0.1", "REKINDLE_PORT": str(port)}
        found = variables.variables(self.api, NAMESPACE, template, local)
        found = variables.mounted(
            self.api, NAMESPACE, template, found, self.folder / "volumes" / f"{name}-{port}"
        )
        return await self._starter.start(name, template["spec"]["containers"][0], found)

    async def _deploy(self, name: str, one: Object) -> None:
        """As many pods as it asks for; they have no probe."""
        pods, template = self.plain.setdefault(name, []), one["spec"]["template"]
        for job in self._jobs.values():
            if job.done():
                job.result()
        for pod in pods:
            pod.check()
        while len(pods) < one["spec"].get("replicas", 1):
            pods.append(Pod(name, None, lambda: self._start(name, template, 1, cold=0.0), lambda: None))
        while len(pods) > one["spec"].get("replicas", 1):
            await pods.pop().leave(0.0, 5.0)

    async def _do_job(self, name: str, one: Object) -> None:
        for _ in range(one["spec"]["backoffLimit"] + 1):
            process = await self._start(name, one["spec"]["template"], 1, cold=0.0)
            if await process.wait() == 0:
                break
            await asyncio.sleep(0.5)  # its back-off
        else:
            raise AssertionError(f"job {name} has failed")
        self.jobs.add(name)

    def _report(self, name: str, served: Served) -> None:
        """Write status into the API's objects, where it has changed; pods that are gone leave."""
        revisions, status = served.service.revisions.values(), served.service.status(served.url)
        with self.api.changed:
            shown = {self.api.key_of(one): one for revision in revisions for one in revision.objects()}
            for key, one in shown.items():
                self._write_status(key, one["status"], one)
            for key in self._shown.get(name, set()) - shown.keys():
                self.api.delete(key)
            self._shown[name] = set(shown)
            self._write_status(Key(SERVING, "services", NAMESPACE, name), status)

    def _write_status(self, key: Key, status: Object, new: Object | None = None) -> None:
        """Of an object that is there, or else is `new`."""
        stored = self.api.objects.get(key)
        one = new if stored is None else stored.object
        if one is not None and (stored is None or one.get("status") != status):
            self.api.put({**one, "status": status}, "knative")

    async def _end(self) -> None:
        await tasks.end(*self._jobs.values())
        await asyncio.gather(*(pod.end() for pods in self.plain.values() for pod in pods))
        await asyncio.gather(*(self._unserve(served) for served in self.served.values()))
        await self._starter.close()


@contextlib.contextmanager
def running(
    api: ApiServer, local: dict[str, str], folder: Path, times: Times, gpus: int = 0
) -> Iterator[FakeKnative]:
    """A cluster that runs what the API server holds, until the block ends."""
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # answers that are cut off are meant to be
    fake = FakeKnative(api, local, folder, times, Gpus(gpus))
    fake.start()
    try:
        yield fake
    finally:
        fake.stop()

"""A Knative Service whose containers belong to the test: ready at once, and they hold requests as they are told.

For what a cluster does with revisions, which no service of ours need be started for.
"""

import asyncio
import contextlib
import random
import signal
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx

from events.platform import ServiceStatus
from events.revisions import Cluster, status_of
from rekindle.cluster.reasons import reasons
from services.local.nats_server import free_port
from tests.fake_knative.gpus import Gpus, asked_for
from tests.fake_knative.pod import Pod
from tests.fake_knative.revision import Object, Revision
from tests.fake_knative.service import Service

SCALING = "autoscaling.knative.dev/"
BRIEF = {
    f"{SCALING}window": "0.3s",
    f"{SCALING}scale-down-delay": "0s",
    f"{SCALING}scale-to-zero-pod-retention-period": "0s",
    "serving.knative.dev/progress-deadline": "1s",
}
WAIT = 30.0


class Container:
    """A process of a pod; to `/held` it answers after `let_go`, and to all else at once, by the revision's name."""

    def __init__(self, revision: str, let_go: asyncio.Event) -> None:
        self.pid, self.returncode = 0, None  # type: int, int | None
        self._revision, self._let_go = revision, let_go
        self._held, self._ended = 0, asyncio.Event()
        self._stopping = False

    async def start(self, port: int) -> "Container":
        self._server = await asyncio.start_server(self._answer, "127.0.0.1", port)
        return self

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            if b" /held " in head:
                self._held += 1
                await self._let_go.wait()
                self._held -= 1
            body = self._revision.encode()
            writer.write(b"HTTP/1.1 200 x\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
            await writer.drain()
        writer.close()
        self._end_if_done()

    def _end_if_done(self) -> None:
        if self._stopping and not self._held:
            self.end(0)

    def end(self, code: int) -> None:
        self.returncode = code
        self._server.close()
        self._ended.set()

    def send_signal(self, number: int) -> None:
        if number == signal.SIGKILL:
            return self.end(-number)
        self._stopping = True
        self._end_if_done()

    async def wait(self) -> int:
        await self._ended.wait()
        assert self.returncode is not None
        return self.returncode


class Lab:
    """One Service, as `kn` and its clients see it."""

    def __init__(self, one: Object, gpus: int = 0) -> None:
        """`one`: a Service; what Knative counts in minutes is made brief."""
        self.object = one
        one["metadata"]["generation"] = 1
        one["spec"]["template"]["metadata"]["annotations"] |= BRIEF
        self.gpus = Gpus(gpus)
        self.let_go = asyncio.Event()
        self.broken: set[str] = set()
        """Revisions that do not start."""
        rng = random.Random(0)
        self.service = Service(
            one["metadata"]["name"],
            lambda made: Revision(made, self._pod, drain=0.0, rng=rng),
            patience=WAIT,
            rng=rng,
        )
        self._last = time.monotonic()

    def _pod(self, revision: Object, changed: Callable[[], None]) -> Pod:
        port, name = free_port(), revision["metadata"]["name"]

        async def start() -> Any:
            container = await Container(name, self.let_go).start(port)
            if name in self.broken:
                container.end(1)
            return container

        return Pod(f"{name}-{port}", port, start, changed, self.gpus, asked_for(revision))

    # ---- For tests ----

    def kn(self, image: str = "", traffic: dict[str, int] | None = None, **scaling: str) -> None:
        """`kn service update`."""
        template = self.object["spec"]["template"]
        stamp = {"client.knative.dev/updateTimestamp": str(self.object["metadata"]["generation"])}
        annotations = {f"{SCALING}{name.replace('_', '-')}": value for name, value in scaling.items()}
        container = template["spec"]["containers"][0]
        if image or scaling:
            about = template["metadata"] | {
                "annotations": template["metadata"]["annotations"] | stamp | annotations
            }
            containers = [container | {"image": image or container["image"]}]
            template = {"metadata": about, "spec": template["spec"] | {"containers": containers}}
        if traffic is not None:
            self.object["spec"]["traffic"] = [
                {"latestRevision": True, "percent": percent}
                if name == "@latest"
                else {"revisionName": self.name(name), "percent": percent}
                for name, percent in traffic.items()
            ]
        self.object["spec"]["template"] = template
        self.object["metadata"]["generation"] += 1

    def name(self, number: str) -> str:
        """Of a revision by its number: `00001`."""
        return f"{self.service.name}-{number}"

    async def until(self, true: Callable[[], bool], what: str) -> None:
        """Let the cluster work until something has happened."""
        deadline = time.monotonic() + WAIT
        while not true():
            assert time.monotonic() < deadline, f"not so: {what}; {self.status['conditions']}"
            self.service.follow(self.object)
            now = time.monotonic()
            self.service.scale(max(now - self._last, 1e-3))
            self._last = now
            await asyncio.sleep(0.003)

    async def get(self, path: str = "/", host: str = "x") -> str:
        """Which revision answers, while the cluster works."""
        transport = httpx.ASGITransport(self.service)
        async with httpx.AsyncClient(transport=transport, base_url=f"http://{host}", timeout=WAIT) as http:
            asked = asyncio.create_task(http.get(path))
            try:
                await self.until(asked.done, f"{path} is answered")
            finally:
                asked.cancel()  # if whoever asked has been cancelled
        assert asked.result().status_code == 200, asked.result().text
        return asked.result().text.removeprefix(f"{self.service.name}-")

    @contextlib.asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """A request is open within the block, and has reached its pod."""
        transport = httpx.ASGITransport(self.service)
        async with httpx.AsyncClient(transport=transport, base_url="http://x", timeout=WAIT) as http:
            asked = asyncio.create_task(http.get("/held"))
            await self.until(lambda: any(pod.requests for pod in self.service.pods), "it is held")
            yield
            self.let_go.set()
            await self.until(asked.done, "it is answered")
            self.let_go.clear()

    @property
    def status(self) -> Object:
        return self.service.status("http://x")

    @property
    def condition(self) -> str:
        """Whether the Service is ready."""
        found: str = self.status["conditions"][0]["status"]
        return found

    def pods(self, number: str) -> int:
        """Ready ones of a revision."""
        return len(self.service.revisions[self.name(number)].ready)

    def objects(self, kind: str) -> list[Object]:
        found = [one for revision in self.service.revisions.values() for one in revision.objects()]
        return [one for one in found if one["kind"] == kind]

    def reasons(self) -> str:
        """What `rekindle status` says of it."""
        service = {**self.object, "status": self.status}
        return "\n".join(reasons(service, self.objects("Revision"), self.objects("Pod"), []))

    @property
    def fares(self) -> ServiceStatus:
        """What the dispatcher says of it."""
        by_name = {
            kind: {one["metadata"]["name"]: one for one in self.objects(kind)}
            for kind in ("Revision", "PodAutoscaler")
        }
        service = {**self.object, "status": self.status}
        return status_of(service, Cluster((service,), by_name["Revision"], by_name["PodAutoscaler"]))


@contextlib.asynccontextmanager
async def lab(one: Object, gpus: int = 0) -> AsyncIterator[Lab]:
    """A Service that is ready."""
    made = Lab(one, gpus)
    await made.until(lambda: bool(made.service.latest_ready), "the first revision is ready")
    yield made
    await made.service.end()

"""The reward service as processes of their own: a gateway and two replicas around a real NATS server.

The replicas have no more rights than in a cluster: those of their own user of NATS, as the manifests give them, and
another store than the gateway's for payloads.
"""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from events import catalog, envelope, names
from events.bus import Bus
from events.streams import FACTS, REWARD
from rekindle.types.rewards import ScoreResponse
from services.local import nats_server
from tests import lent_nats

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 120.0
QUICK_DELIVERY = "from events import worker; worker.ACK_WAIT = 1.0; "


class Rig:
    """Processes around one NATS server."""

    def __init__(self, folder: Path, replicas: int = 2) -> None:
        self.folder = folder
        self.lent = lent_nats.made(folder / "nats")
        self.nats_url = self.lent.url("rekindle-nats")
        self.lent.process.start()
        self.opener = subprocess.Popen([sys.executable, "-m", "tests.reward.opener", self.nats_url], cwd=ROOT)
        self.gateway, url = self.start("gateway")
        started = [self.start("reward", REKINDLE_GRADERS="1") for _ in range(replicas)]
        self.replicas, self.urls = [process for process, _ in started], [url for _, url in started]
        self.http = httpx.Client(base_url=f"{url}/api/v1", trust_env=False, timeout=60)

    def start(self, service: str, **variables: str) -> tuple[subprocess.Popen[bytes], str]:
        """A service that is ready, and its URL."""
        port = nats_server.free_port()
        environment = {
            **os.environ,
            "PYTHONPATH": f"{ROOT}:{ROOT / 'sdk'}",
            "NATS_URL": self.nats_url,
            "REKINDLE_BLOBS": str(self.folder / ("nothing" if service == "reward" else "blobs")),
            "REKINDLE_REWARD_BLOBS": str(self.folder / "reward-blobs"),
            "REKINDLE_PORT": str(port),
            **(self.lent.of_reward if service == "reward" else {}),
            **variables,
        }
        program = f"{QUICK_DELIVERY}from services.{service}.app import main; main()"
        with (self.folder / f"{service}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-c", program], env=environment, stdout=log, stderr=log
            )
        url = f"http://127.0.0.1:{port}"
        wait_for(lambda: healthy(url) or process.poll() is not None)
        assert process.poll() is None, (self.folder / f"{service}.log").read_text()
        return process, url

    def post(self, **body: Any) -> httpx.Response:
        return self.http.post("/rewards/score", json=body)

    def submit(self, **body: Any) -> str:
        answer = self.post(**body)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["request_id"])

    def result(self, request_id: str) -> ScoreResponse:
        return ScoreResponse.model_validate_json(self.answer(request_id))

    def answer(self, request_id: str) -> bytes:
        """What a future resolves to."""
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            answer = self.http.post("/retrieve_future", json={"request_id": request_id})
            if answer.status_code != 408:
                assert answer.status_code == 200, answer.text
                return answer.content
        raise AssertionError("no result in time")

    def facts(self, request_id: str, type_: str = catalog.ROLLOUT_SCORED) -> list[dict[str, Any]]:
        """Every `rollout.scored` of a request, as often as it is stored; or the facts of another type."""

        async def read() -> list[dict[str, Any]]:
            bus = await Bus.connect(self.nats_url, name="test")
            subject = names.fact_subject("local", type_)
            found = [envelope.json_of(stored.event) async for stored in bus.walk(FACTS, subject)]
            await bus.close()
            return [fact for fact in found if fact["request"] == request_id.rpartition(":")[0]]

        return asyncio.run(read())

    def queued(self) -> list[str]:
        """Subjects of the shards that are not done."""

        async def read() -> list[str]:
            bus = await Bus.connect(self.nats_url, name="test")
            found = await bus.subjects(REWARD, "reward.>")
            await bus.close()
            return list(found)

        return asyncio.run(read())

    def close(self) -> None:
        self.http.close()
        for process in (*self.replicas, self.gateway, self.opener):
            process.terminate()
        for process in (*self.replicas, self.gateway, self.opener):
            process.wait(30)
        self.lent.process.stop()


@contextmanager
def running_rig(folder: Path, replicas: int = 2) -> Iterator[Rig]:
    """One that is ended with the block."""
    rig = Rig(folder, replicas)
    try:
        yield rig
    finally:
        rig.close()


def item(completion: str, sequence: str | None = None, **columns: Any) -> dict[str, Any]:
    name = sequence or f"session:sample:0:{completion[:40]}"
    return {"prompt": "", "completion": completion, "columns": columns, "sequence_id": name}


def healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url}/api/v1/healthz", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def wait_for(condition: Any) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.05)

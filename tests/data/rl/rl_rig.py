"""All services as processes over a real NATS server, for RL runs: the data service can be killed and started again.

Deliveries of who died come back within a second, and trainer and sampler are deterministic.
"""

import asyncio
import json
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from events import blob_keys
from events.bus import Bus
from events.streams import RESULTS, REWARD, SAMPLE, SCORES
from tests.data.lab import ROOT, Lab, Service
from tests.events.nats_process import NatsProcess

QUICK_DELIVERY = "from events import worker; worker.ACK_WAIT = 1.0; "
BASE = "tiny"
KINDS = ("gateway", "data", "reward", "checkpoint", "train", "sample")
QUESTIONS = [f"User: What is {x} + {y}?\n\nAssistant:" for x in range(10) for y in range(4)]
Json = dict[str, Any]


def spec(dataset: str, **changed: Any) -> Json:
    """A run whose reward is whether the first token of an answer is a digit."""
    return {
        "base_model": BASE,
        "lora": {"rank": 8},
        "dataset": {"name": dataset},
        "prompt": "{question}",
        "grader": {"type": "regex", "params": {"pattern": r"^ ?\d"}},
        "algorithm": {"type": "rloo"},
        "groups": 4,
        "group_size": 8,
        "steps": 5,
        "sampling": {"max_tokens": 2},
        "optimizer": {"learning_rate": 5e-3},
        "max_staleness": 0,
    } | changed


class Rig(Lab):
    """A client of RL runs."""

    services: Mapping[str, Service]
    """By kind."""

    def counted(self, kind: str, name: str) -> float:
        """A metric of a service, over all labels."""
        url = self.services[kind].url.removesuffix("/api/v1")
        said = httpx.get(f"{url}/metrics", trust_env=False, timeout=60).text
        return sum(
            sample.value
            for family in text_string_to_metric_families(said)
            for sample in family.samples
            if sample.name == name
        )

    def start(self, spec: Json, **headers: str) -> Json:
        answer = self.http.post("rl_runs", json=spec, headers=headers)
        assert answer.status_code == 200, answer.text
        found: Json = answer.json()
        return found

    def info(self, run_id: str) -> Json:
        answer = self.http.get(f"rl_runs/{run_id}")
        assert answer.status_code == 200, answer.text
        found: Json = answer.json()
        return found

    def rows_of(self, run_id: str, after: int = -1) -> list[Json]:
        answer = self.http.get(f"rl_runs/{run_id}/metrics", params={"after": after})
        assert answer.status_code == 200, answer.text
        rows: list[Json] = answer.json()["rows"]
        return rows

    def say(self, run_id: str, word: str) -> Json:
        answer = self.http.post(f"rl_runs/{run_id}/{word}")
        assert answer.status_code == 200, answer.text
        found: Json = answer.json()
        return found

    def until(self, run_id: str, holds: Callable[[Json], bool], seconds: float = 60.0) -> Json:
        """Where the run stands once that holds."""
        deadline = time.monotonic() + seconds
        while not holds(info := self.info(run_id)):
            assert time.monotonic() < deadline, f"{info}: {self.data.said()}"
            time.sleep(0.02)
        return info

    def until_over(self, run_id: str) -> Json:
        return self.until(run_id, lambda info: info["phase"] not in ("running", "paused"))

    def dataset(self) -> str:
        """A fresh one."""
        name = f"sums-{uuid.uuid4().hex[:8]}"
        rows = "".join(json.dumps({"question": question}) + "\n" for question in QUESTIONS)
        self.upload(rows.encode(), name)
        return name

    def samplers(self) -> list[str]:
        """Records of those that are open."""
        return [one for one in self.left()[1] if one.startswith("record.sampler.")]

    def expire_results(self) -> None:
        """As if they had been kept for their time, which is a day: by then all that was queued is done."""
        asyncio.run(self._expire_results())

    async def _expire_results(self) -> None:
        bus = await Bus.connect(self.nats_url, name="expiry")
        try:
            for queue in (SAMPLE, REWARD):
                while await bus.subjects(queue, ">"):  # noqa: ASYNC110 - nothing tells
                    await asyncio.sleep(0.02)
            await bus.purge(RESULTS, "result.>")
            await bus.purge(SCORES, "rewards.result.>")
        finally:
            await bus.close()

    def adapter(self, run_id: str) -> bytes:
        """The weights in the newest checkpoint of a run."""
        return self.adapter_file(run_id).read_bytes()

    def adapter_file(self, run_id: str) -> Path:
        path = self.info(run_id)["checkpoint"].removeprefix("tinker://")
        training_run, kind, name = path.split("/")
        folder = self.blobs / blob_keys.run_folder(BASE, "local", training_run) / kind
        file: Path
        (file,) = folder.glob(f"{name}-*/*/adapter_model.safetensors")
        return file


@contextmanager
def opened(
    folder: Path, model: Path, preludes: Mapping[str, str] = MappingProxyType({}), **variables: str
) -> Iterator[Rig]:
    """`preludes` by service: what runs before its program; `variables` join the environment."""
    nats = NatsProcess(folder / "nats")
    nats.start()
    blobs = folder / "blobs"
    environment = {
        "NATS_URL": nats.url,
        "REKINDLE_BLOBS": str(blobs),
        "REKINDLE_GRACE_SECONDS": "5",
        "REKINDLE_BASE_NAME": BASE,
        "REKINDLE_BASE_SOURCE": str(model),
        "REKINDLE_DETERMINISTIC": "true",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": f"{ROOT}:{ROOT / 'sdk'}",
    } | variables
    services = {
        kind: Service(kind, folder, environment, QUICK_DELIVERY + preludes.get(kind, "")) for kind in KINDS
    }
    rig = Rig(nats.url, blobs, services["gateway"], services["data"])
    rig.services = services
    try:
        with ThreadPoolExecutor(len(KINDS)) as pool:
            list(pool.map(Service.start, services.values()))
        yield rig
    finally:
        rig.http.close()
        for service in services.values():
            if service.process is not None:
                service.end()
        nats.stop()

"""A data service and a gateway as processes over a real NATS, a client of theirs, and a look at what they leave."""

import asyncio
import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil

from events import names
from events.bus import Bus
from events.streams import DATA, RECORDS, RL
from services.local import nats_server
from tests.events.nats_process import NatsProcess

ROOT = Path(__file__).resolve().parents[2]
PART = 64 * 1024
SECONDS = 90.0
START_SECONDS = 180.0
"""Until a service is well; some import torch."""
EXPIRY = 3600.0
QUICK = "from events import worker; worker.ACK_WAIT = 2.0; "
"""So that what a killed service had in hand comes back soon."""
Json = dict[str, Any]


class Failed(Exception):
    """A future that failed; its text says `<category>: <message>`."""


class Service:
    """One process of the lab; started again, it comes back on its port."""

    def __init__(self, name: str, folder: Path, environment: dict[str, str], prelude: str = "") -> None:
        """prelude: Python that runs before its program."""
        self._name, self._log = name, folder / f"{name}.log"
        self._program = f"{prelude}from services.{name}.app import main; main()"
        self.port = nats_server.free_port()
        self.url = f"http://127.0.0.1:{self.port}/api/v1"
        self._environment = os.environ | environment | {"REKINDLE_PORT": str(self.port)}
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, **variables: str) -> None:
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", self._program],
                stdout=log,
                stderr=log,
                cwd=ROOT,
                env=self._environment | variables,
            )
        wait_until(self._is_well, f"{self._name} is not well", START_SECONDS)

    def _is_well(self) -> bool:
        assert self.process is not None and self.process.poll() is None, self.said()
        try:
            return httpx.get(f"{self.url}/healthz", trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    def said(self) -> str:
        return self._log.read_text(errors="replace")[-4000:]

    def end(self, number: int = signal.SIGTERM) -> None:
        assert self.process is not None, "it was started"
        self.process.send_signal(number)
        self.process.wait(60)

    def readers(self) -> list[psutil.Process]:
        """Processes that open files for it."""
        assert self.process is not None, "it was started"
        found = []
        for child in psutil.Process(self.process.pid).children():
            try:
                if "services.data.child" in child.cmdline():
                    found.append(child)
            except psutil.Error:  # it has just ended
                continue
        return found


def wait_until(holds: Callable[[], Any], otherwise: str, seconds: float = SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.01)


class Lab:
    """The client's side."""

    def __init__(self, nats_url: str, blobs: Path, gateway: Service, data: Service) -> None:
        self.nats_url, self.blobs, self.gateway, self.data = nats_url, blobs, gateway, data
        self.http = httpx.Client(base_url=f"{gateway.url}/", trust_env=False, timeout=60)

    def announce(self, data: bytes, name: str, format_: str = "jsonl", /, **changed: Any) -> httpx.Response:
        digest = hashlib.sha256(data).hexdigest()
        body = {"name": name, "format": format_, "size_bytes": len(data), "sha256": digest}
        return self.http.post("datasets", json=body | changed)

    def send(self, upload: Json, data: bytes, parts: range | None = None) -> None:
        size = upload["part_bytes"]
        for number in parts or range(-(-len(data) // size)):
            part = data[number * size : (number + 1) * size]
            assert self.put(upload["upload_id"], number, part).status_code == 200

    def put(self, upload_id: str, number: int | str, part: bytes, **headers: str) -> httpx.Response:
        return self.http.put(f"datasets/uploads/{upload_id}/parts/{number}", content=part, headers=headers)

    def complete(self, upload_id: str) -> str:
        answer = self.http.post(f"datasets/uploads/{upload_id}/complete")
        assert answer.status_code == 200, answer.text
        return str(answer.json()["request_id"])

    def result(self, request_id: str, seconds: float = SECONDS) -> Json:
        """Raises Failed."""
        deadline = time.monotonic() + seconds
        while True:
            answer = self.http.post("retrieve_future", json={"request_id": request_id})
            assert answer.status_code in (200, 408), answer.text
            if answer.status_code == 200:
                break
            assert time.monotonic() < deadline, f"no result of {request_id}: {self.data.said()}"
        found: Json = answer.json()
        if "error" in found:
            raise Failed(f"{found['category']}: {found['error']}")
        return found

    def upload(self, data: bytes, name: str, format_: str = "jsonl", **changed: Any) -> Json:
        """The version that became of a file. Raises Failed."""
        announced = self.announce(data, name, format_, **changed)
        assert announced.status_code == 200, announced.text
        self.send(announced.json(), data)
        return self.result(self.complete(announced.json()["upload_id"]))

    def derive(self, name: str, version: int | str, **derivation: Any) -> Json:
        answer = self.http.post(f"datasets/{name}/versions/{version}/derive", json=derivation)
        assert answer.status_code == 200, answer.text
        return self.result(answer.json()["request_id"])

    def rows(self, name: str, version: int | str = "latest", limit: int = 1000) -> list[Json]:
        found, cursor = [], None
        while True:
            params = {"limit": limit} | ({"cursor": cursor} if cursor else {})
            page = self.http.get(f"datasets/{name}/versions/{version}/rows", params=params).json()
            found += page["rows"]
            if (cursor := page["cursor"]) is None:
                return found

    # What there is

    def left(self) -> tuple[list[str], list[str]]:
        """(files and folders of the store that are not plain structure, subjects of records, the queue and RL runs)."""
        found = []
        for folder, folders, files in os.walk(self.blobs):
            kept = folders if Path(folder).name in ("aside", "uploads", "datasets") else []
            found += [str(Path(folder, entry).relative_to(self.blobs)) for entry in (*kept, *files)]
        return sorted(found), asyncio.run(self._subjects())

    def at_rest(self) -> tuple[list[str], list[str]]:
        """What is left once nothing is under way."""

        def rests() -> bool:
            files, subjects = self.left()
            return not any(one.startswith("aside/") for one in files) and not any(
                one.startswith("data.") for one in subjects
            )

        wait_until(rests, f"still at work: {self.left()}")
        return self.left()

    async def _subjects(self) -> list[str]:
        bus = await Bus.connect(self.nats_url, name="look")
        try:
            records = await bus.subjects(RECORDS, "record.>")
            queued = await bus.subjects(DATA, "data.>")
            rl_runs = await bus.subjects(RL, "rl.>")
            return sorted(records + queued + rl_runs)
        finally:
            await bus.close()

    def settled(self, before: tuple[list[str], list[str]]) -> None:
        """Wait until all is as it was; a result is there a moment before the last of its command is gone."""
        wait_until(lambda: self.left() == before, f"left behind: {self.left()}, before: {before}")


@contextmanager
def opened(folder: Path, **variables: str) -> Iterator[Lab]:
    nats = NatsProcess(folder / "nats")
    nats.start()
    blobs = folder / "blobs"
    environment = {
        "NATS_URL": nats.url,
        "REKINDLE_BLOBS": str(blobs),
        "REKINDLE_UPLOAD_PART_BYTES": str(PART),
        "REKINDLE_UPLOAD_SECONDS": str(EXPIRY),
        "REKINDLE_GRACE_SECONDS": "1",
        "PYTHONPATH": f"{ROOT}:{ROOT / 'sdk'}",
    } | variables
    gateway, data = Service("gateway", folder, environment), Service("data", folder, environment, QUICK)
    gateway.start()
    data.start()
    lab = Lab(nats.url, blobs, gateway, data)
    try:
        yield lab
    finally:
        lab.http.close()
        data.end()
        gateway.end()
        nats.stop()


def upload_subject(upload_id: str) -> str:
    return names.record_subject("upload", "local", upload_id)

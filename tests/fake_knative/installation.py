"""An installation on the fake Knative, and the RL loop as a client of it."""

import contextlib
import copy
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rekindle.cluster.names import service_name
from tests.chaos.rl_loop import Trace
from tests.cluster.simulated import Cluster
from tests.fake_knative.platform import SERVING, FakeKnative
from tests.stack import ROOT

HERE = Path(__file__).parent
BASE = "lab/tiny"
SAMPLE, TRAIN = service_name("sample", BASE), service_name("train", BASE)
ACTIVATED = (SAMPLE, TRAIN, "checkpoint", "data", "reward")


@dataclass
class Installation:
    """What the tests have at hand."""

    cluster: Cluster
    """To type commands at."""
    fake: FakeKnative
    key: str
    """API key of a tenant."""
    model: Path
    """Source of the base model."""
    folder: Path

    @property
    def url(self) -> str:
        """Of the gateway."""
        return self.fake.served["gateway"].url

    def asleep(self) -> None:
        """Wait until only the gateway has pods."""
        self.fake.until(
            lambda: not any(self.fake.pods(name) for name in ACTIVATED), "services without work are at zero"
        )

    def kn(self, name: str, traffic: dict[str, int] | None = None) -> None:
        """`kn service update`: a new revision, or other traffic; percent by number of a revision, or `@latest`."""
        server = self.cluster.server
        with server.changed:
            one = copy.deepcopy(server.get(SERVING, "services", name))
            if traffic is None:
                stamp = {"client.knative.dev/updateTimestamp": str(server.version)}
                one["spec"]["template"]["metadata"]["annotations"] |= stamp
            else:
                one["spec"]["traffic"] = [
                    {"percent": percent}
                    | ({"latestRevision": True} if to == "@latest" else {"revisionName": f"{name}-{to}"})
                    for to, percent in traffic.items()
                ]
            server.put(one, "kn")

    def working(self, name: str, number: str) -> bool:
        """Whether a revision has a request now, or has had one that ended well."""
        service = self.fake.served[name].service
        revision = service.revisions.get(f"{name}-{number}")
        if revision is None:
            return False
        ended = [status for _, status, _ in service.answered(revision.name)]
        return 200 in ended or any(pod.requests for pod in revision.ready)

    def idle(self, name: str) -> bool:
        """Whether nobody asks a service for anything."""
        return not any(revision.open for revision in self.fake.served[name].service.revisions.values())

    @contextlib.contextmanager
    def loop(self, name: str, least: int, paused: bool = False) -> Iterator["Loop"]:
        """The RL loop runs while the block lasts; `paused` before its first step."""
        folder = self.folder / name
        folder.mkdir()
        if paused:
            (folder / "paused").touch()
        words = [self.url, self.key, BASE, str(folder), str(least)]
        command = [sys.executable, "-m", "tests.fake_knative.loop", *words]
        log = (folder / "log").open("w")
        with log:
            process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
        try:
            yield Loop(process, folder)
        finally:
            process.kill()
            process.wait(60)


@dataclass
class Loop:
    process: "subprocess.Popen[bytes]"
    folder: Path

    @property
    def steps(self) -> int:
        """That have begun."""
        return len(re.findall(r"^step ", (self.folder / "log").read_text(), re.MULTILINE))

    @property
    def rests(self) -> bool:
        """Whether no step is under way, while it is paused."""
        said: list[str] = re.findall(r"^(rest|step) ", (self.folder / "log").read_text(), re.MULTILINE)
        return said[-1:] == ["rest"]

    def pause(self, paused: bool = True) -> None:
        """Between two steps."""
        if paused:
            (self.folder / "paused").touch()
        else:
            (self.folder / "paused").unlink()

    def is_over(self) -> bool:
        return self.process.poll() is not None

    def enough(self) -> None:
        """Let it end after the step that it is at."""
        (self.folder / "enough").touch()

    def trace(self, seconds: float = 200.0) -> Trace:
        """What it saw, once it has ended."""
        assert self.process.wait(seconds) == 0, (self.folder / "log").read_text()[-4000:]
        return Trace(**json.loads((self.folder / "trace.json").read_text()))

"""An installation on the fake Knative, and the RL loop as a client of it."""

import contextlib
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
from tests.fake_knative.platform import FakeKnative
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

    @contextlib.contextmanager
    def loop(self, name: str, least: int) -> Iterator["Loop"]:
        """The RL loop runs while the block lasts."""
        folder = self.folder / name
        folder.mkdir()
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

    def is_over(self) -> bool:
        return self.process.poll() is not None

    def enough(self) -> None:
        """Let it end after the step that it is at."""
        (self.folder / "enough").touch()

    def trace(self, seconds: float = 200.0) -> Trace:
        """What it saw, once it has ended."""
        assert self.process.wait(seconds) == 0, (self.folder / "log").read_text()[-4000:]
        return Trace(**json.loads((self.folder / "trace.json").read_text()))

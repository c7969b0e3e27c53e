"""A NATS server as a child of the tests: it can be stopped, frozen and started again on its port and folder."""

import signal
import socket
import subprocess
import time
from pathlib import Path

from services.local import nats_server


class NatsProcess:
    """`services.local.nats_server` in a folder of its own. Example: `with NatsProcess(folder) as nats: nats.url`."""

    def __init__(self, folder: Path, command: list[str] | None = None, url: str | None = None) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._command = command or nats_server.command(folder)
        self.url = url or nats_server.address(folder).url
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "NatsProcess":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Returns when it listens."""
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        port = int(self.url.rpartition(":")[2])
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                return
            except OSError:
                assert self._process.poll() is None, (self._folder / "log").read_text()
                assert time.monotonic() < deadline, "NATS does not listen"
                time.sleep(0.01)

    def freeze(self) -> None:
        self._running().send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._running().send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL: no farewell to clients or to other servers."""
        self._running().kill()
        self._running().wait(60)

    def stop(self) -> None:
        """End it if it runs, frozen or not; its data stays."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)
            self._process.terminate()
            self._process.wait(60)

    def _running(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "it was started"
        return self._process

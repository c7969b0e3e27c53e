"""Which processes make up the stack on this machine, and with which settings."""

import json
import os
import secrets
import sys
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import services
from services.local import nats_server
from services.local.process import Child

GRACE_SECONDS = 3


@dataclass(frozen=True, slots=True)
class BaseModelChoice:
    """`[NAME=]DIR_OR_HUB_ID`. Example: BaseModelChoice("tiny", "/models/tiny")."""

    name: str
    """What clients call it."""
    source: str
    """Where weights and tokenizer come from."""

    @classmethod
    def parse(cls, argument: str) -> "BaseModelChoice":
        """Raises ValueError when it names a folder that holds no model."""
        name, separator, source = argument.partition("=")
        if not separator or Path(argument).is_dir():
            name = source = argument
        if not name or not source:
            raise ValueError(f"{argument!r}: expected [NAME=]FOLDER_OR_HUB_ID")
        folder = Path(source)
        looks_local = source.startswith((".", "/", "~")) or folder.is_dir()
        if looks_local:
            folder = folder.expanduser()
            if not (folder / "config.json").is_file():
                raise ValueError(f"{source!r}: no such model folder (it has no config.json)")
            source = str(folder.absolute())
        return cls(name, source)


@dataclass(frozen=True, slots=True)
class StackOptions:
    """What `rekindle up` was asked for."""

    base_models: list[BaseModelChoice]
    data_dir: Path
    host: str
    socket_fd: int
    """The gateway's listening socket, held by the supervisor."""
    port: int
    api_keys: list[str] = field(default_factory=list)
    outside_nats: str | None = None
    engine: str = "torch"
    """Which engine samples."""


def nats_child(options: StackOptions) -> Child | None:
    """The NATS server, unless an outside one is used."""
    if options.outside_nats is not None:
        return None
    command = nats_server.command(options.data_dir)
    return Child("nats", command, options.data_dir / "logs" / "nats.log")


def children(options: StackOptions) -> list[Child]:
    """All other processes, in the order in which they start."""
    found: list[Child] = []
    for index, choice in enumerate(options.base_models):
        for service in ("train", "sample"):
            variables = {"REKINDLE_BASE_NAME": choice.name, "REKINDLE_BASE_SOURCE": choice.source}
            if service == "sample":
                variables["REKINDLE_ENGINE"] = options.engine
            child = _service(options, service, f"{service}-{index}", variables)
            child.base_model = choice.name
            found.append(child)
    found.append(_service(options, "checkpoint", "checkpoint", {}))
    found.append(_service(options, "data", "data", {}))
    found.append(_service(options, "reward", "reward", {}))
    found.append(_gateway(options))
    return found


def _service(options: StackOptions, service: str, name: str, variables: dict[str, str]) -> Child:
    port = _port(options.data_dir, name)
    return Child(
        service,
        [sys.executable, "-m", f"services.{service}.app"],
        options.data_dir / "logs" / f"{name}.log",
        environment={**_environment(options), **variables, "REKINDLE_PORT": str(port)},
        health_url=f"http://127.0.0.1:{port}/api/v1/healthz",
        replica=0,
    )


def _gateway(options: StackOptions) -> Child:
    child = _service(options, "gateway", "gateway", {})
    host = "127.0.0.1" if options.host in ("0.0.0.0", "::") else options.host
    child.health_url = f"http://{_bracketed(host)}:{options.port}/api/v1/healthz"
    child.pass_fds = (options.socket_fd,)
    child.environment |= {
        "REKINDLE_SOCKET_FD": str(options.socket_fd),
        "REKINDLE_HOST": options.host,
    }
    return child


def _environment(options: StackOptions) -> dict[str, str]:
    root = Path(services.__path__[0]).parent
    # The repository before site-packages: an unrelated `events` exists on PyPI.
    paths = [str(root), str(root / "sdk"), os.environ.get("PYTHONPATH", "")]
    return {
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "NATS_URL": options.outside_nats or nats_server.address(options.data_dir).url,
        "REKINDLE_BLOBS": str(options.data_dir / "blobs"),
        "REKINDLE_EXTERNAL_URLS_SECRET": _secret(options.data_dir),
        "REKINDLE_GRACE_SECONDS": str(GRACE_SECONDS),
        # each service serves its own routes too, at a port of this machine that any of its users can reach
        "REKINDLE_API_KEYS": json.dumps([sha256(key.encode()).hexdigest() for key in options.api_keys]),
        # Several processes share the cores: threads that spin while they wait would take them from each other.
        "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE"),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }


def _port(data_dir: Path, name: str) -> int:
    """The service's port, the same for the life of the data folder while nobody else takes it."""
    path = data_dir / "ports.json"
    ports: dict[str, int] = json.loads(path.read_text()) if path.exists() else {}
    if name not in ports or not nats_server.is_free(ports[name]):
        ports[name] = nats_server.free_port()
        nats_server.write_private(path, json.dumps(ports))
    return ports[name]


def _secret(data_dir: Path) -> str:
    """Signs download links; the same for the life of the data folder."""
    path = data_dir / "links.key"
    if not path.exists():
        nats_server.write_private(path, secrets.token_urlsafe(32))
    return path.read_text()


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host

"""Which processes make up the stack on this machine, and with which settings."""

import json
import os
import secrets
import socket
import sys
from dataclasses import dataclass, field
from pathlib import Path

import services
from events import names
from events.platform import ServiceSpec
from events.settings import LOOPBACK
from rekindle.types.keys import key_digest
from services.local import nats_server
from services.local.process import SECRETS, Child

GRACE_SECONDS = 3
PARENTS = {
    "warm-light": ["services.checkpoint.app", "services.data.app", "services.reward.app"],
    "warm-torch": [
        "services.train.app",
        "services.train.register",
        "services.sample.app",
        "services.sample.torch_engine",
        "peft",
    ],
}
"""What each warm parent has imported."""
MOST_RUNS = 64
"""Activations of a trainer, one for each run with work."""


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
    listening: socket.socket
    """The gateway's socket, held by the supervisor."""
    api_keys: list[str] = field(default_factory=list)
    keys_file: Path | None = None
    """More keys, each of a tenant."""
    outside_nats: str | None = None
    engine: str = "torch"
    """Which engine samples."""
    idle_seconds: float = 60.0
    """After how long a service that nobody asks for ends; 0 = never."""
    warm: bool = True
    """Keep processes that have imported what services import, so that these start soon."""
    deterministic: bool = False
    """Weights and tokens depend on what was asked alone, bit for bit; the torch engine alone can."""


def nats_child(options: StackOptions) -> Child | None:
    """The NATS server, unless an outside one is used."""
    if options.outside_nats is not None:
        return None
    command = nats_server.command(options.data_dir)
    return Child("nats", command, options.data_dir / "logs" / "nats.log")


def children(options: StackOptions) -> list[Child]:
    """All other processes, in the order in which they start."""
    found: list[Child] = _warm_parents(options) if options.warm else []
    for index, choice in enumerate(options.base_models):
        variables = {"REKINDLE_BASE_NAME": choice.name, "REKINDLE_BASE_SOURCE": choice.source}
        if options.deterministic:
            variables["REKINDLE_DETERMINISTIC"] = "true"
        found.append(_register(options, f"register-{index}", choice.name, variables))
        for service in ("train", "sample"):
            engine = {"REKINDLE_ENGINE": options.engine} if service == "sample" else {}
            child = _service(options, service, f"{service}-{index}", variables | engine)
            child.base_model, child.name = choice.name, names.service_name(service, choice.name)
            if service == "sample" and options.engine == "vllm":
                child.parent = None  # it starts processes of its own, which import its main module
            found.append(child)
    found.append(_service(options, "checkpoint", "checkpoint", {}))
    found.append(_service(options, "data", "data", _own_addresses(options)))
    found.append(_service(options, "reward", "reward", _outside(options)))
    found.append(_dispatcher(options, found))
    found.append(_gateway(options))
    return found


def _warm_parents(options: StackOptions) -> list[Child]:
    """One for each set of imports that services share."""
    found = []
    for name, modules in PARENTS.items():
        child = _child(options, "warm", name, "services.local.warm", {"OPENBLAS_NUM_THREADS": "1"})
        child.command += modules
        child.life = "optional"
        found.append(child)
    return found


def _parent_of(module: str) -> str | None:
    return next((name for name, modules in PARENTS.items() if module in modules), None)


def _service(options: StackOptions, service: str, name: str, variables: dict[str, str]) -> Child:
    """A service that sleeps until somebody asks for it."""
    held = _held_socket(options.data_dir, name)
    child = _child(options, service, name, f"services.{service}.app", variables)
    child.name, child.life, child.listening, child.replica = service, "on demand", held, 0
    child.url = f"http://127.0.0.1:{held.getsockname()[1]}"
    child.environment |= {
        "REKINDLE_ACTIVATION": "true",
        "REKINDLE_IDLE_SECONDS": str(options.idle_seconds),
        # each service serves its own routes too, at a port of this machine that any of its users can reach
        **_keys(options),
        "REKINDLE_SYSTEM_KEYS": _hashes([_activation_key(options)]),
    }
    return child


def _outside(options: StackOptions) -> dict[str, str]:
    """The keys for graders that ask others; where only this machine is served, its own addresses may be asked, too,
    and any key sent anywhere."""
    given = {name: value for name, value in os.environ.items() if name.startswith(SECRETS)}
    if options.host not in LOOPBACK:
        return given
    return given | _own_addresses(options) | _unless_said("REKINDLE_OUTSIDE_KEY_HOSTS", {"*": ["*"]})


def _own_addresses(options: StackOptions) -> dict[str, str]:
    """Where only this machine is served, its own addresses may be asked."""
    if options.host not in LOOPBACK:
        return {}
    return _unless_said("REKINDLE_OUTSIDE_HOSTS", ["127.0.0.0/8", "[::1]"])


def _unless_said(name: str, value: object) -> dict[str, str]:
    """A variable, as the environment has it or else with that value."""
    return {name: os.environ.get(name, json.dumps(value))}


def _child(options: StackOptions, service: str, name: str, module: str, variables: dict[str, str]) -> Child:
    return Child(
        service,
        [sys.executable, "-m", module],
        options.data_dir / "logs" / f"{name}.log",
        name=name,
        environment={**_environment(options), **variables},
        notifies=True,
        parent=_parent_of(module) if options.warm else None,
    )


def _register(options: StackOptions, name: str, base: str, variables: dict[str, str]) -> Child:
    """Makes a base model known, so that edges can check requests while no trainer runs."""
    child = _child(options, "register", name, "services.train.register", variables)
    child.life, child.notifies, child.base_model = "once", False, base
    return child


def _gateway(options: StackOptions) -> Child:
    child = _child(options, "gateway", "gateway", "services.gateway.app", {})
    child.listening = options.listening
    child.environment |= {"REKINDLE_HOST": options.host, **_keys(options)}
    return child


def _dispatcher(options: StackOptions, others: list[Child]) -> Child:
    specs = [_spec(child) for child in others if child.life == "on demand"]
    variables = {
        "REKINDLE_SERVICES": json.dumps([spec.model_dump() for spec in specs]),
        "REKINDLE_STATE_FILE": str(state_path(options.data_dir)),
        "REKINDLE_ACTIVATION_KEY": _activation_key(options),
    }
    return _child(options, "dispatcher", "dispatcher", "events.dispatcher", variables)


def _spec(child: Child) -> ServiceSpec:
    """One replica of each here; it has a slot for each of many runs, or one for its queue."""
    assert child.url is not None, "a service on demand has an address"
    most = MOST_RUNS if child.service == "train" else 1
    return ServiceSpec(name=child.name, kind=child.service, base=child.base_model, url=child.url, most=most)


def state_path(data_dir: Path) -> Path:
    """Where the supervisor writes how its processes fare."""
    return data_dir / "processes.json"


def _environment(options: StackOptions) -> dict[str, str]:
    root = Path(services.__path__[0]).parent
    # The repository before site-packages: an unrelated `events` exists on PyPI.
    paths = [str(root), str(root / "sdk"), os.environ.get("PYTHONPATH", "")]
    return {
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "NATS_URL": options.outside_nats or nats_server.address(options.data_dir).url,
        "REKINDLE_BLOBS": os.environ.get("REKINDLE_BLOBS") or str(options.data_dir / "blobs"),
        "REKINDLE_EXTERNAL_URLS_SECRET": _secret(options.data_dir),
        "REKINDLE_GRACE_SECONDS": str(GRACE_SECONDS),
        "REKINDLE_METRICS_PORT": "0",  # one for all of them they cannot have; each has them at its own port
        # Several processes share the cores: threads that spin while they wait would take them from each other.
        "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE"),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }


def _held_socket(data_dir: Path, name: str) -> socket.socket:
    """The service's socket, on the same port for the life of the data folder while nobody else takes it."""
    path = data_dir / "ports.json"
    ports: dict[str, int] = json.loads(path.read_text()) if path.exists() else {}
    try:
        held = listen("127.0.0.1", ports.get(name, 0))
    except OSError:
        held = listen("127.0.0.1", 0)
    held.setblocking(False)
    if ports.get(name) != held.getsockname()[1]:
        ports[name] = held.getsockname()[1]
        nats_server.write_private(path, json.dumps(ports))
    return held


def listen(host: str, port: int) -> socket.socket:
    """A listening socket to be inherited by the process that serves it. Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    held = socket.socket(family, socket.SOCK_STREAM)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Accepted connections inherit it; the event loop of a service takes an inherited socket for a Unix one and
    # does not set it, and then small answers wait 40 ms for the client's delayed acknowledgement.
    held.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        held.bind((host, port))
    except OSError as error:
        held.close()
        said = f"cannot listen on {host} port {port}: {error.strerror or error}"
        raise OSError(error.errno, said) from error
    held.listen(4096)
    return held


def _keys(options: StackOptions) -> dict[str, str]:
    """Who may come in."""
    filed = {} if options.keys_file is None else {"REKINDLE_KEYS_FILE": str(options.keys_file)}
    return {"REKINDLE_API_KEYS": _hashes(options.api_keys), **filed}


def _hashes(keys: list[str]) -> str:
    return json.dumps([key_digest(key) for key in keys if key])


def _activation_key(options: StackOptions) -> str:
    """Opens the services to the dispatcher where keys are asked for; the gateway does not know it."""
    return f"tml-{_secret(options.data_dir)}" if options.api_keys or options.keys_file else ""


def _secret(data_dir: Path) -> str:
    """Signs download links; the same for the life of the data folder."""
    path = data_dir / "links.key"
    if not path.exists():
        nats_server.write_private(path, secrets.token_urlsafe(32))
    return path.read_text()

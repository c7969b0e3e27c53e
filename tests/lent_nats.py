"""A NATS server configured as the manifests configure it, users and accounts included; only addresses are this
machine's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rekindle.cluster.render import load, render
from services.local import nats_server
from tests.events.nats_process import NatsProcess

KNATIVE = Path(__file__).resolve().parents[1] / "knative"
Secrets = Mapping[str, Mapping[str, str]]
"""By name, their variables."""


@dataclass(frozen=True, slots=True)
class LentNats:
    """The server, and how its users reach it."""

    process: NatsProcess
    address: str
    secrets: Secrets

    def url(self, secret: str) -> str:
        """Of the user that a Secret names."""
        return self.secrets[secret]["NATS_URL"].replace("nats:4222", self.address)

    @property
    def of_reward(self) -> dict[str, str]:
        """What the reward service is told of it."""
        return {"NATS_URL": self.url("rekindle-nats-reward"), "REKINDLE_JETSTREAM_API": "services.API"}


def examples() -> dict[str, dict[str, str]]:
    """Secrets that can be told apart."""
    found = load(KNATIVE / "base" / "secrets.example.yaml")
    return {one["metadata"]["name"]: one["stringData"] for one in found}


def three(folder: Path) -> list[LentNats]:
    """A cluster of them, as knative/overlays/ha has it; none is started."""
    objects = render(KNATIVE / "overlays" / "ha", None)
    routes = [f"127.0.0.1:{nats_server.free_port()}" for _ in range(3)]
    return [made(folder / f"nats-{n}", objects, pod=f"nats-{n}", routes=routes) for n in range(3)]


def made(
    folder: Path,
    objects: list[dict[str, Any]] | None = None,
    secrets: Secrets | None = None,
    *,
    pod: str = "nats-0",
    routes: Sequence[str] = (),
) -> LentNats:
    """One that is not started. `objects`: of a kustomization; None = knative/base. `routes`: by number of the pod."""
    objects, secrets = objects or render(KNATIVE / "base", None), secrets or examples()
    found = {(one["kind"], one["metadata"]["name"]): one for one in objects}
    address = f"127.0.0.1:{nats_server.free_port()}"
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in found["ConfigMap", "nats"]["data"].items():
        for number, route in enumerate(routes):
            text = text.replace("port: 6222", f"listen: {route}") if pod == f"nats-{number}" else text
            text = text.replace(f"nats-{number}.nats:6222", route)
        (folder / name).write_text(_here(text, address, folder))
    told = _told(found["StatefulSet", "nats"], secrets, pod)
    command = ["env", *told, nats_server.server_binary(), "--config", str(folder / "nats.conf")]
    return LentNats(NatsProcess(folder, command, f"nats://{address}"), address, secrets)


def _here(text: str, address: str, folder: Path) -> str:
    text = text.replace("port: 4222", f"listen: {address}").replace("http: 8222", "")
    return text.replace("store_dir: /data", f'store_dir: "{folder / "data"}"')


def _told(stateful_set: dict[str, Any], secrets: Secrets, pod: str) -> list[str]:
    """Its container's variables."""
    (container,) = stateful_set["spec"]["template"]["spec"]["containers"]
    found = []
    for one in container["env"]:
        key = one.get("valueFrom", {}).get("secretKeyRef")
        value = secrets[key["name"]][key["key"]] if key else one.get("value", pod)
        found.append(f"{one['name']}={value}")
    return found

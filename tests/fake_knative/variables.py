"""What a container finds in its environment: as the cluster resolves it, then as this machine needs it.

ConfigMaps, Secrets and fields of the pod are looked up among the objects of the API server; volumes of Secrets are
written as files. Replaced are only addresses: host, port, NATS, the blob store, and paths under mounted volumes.
"""

from pathlib import Path
from typing import Any

from tests.cluster.api_server import ApiServer

Object = dict[str, Any]
NATS = "HERE_NATS"
"""Among the variables of this machine: where its NATS server is, `host:port`."""


def variables(server: ApiServer, namespace: str, template: Object, local: dict[str, str]) -> dict[str, str]:
    """The environment of a pod's only container; `local` has the last word. Raises KeyError for what is missing."""
    (container,) = template["spec"]["containers"]
    found: dict[str, str] = {}
    for source in container.get("envFrom", []):
        found |= _content(server, namespace, source)
    for one in container.get("env", []):
        if (value := _value(server, namespace, one)) is not None:
            found[one["name"]] = value
    outside = {name: value for name, value in found.items() if not name.startswith("AWS_")}
    if NATS in local and "NATS_URL" in outside:  # each as its own user
        outside["NATS_URL"] = outside["NATS_URL"].replace("nats:4222", local[NATS])
    return outside | local


def _content(server: ApiServer, namespace: str, source: Object) -> dict[str, str]:
    if "configMapRef" in source:
        data: dict[str, str] = server.get("v1", "configmaps", source["configMapRef"]["name"], namespace)[
            "data"
        ]
        return data
    reference = source["secretRef"]
    return {} if _lacks(server, namespace, reference) else server.secret(reference["name"], namespace)


def _lacks(server: ApiServer, namespace: str, reference: Object) -> bool:
    """Whether it is an optional Secret that is not there."""
    return reference.get("optional", False) and reference["name"] not in server.names(
        "v1", "secrets", namespace
    )


def _value(server: ApiServer, namespace: str, one: Object) -> str | None:
    source = one.get("valueFrom")
    if source is None:
        return str(one["value"])
    if "fieldRef" in source:
        assert source["fieldRef"]["fieldPath"] == "metadata.namespace", source
        return namespace
    reference = source["secretKeyRef"]
    if _lacks(server, namespace, reference):
        return None
    return server.secret(reference["name"], namespace)[reference["key"]]


def mounted(
    server: ApiServer, namespace: str, template: Object, found: dict[str, str], folder: Path
) -> dict[str, str]:
    """`found` with paths under volumes led into `folder`, which is filled with the files of Secrets."""
    volumes = {one["name"]: one for one in template["spec"].get("volumes", [])}
    (container,) = template["spec"]["containers"]
    led = dict(found)
    for mount in container.get("volumeMounts", []):
        path, secret = mount["mountPath"], volumes[mount["name"]].get("secret")
        if Path(path).exists():
            continue  # /tmp is this machine's own
        here = folder / mount["name"]
        here.mkdir(parents=True, exist_ok=True)
        for name, text in server.secret(secret["secretName"], namespace).items() if secret else ():
            (here / name).write_text(text)
        for name, value in found.items():
            if value == path or value.startswith(f"{path}/"):
                led[name] = f"{here}{value.removeprefix(path)}"
    return led

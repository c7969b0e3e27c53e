"""A simulated cluster, the command at its other end, and controllers that find everything well."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from kubernetes import config, dynamic
from typer.testing import CliRunner, Result

from rekindle.cli import build
from rekindle.cluster.api import NO_CACHE, Api
from tests.cluster.api_server import ApiServer, Key
from tests.cluster.ownership import Object

URL = "http://gateway.rekindle.example"


def well(one: Object) -> Object | None:
    """What Knative and Kubernetes say once a workload runs."""
    seen = {"observedGeneration": one["metadata"].get("generation", 0)}
    if one["apiVersion"] == "serving.knative.dev/v1" and one["kind"] == "Service":
        name = one["metadata"]["name"]
        return {
            **seen,
            "conditions": [{"type": "Ready", "status": "True"}],
            "latestCreatedRevisionName": f"{name}-00001",
            "latestReadyRevisionName": f"{name}-00001",
            "url": URL if name == "gateway" else f"http://{name}.rekindle.svc.cluster.local",
        }
    if one["kind"] in ("Deployment", "StatefulSet"):
        count = one["spec"]["replicas"]
        return {**seen, "replicas": count, "updatedReplicas": count, "readyReplicas": count}
    if one["kind"] == "Job":
        return {"conditions": [{"type": "Complete", "status": "True"}]}
    return None


@dataclass
class Cluster:
    server: ApiServer
    file: Path
    """The kubeconfig."""

    def run(self, *arguments: object, **options: Any) -> Result:
        """The command as a person types it."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("KUBECONFIG", str(self.file))
            words = [str(one) for one in arguments]
            return CliRunner().invoke(build(), words, prog_name="rekindle", **options)

    def done(self, *arguments: object) -> str:
        """What it prints, if it succeeds."""
        found = self.run(*arguments)
        assert found.exit_code == 0, found.output
        return found.stdout

    def edit(self, manager: str, key: Key, change: Callable[[Object], object]) -> None:
        """Change a Knative service as `kn` does: read it, write all of it under another name."""
        client = dynamic.DynamicClient(config.new_client_from_config(str(self.file)), cache_file=NO_CACHE)
        services = client.resources.get(api_version=key.api_version, kind="Service")
        one = services.get(name=key.name, namespace=key.namespace).to_dict()
        change(one)
        services.replace(body=one, namespace=key.namespace, field_manager=manager)

    def api(self) -> Api:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("KUBECONFIG", str(self.file))
            return Api.connect()

"""A simulated cluster for each test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from rekindle.cluster import manifests
from tests.cluster.api_server import ApiServer, kubeconfig, serving
from tests.cluster.simulated import Cluster, well


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with serving(ApiServer(controllers=[well])) as server:
        yield Cluster(server, kubeconfig(server, tmp_path / "kubeconfig"))


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """An overlay of few objects: the namespace, the gateway, the dispatcher, the settings and a job."""
    base = manifests.folder() / "base"
    files = ("namespace", "settings", "services/gateway", "services/dispatcher", "blobs/bucket")
    resources = "".join(f"  - {base / name}.yaml\n" for name in files)
    (tmp_path / "kustomization.yaml").write_text(f"resources:\n{resources}")
    return tmp_path

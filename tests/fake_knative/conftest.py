"""An installation on the fake Knative, made as a person makes one: `rekindle deploy`, `rekindle models add`."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.api_server import ApiServer, kubeconfig, serving
from tests.cluster.simulated import Cluster
from tests.events.nats_process import NatsProcess
from tests.fake_knative.installation import BASE, HERE, Installation
from tests.fake_knative.platform import Times, running


@pytest.fixture(scope="module")
def installation(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """Everything applied, nothing started yet but what has an initial scale."""
    folder = tmp_path_factory.mktemp("cluster")
    nats = NatsProcess(folder / "nats")
    nats.start()
    try:
        with serving(ApiServer()) as server:
            cluster = Cluster(server, kubeconfig(server, folder / "kubeconfig"))
            said = cluster.done("deploy", "--overlay", HERE / "overlay", "--wait", 0)
            cluster.done(
                "models", "add", BASE, "--source", tiny_model_dir, "--overlay", HERE / "overlay",
                "--max-replicas", 2, "--wait", 0,
            )  # fmt: skip
            local = {
                "NATS_URL": nats.url,
                "REKINDLE_BLOBS": str(folder / "blobs"),
                "KUBECONFIG": str(cluster.file),
                "REKINDLE_METRICS_PORT": "0",  # pods have addresses of their own; here they share one
                "OMP_WAIT_POLICY": "PASSIVE",
            }
            (key,) = set(re.findall(r"tml-[\w-]{20,}", said))
            with running(server, local, folder, Times()) as fake:
                yield Installation(cluster, fake, key, tiny_model_dir, folder)
    finally:
        nats.stop()

"""An installation on the fake Knative, made as a person makes one: `rekindle deploy`, `rekindle models add`."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from rekindle.cluster import manifests
from tests import lent_nats
from tests.cluster.api_server import ApiServer, kubeconfig, serving
from tests.cluster.simulated import Cluster
from tests.fake_knative import variables
from tests.fake_knative.installation import BASE, HERE, Installation
from tests.fake_knative.platform import Times, running
from tests.lent_nats import LentNats


def gpu_flags() -> set[str]:
    """What an administrator switches on for GPUs."""
    files = manifests.overlay("gpu").glob("features/*.yaml")
    return {flag for file in files for flag in yaml.safe_load(file.read_text())["data"]}


@pytest.fixture(scope="module")
def installation(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """Everything applied, nothing started yet but what has an initial scale."""
    folder = tmp_path_factory.mktemp("cluster")
    with contextlib.ExitStack() as ending, serving(ApiServer(flags=gpu_flags())) as server:
        cluster = Cluster(server, kubeconfig(server, folder / "kubeconfig"))
        said = cluster.done("deploy", "--overlay", HERE / "overlay", "--wait", 0)
        nats = _nats(server, folder / "nats")
        ending.callback(nats.process.stop)
        nats.process.start()
        cluster.done(
            "models", "add", BASE, "--source", tiny_model_dir, "--overlay", HERE / "scarce",
            "--gpus", 1, "--dtype", "float32", "--max-replicas", 2, "--wait", 0,
        )  # fmt: skip
        local = {
            variables.NATS: nats.address,
            "REKINDLE_BLOBS": str(folder / "blobs"),
            "REKINDLE_REWARD_BLOBS": str(folder / "reward-blobs"),
            "KUBECONFIG": str(cluster.file),
            "REKINDLE_METRICS_PORT": "0",  # pods have addresses of their own; here they share one
            "REKINDLE_DEVICE": "cpu",  # there are as many GPUs as the fake says, and none to compute on
            "OMP_WAIT_POLICY": "PASSIVE",
        }
        (key,) = set(re.findall(r"tml-[\w-]{20,}", said))
        with running(server, local, folder, Times(), gpus=2) as fake:
            yield Installation(cluster, fake, key, tiny_model_dir, folder)


def _nats(server: ApiServer, folder: Path) -> LentNats:
    """The server that has been applied, with users and passwords that have been made."""
    objects = [one.object for one in server.objects.values()]
    secrets = {name: server.secret(name) for name in server.names("v1", "secrets")}
    return lent_nats.made(folder, objects, secrets)

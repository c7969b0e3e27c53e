"""Two revisions of a service: which of them requests reach, and which of them has the only GPU."""

import asyncio
import contextlib
import signal
from collections import Counter
from typing import Any

import httpx
import pytest

from rekindle.cluster import manifests
from rekindle.cluster.models import ModelOptions, render_model
from tests.fake_knative.stand_in import SCALING, Lab, lab

OLD, NEW = "00001", "00002"
NO_GPU = "1 Insufficient nvidia.com/gpu"


def trainer(overlay: str = "base", gpus: int = 0) -> dict[str, Any]:
    """As `rekindle models add` renders it."""
    options = ModelOptions(base="lab/tiny", gpus=gpus)
    found = render_model(manifests.templates(overlay), options, "rekindle")
    return next(one for one in found if one["metadata"]["labels"]["rekindle.dev/kind"] == "train")


async def test_a_service_that_has_never_been_ready_has_no_route() -> None:
    cluster = Lab(trainer())
    cluster.broken.add(cluster.name(OLD))
    cluster.service.follow(cluster.object)
    transport = httpx.ASGITransport(cluster.service)
    await cluster.until(lambda: cluster.condition == "False", "it has failed")
    async with httpx.AsyncClient(transport=transport, base_url="http://x") as http:
        assert (await http.get("/")).status_code == 404
    await cluster.until(lambda: cluster.fares.state == "failed", "it is given up")
    await cluster.service.end()


async def test_requests_go_to_a_new_revision_once_it_is_ready_and_open_ones_stay() -> None:
    async with lab(trainer()) as cluster:
        async with cluster.held():
            cluster.kn(image="next")
            assert await cluster.get() == OLD or cluster.condition == "True"
            await cluster.until(lambda: cluster.condition == "True", "the new one is ready")
            assert await cluster.get() == NEW
            assert cluster.pods(OLD) == 1, "it has a request to finish"
        await cluster.until(lambda: not cluster.pods(OLD), "it is gone")


async def test_a_split_a_tag_and_a_rollback_send_requests_where_they_say() -> None:
    async with lab(trainer()) as cluster:
        cluster.kn(image="next", traffic={OLD: 100})
        await cluster.until(
            lambda: cluster.status["latestReadyRevisionName"] == cluster.name(NEW), "it is ready"
        )
        assert await cluster.get() == OLD, "as it was said"
        cluster.kn(traffic={OLD: 50, "@latest": 50})
        found = Counter([await cluster.get() for _ in range(30)])
        assert found.keys() == {OLD, NEW} and min(found.values()) > 5
        cluster.object["spec"]["traffic"] = [
            {"revisionName": cluster.name(OLD), "percent": 100},
            {"revisionName": cluster.name(NEW), "percent": 0, "tag": "next"},
        ]
        assert {await cluster.get() for _ in range(4)} == {OLD}
        assert await cluster.get(host=f"next-{cluster.service.name}.rekindle.example.com") == NEW


async def test_a_new_revision_that_does_not_start_leaves_the_old_one_and_says_why() -> None:
    async with lab(trainer()) as cluster:
        cluster.broken.add(cluster.name(NEW))
        cluster.kn(image="broken")
        await cluster.until(lambda: cluster.condition == "False", "it has failed")
        assert await cluster.get() == OLD
        assert (cluster.fares.state, cluster.fares.verdict) == ("ready", None)
        said = cluster.reasons()
        assert f"revision {cluster.name(NEW)} failed: Container failed with: exit code 1" in said
        assert "it ends again and again" in said


async def test_a_crash_is_not_forgotten_at_zero_and_no_verdict_on_what_comes_later() -> None:
    async with lab(trainer()) as cluster:
        async with cluster.held():
            cluster.broken.add(cluster.name(OLD))
            (pod,) = cluster.service.pods
            pod.send(signal.SIGKILL)
            await cluster.until(lambda: cluster.condition == "False", "it crashes")
        await cluster.until(lambda: cluster.fares.state == "zero", "nobody asks for it any more")
        assert cluster.condition == "False" and "exit code" in cluster.reasons()
        assert cluster.fares.verdict is None
        cluster.broken.clear()
        assert await cluster.get() == OLD
        await cluster.until(lambda: cluster.condition == "True", "it is ready again")


@pytest.mark.parametrize("busy", [True, False], ids=["busy", "kept at one"])
async def test_with_one_gpu_a_revision_that_has_to_prove_itself_never_does(busy: bool) -> None:
    """As the base has it; then the way out where the cluster takes no initial scale of zero."""
    template = trainer(gpus=1)
    bounds = template["spec"]["template"]["metadata"]["annotations"]
    bounds |= {} if busy else {f"{SCALING}min-scale": "1"}
    async with lab(template, gpus=1) as cluster:
        async with cluster.held() if busy else contextlib.nullcontext():
            cluster.kn(image="next")
            await cluster.until(lambda: cluster.condition == "False", "it finds no GPU")
            assert f"{cluster.name(NEW)} waits for a GPU that {cluster.name(OLD)} holds" in cluster.reasons()
            await cluster.until(lambda: "never achieved" in cluster.reasons(), "it is given up")
            assert cluster.pods(OLD) == 1, "the old one goes on"
        cluster.kn(image="once-more")
        cluster.service.revisions[cluster.name(OLD)].object["metadata"]["annotations"] |= {
            f"{SCALING}min-scale": "0"
        }
        await cluster.until(lambda: cluster.condition == "True", "the old one gives its GPU up")
        assert await cluster.get() == "00003"


async def test_with_one_gpu_a_replica_that_is_kept_is_let_go_first() -> None:
    template = trainer(gpus=1)
    template["spec"]["template"]["metadata"]["annotations"] |= {f"{SCALING}min-scale": "1"}
    async with lab(template, gpus=1) as cluster:
        cluster.kn(min_scale="0", initial_scale="0")
        cluster.kn(image="next")
        await cluster.until(lambda: NEW in (cluster.service.latest_ready or ""), "ready without a pod")
        assert await cluster.get() == NEW


async def test_with_one_gpu_the_templates_for_gpus_hand_it_over() -> None:
    async with lab(trainer("gpu", gpus=1), gpus=1) as cluster:
        async with cluster.held():
            cluster.kn(image="next")
            await cluster.until(lambda: NEW in (cluster.service.latest_ready or ""), "ready without a pod")
            assert (cluster.condition, cluster.pods(OLD), cluster.pods(NEW)) == ("True", 1, 0)
            assert cluster.fares.state == "ready", "there is a request to finish"
        asked = asyncio.create_task(cluster.get())
        await cluster.until(lambda: NO_GPU in (cluster.fares.reason or ""), "clients hear what it waits for")
        assert cluster.fares.state == "starting"
        assert await asked == NEW
        assert (cluster.pods(OLD), cluster.gpus.free) == (0, 0)


async def test_a_revision_that_is_ready_without_a_pod_may_not_start_and_the_way_back_is_open() -> None:
    async with lab(trainer("gpu", gpus=1), gpus=1) as cluster:
        cluster.broken.add(cluster.name(NEW))
        cluster.kn(image="broken")
        asked = asyncio.create_task(cluster.get())
        await cluster.until(lambda: cluster.fares.state == "failed", "it is given up")
        assert "exit code 1" in str(cluster.fares.verdict)
        asked.cancel()
        cluster.kn(traffic={OLD: 100})
        assert await cluster.get() == OLD, "once the other has been given up, too"

"""`rekindle models` against a simulated cluster, through the real client."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from rekindle.cluster.names import service_name, token
from tests.cluster.api_server import Key
from tests.cluster.simulated import Cluster

BASE = "Qwen/Qwen3-8B"
SERVICES = "serving.knative.dev/v1"
TRAIN = Key(SERVICES, "services", "rekindle", service_name("train", BASE))
SCALE = "autoscaling.knative.dev/"
GPU_FLAGS = {
    "kubernetes.podspec-nodeselector", "kubernetes.podspec-tolerations", "kubernetes.podspec-runtimeclassname",
    "allow-zero-initial-scale",
}  # fmt: skip


def annotations(one: dict[str, Any]) -> dict[str, str]:
    found: dict[str, str] = one["spec"]["template"]["metadata"]["annotations"]
    return found


@pytest.fixture(autouse=True)
def namespace(cluster: Cluster) -> None:
    cluster.server.put({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "rekindle"}})


def rendered(cluster: Cluster, *options: object) -> dict[str, dict[str, Any]]:
    """By kind of service."""
    found = yaml.safe_load_all(cluster.done("models", "add", BASE, "--render", *options))
    return {one["metadata"]["labels"]["rekindle.dev/kind"]: one for one in found}


def variables(one: dict[str, Any]) -> dict[str, str]:
    env = one["spec"]["template"]["spec"]["containers"][0]["env"]
    return {each["name"]: each["value"] for each in env if "value" in each}


# ---- Rendering ----


def test_a_model_is_a_trainer_a_sampler_and_a_job_with_its_exact_name(cluster: Cluster) -> None:
    found = rendered(cluster)
    assert {kind: one["metadata"]["name"] for kind, one in found.items()} == {
        kind: service_name(kind, BASE) for kind in ("train", "sample", "register")
    }
    for one in found.values():
        assert one["metadata"]["labels"]["rekindle.dev/base"] == token(BASE)
        assert one["metadata"]["annotations"]["rekindle.dev/base-model"] == BASE
        assert variables(one)["REKINDLE_BASE_NAME"] == variables(one)["REKINDLE_BASE_SOURCE"] == BASE


def test_options_reach_the_services(cluster: Cluster) -> None:
    found = rendered(
        cluster, "--max-runs", 5, "--max-replicas", 3, "--source", "s3://models/qwen", "--dtype", "float16"
    )
    train, sample = found["train"], found["sample"]
    assert train["spec"]["template"]["spec"]["containerConcurrency"] == 5
    assert annotations(train)[f"{SCALE}max-scale"] == annotations(sample)[f"{SCALE}max-scale"] == "3"
    assert all(variables(one)["REKINDLE_BASE_SOURCE"] == "s3://models/qwen" for one in found.values())
    assert variables(train)["REKINDLE_DTYPE"] == variables(sample)["REKINDLE_DTYPE"] == "float16"
    assert variables(train)["REKINDLE_DEVICE"] == "cpu"


@pytest.mark.parametrize("overlay", ["base", "gpu"])
def test_gpus_are_limits_and_the_device(cluster: Cluster, overlay: str) -> None:
    found = rendered(cluster, "--gpus", 2, "--engine", "vllm", "--overlay", overlay)
    for kind in ("train", "sample"):
        container = found[kind]["spec"]["template"]["spec"]["containers"][0]
        assert container["resources"]["limits"]["nvidia.com/gpu"] == "2"
        assert variables(found[kind])["REKINDLE_DTYPE"] == "bfloat16"
    assert variables(found["train"])["REKINDLE_DEVICE"] == "cuda"
    assert variables(found["sample"])["REKINDLE_ENGINE"] == "vllm"
    assert "/sample-vllm:" in found["sample"]["spec"]["template"]["spec"]["containers"][0]["image"]
    assert "nvidia.com/gpu" not in json.dumps(found["register"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("Qwen/'x'",), "base"),
        ((BASE, "--source", "s3://a b"), "source"),
        ((BASE, "--gpus", 5000), "gpus"),
        ((BASE, "--max-runs", 5000), "max_runs"),
        ((BASE, "--engine", "sglang"), "engine: 'sglang', expected torch, vllm"),
        ((BASE, "--dtype", "int8"), "dtype"),
        ((BASE, "--engine", "vllm"), "engine: vllm, expected torch without GPUs"),
        ((BASE, "--overlay", "gpu"), "--gpus 1"),
    ],
)
def test_a_wrong_option_is_one_line_that_names_it(
    cluster: Cluster, arguments: tuple[str, ...], said: str
) -> None:
    found = cluster.run("models", "add", *arguments, "--render")
    assert found.exit_code == 1 and said in found.stderr and found.stderr.count("\n") == 1


# ---- Applying ----


def test_a_model_is_added_once_and_adding_it_again_changes_nothing(cluster: Cluster) -> None:
    cluster.done("models", "add", BASE)
    before = cluster.server.version
    said = json.loads(cluster.done("models", "add", BASE, "--json"))
    assert {one["action"] for one in said} == {"unchanged"} and cluster.server.version == before


def test_it_waits_until_clients_may_ask_for_the_model(cluster: Cluster) -> None:
    state: list[object] = []

    def busy(one: dict[str, Any]) -> dict[str, Any] | None:
        return {"conditions": state} if one["kind"] == "Job" else None

    cluster.server.controllers.append(busy)
    found = cluster.run("models", "add", BASE, "--wait", 1)
    job = service_name("register", BASE)
    assert found.exit_code == 1
    assert f"not ready: {job}: not done yet; kubectl logs -n rekindle job/{job}" in found.stderr
    assert cluster.run("models", "add", BASE, "--wait", 0).exit_code == 0, "nobody looks"
    state.append({"type": "Complete", "status": "True"})
    cluster.done("models", "remove", BASE, "--yes")
    assert f"clients may ask for {BASE}" in cluster.done("models", "add", BASE)


def test_images_come_from_where_the_gateways_do(cluster: Cluster, small: Path) -> None:
    cluster.done("deploy", "--overlay", small, "--registry", "r.example/team", "--wait", 0)
    cluster.done("models", "add", BASE)
    assert {
        one["image"].rpartition("/")[0] for one in json.loads(cluster.done("models", "list", "--json"))
    } == {"r.example/team"}


def test_several_models_have_services_of_their_own(cluster: Cluster) -> None:
    for base in ("Qwen/Qwen3-8B", "Qwen/Qwen3-0.6B"):
        cluster.done("models", "add", base)
    assert len(cluster.server.names(SERVICES, "services")) == 4


def test_bounds_that_were_set_with_kn_are_kept_and_said(cluster: Cluster) -> None:
    cluster.done("models", "add", BASE, "--max-replicas", 2)

    def edit(one: dict[str, Any]) -> None:
        annotations(one).update({f"{SCALE}max-scale": "7", f"{SCALE}window": "90s"})

    cluster.edit("kn", TRAIN, edit)
    said = cluster.done("models", "add", BASE, "--max-replicas", 3, "--max-runs", 4)
    found = cluster.server.objects[TRAIN].object
    assert annotations(found)[f"{SCALE}max-scale"] == "7" and annotations(found)[f"{SCALE}window"] == "90s"
    assert found["spec"]["template"]["spec"]["containerConcurrency"] == 4, "the rest is applied"
    assert f"kept {SCALE}max-scale as kn has set it" in said and f"kept {SCALE}window" in said


def test_a_bound_that_two_others_have_set_is_kept_too(cluster: Cluster) -> None:
    cluster.done("models", "add", BASE)
    bound = {f"{SCALE}max-scale": "7"}
    cluster.edit("kn", TRAIN, lambda one: annotations(one).update(bound))
    same = {
        "apiVersion": SERVICES,
        "kind": "Service",
        "metadata": {"name": TRAIN.name, "namespace": TRAIN.namespace},
        "spec": {"template": {"metadata": {"annotations": bound}}},
    }
    with cluster.server.changed:
        cluster.server.apply(TRAIN, same, "gitops", force=False, dry_run=False)
    said = cluster.done("models", "add", BASE, "--max-replicas", 3)
    assert all(f"kept {SCALE}max-scale as {name} has set it" in said for name in ("kn", "gitops"))
    assert annotations(cluster.server.objects[TRAIN].object)[f"{SCALE}max-scale"] == "7"


def test_any_other_field_of_somebody_elses_is_an_error_and_nothing_is_forced(cluster: Cluster) -> None:
    cluster.done("models", "add", BASE)

    def edit(one: dict[str, Any]) -> None:
        one["spec"]["template"]["spec"]["containerConcurrency"] = 3
        annotations(one)[f"{SCALE}max-scale"] = "7"

    cluster.edit("kn", TRAIN, edit)
    found = cluster.run("models", "add", BASE)
    assert found.exit_code == 1 and "spec.template.spec.containerConcurrency (by kn)" in found.stderr
    assert "max-scale" not in found.stderr
    assert cluster.server.objects[TRAIN].object["spec"]["template"]["spec"]["containerConcurrency"] == 3


def test_the_same_image_that_was_set_with_kn_is_no_conflict_and_another_is(cluster: Cluster) -> None:
    """Knative's defaults make the list of containers another one than the manifest's."""
    cluster.done("models", "add", BASE, "--registry", "old.example")

    def image(registry: str) -> Callable[[dict[str, Any]], None]:
        def change(one: dict[str, Any]) -> None:
            (container,) = one["spec"]["template"]["spec"]["containers"]
            container["image"] = f"{registry}/train:{container['image'].rpartition(':')[2]}"

        return change

    cluster.edit("kn", TRAIN, image("new.example"))
    found = cluster.run("models", "add", BASE, "--registry", "newer.example")
    assert found.exit_code == 1 and "spec.template.spec.containers (by kn)" in found.stderr
    said = cluster.done("models", "add", BASE, "--registry", "new.example", "--max-runs", 3)
    assert "kept spec.template.spec.containers as kn has set it" in said
    assert cluster.server.objects[TRAIN].object["spec"]["template"]["spec"]["containerConcurrency"] == 3


def test_a_conflict_of_one_service_leaves_the_other_as_it_was(cluster: Cluster) -> None:
    cluster.done("models", "add", BASE)
    sample = TRAIN._replace(name=service_name("sample", BASE))
    cluster.edit("kn", sample, lambda one: one["spec"]["template"]["spec"].update(timeoutSeconds=60))
    before = cluster.server.version
    assert cluster.run("models", "add", BASE, "--max-runs", 3).exit_code == 1
    assert cluster.server.version == before


def test_what_is_not_said_again_stays_as_it_was(cluster: Cluster) -> None:
    chosen = ("--gpus", 2, "--max-runs", 5, "--max-replicas", 3, "--source", "s3://models/qwen")
    cluster.server.flags |= GPU_FLAGS
    cluster.done("models", "add", BASE, *chosen, "--overlay", "gpu", "--engine", "vllm", "--registry", "old")
    again = cluster.run("models", "add", BASE, "--registry", "new", "--max-runs", 6)
    assert "as before: --engine vllm, --gpus 2, --max-replicas 3, --overlay gpu" in again.stderr
    train = cluster.server.objects[TRAIN].object
    assert train["spec"]["template"]["spec"]["containerConcurrency"] == 6
    (container,) = train["spec"]["template"]["spec"]["containers"]
    assert container["image"].startswith("new/train:")
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "2"
    assert variables(train)["REKINDLE_BASE_SOURCE"] == "s3://models/qwen"
    assert train["spec"]["template"]["spec"]["runtimeClassName"] == "nvidia"
    cluster.done("models", "add", BASE, "--gpus", 0, "--engine", "torch", "--overlay", "base")
    train = cluster.server.objects[TRAIN].object
    assert variables(train)["REKINDLE_DEVICE"] == "cpu"
    assert "runtimeClassName" not in train["spec"]["template"]["spec"]


def test_a_flag_that_knative_lacks_is_one_line_that_names_the_field(cluster: Cluster) -> None:
    found = cluster.run("models", "add", BASE, "--gpus", 1, "--overlay", "gpu")
    assert found.exit_code == 1 and found.stderr.count("\n") == 1
    assert "must not set the field(s): spec.template.spec.nodeSelector" in found.stderr
    assert "kubectl apply --server-side -f knative/overlays/gpu/features" in found.stderr
    assert not cluster.server.names(SERVICES, "services")


def test_options_that_nobody_can_read_are_an_error_that_names_the_annotation(cluster: Cluster) -> None:
    cluster.done("models", "add", BASE)
    cluster.server.objects[TRAIN].object["metadata"]["annotations"]["rekindle.dev/options"] = (
        '{"gpus": "one"}'
    )
    found = cluster.run("models", "add", BASE)
    assert found.exit_code == 1 and "annotation rekindle.dev/options" in found.stderr


def test_a_model_whose_services_would_be_anothers_is_refused(cluster: Cluster) -> None:
    cluster.done("models", "add", BASE)
    cluster.server.objects[TRAIN].object["metadata"]["annotations"]["rekindle.dev/base-model"] = "other"
    found = cluster.run("models", "add", BASE)
    assert found.exit_code == 1 and "the services of 'other' have the same names" in found.stderr


def test_names_that_read_alike_are_models_of_their_own(cluster: Cluster) -> None:
    for base in ("lab/Tiny", "lab/tiny", "lab-tiny", f"lab/{'tiny' * 45}"):
        cluster.done("models", "add", base)
    found = json.loads(cluster.done("models", "list", "--json"))
    assert len({one["base"] for one in found}) == 4 and len({one["name"] for one in found}) == 8
    assert max(len(one["name"]) for one in found) <= 63 - len("-00001-deployment")


def test_a_dry_run_and_a_diff_change_nothing(cluster: Cluster) -> None:
    cluster.done("models", "add", BASE)
    before = cluster.server.version
    assert "changed" in cluster.done("models", "add", BASE, "--max-runs", 3, "--dry-run")
    lines = cluster.done("models", "add", BASE, "--max-runs", 3, "--diff").splitlines()
    changed = [line for line in lines if line[0] in "+-" and line[1] == " " and "/options:" not in line]
    assert changed == ["-      containerConcurrency: 16", "+      containerConcurrency: 3"]
    assert cluster.server.version == before


def test_models_are_listed_as_they_are(cluster: Cluster) -> None:
    cluster.done("models", "add", BASE, "--gpus", 1, "--max-runs", 8)
    cluster.edit("kn", TRAIN, lambda one: annotations(one).update({f"{SCALE}max-scale": "7"}))
    sample, train = json.loads(cluster.done("models", "list", "--json"))
    assert (train["base"], train["gpus"], train["concurrency"], train["max_scale"]) == (BASE, 1, 8, "7")
    assert (sample["kind"], sample["engine"], sample["ready"]) == ("sample", "torch", True)
    assert BASE in cluster.done("models", "list")


def test_without_models_the_list_is_empty(cluster: Cluster) -> None:
    assert json.loads(cluster.done("models", "list", "--json")) == []


# ---- Removing ----


def test_a_removed_model_has_no_service_and_a_job_has_it_forgotten(cluster: Cluster) -> None:
    cluster.done("models", "add", BASE, "--registry", "r.example")
    cluster.done("models", "add", "other")
    cluster.done("models", "remove", BASE, "--yes")
    assert cluster.server.names(SERVICES, "services") == {
        service_name(kind, "other") for kind in ("train", "sample")
    }
    assert cluster.server.names("batch/v1", "jobs") == {
        service_name("forget", BASE),
        service_name("register", "other"),
    }
    job = cluster.server.get("batch/v1", "jobs", service_name("forget", BASE))
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert [*container["command"], *container["args"]][1:] == ["-m", "services.train.register", "--remove"]
    assert container["image"].startswith("r.example/train:") and variables(job)["REKINDLE_BASE_NAME"] == BASE


def test_a_removal_that_was_cut_short_is_repeated(cluster: Cluster) -> None:
    cluster.done("models", "add", BASE)
    cluster.server.forbidden.add(("patch", "jobs"))
    assert cluster.run("models", "remove", BASE, "--yes").exit_code == 1
    cluster.server.forbidden.clear()
    cluster.done("models", "remove", BASE, "--yes")
    assert cluster.server.names("batch/v1", "jobs") == {service_name("forget", BASE)}


def test_a_model_that_comes_back_is_not_forgotten_by_an_old_job(cluster: Cluster) -> None:
    for _ in range(2):
        cluster.done("models", "add", BASE)
        assert cluster.server.names("batch/v1", "jobs") == {service_name("register", BASE)}
        cluster.done("models", "remove", BASE, "--yes")


def test_removing_asks_first_and_a_model_that_is_not_there_is_an_error(cluster: Cluster) -> None:
    cluster.done("models", "add", BASE)
    assert cluster.run("models", "remove", BASE, input="n\n").exit_code == 1
    assert len(cluster.server.names(SERVICES, "services")) == 2
    found = cluster.run("models", "remove", "other", "--yes")
    assert found.exit_code == 1 and f"no base model 'other' in rekindle; there are: {BASE}" in found.stderr

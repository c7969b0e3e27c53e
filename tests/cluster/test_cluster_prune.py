"""What manifests no longer have goes with the next deployment, and nothing else does."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from rekindle.cluster.api import Ref
from rekindle.cluster.inventory import left_over
from tests.cluster.api_server import Key
from tests.cluster.simulated import Cluster

OLD = Key("v1", "configmaps", "rekindle", "old")


def config_map(name: str, **about: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": "rekindle", **about},
    }


@pytest.fixture
def place(small: Path) -> Path:
    """The small overlay with an object more."""
    (small / "old.yaml").write_text(yaml.safe_dump(config_map("old")))
    with_object(small)
    return small


def with_object(place: Path, *files: str) -> None:
    kustomization = place / "kustomization.yaml"
    before = kustomization.read_text().partition("  - old.yaml")[0]
    kustomization.write_text(before + "".join(f"  - {one}\n" for one in files or ("old.yaml",)))


def without_object(place: Path) -> None:
    kustomization = place / "kustomization.yaml"
    kustomization.write_text(kustomization.read_text().replace("  - old.yaml\n", ""))


def deployed(cluster: Cluster, place: Path, *options: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        cluster.done("deploy", "--overlay", place, "--wait", 0, "--json", *options)
    )
    return found


def removed(said: dict[str, Any]) -> list[str]:
    return [one["name"] for one in said["objects"] if one["action"] == "removed"]


def test_an_object_that_the_manifests_no_longer_have_goes(cluster: Cluster, place: Path) -> None:
    deployed(cluster, place)
    assert OLD in cluster.server.objects
    without_object(place)
    before = {*cluster.server.objects}
    assert removed(deployed(cluster, place)) == ["old"]
    assert before - {*cluster.server.objects} == {OLD}
    assert removed(deployed(cluster, place)) == []


def test_a_dry_run_and_a_diff_show_it_and_leave_it(cluster: Cluster, place: Path) -> None:
    deployed(cluster, place)
    without_object(place)
    before = cluster.server.version
    assert removed(deployed(cluster, place, "--dry-run")) == ["old"]
    lines = cluster.done("deploy", "--overlay", place, "--diff").splitlines()
    assert "-  name: old" in lines and not [line for line in lines if line[:1] == "+" and line[1] != "+"]
    assert cluster.server.version == before


def test_what_was_there_before_us_stays(cluster: Cluster, place: Path) -> None:
    cluster.server.put({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "rekindle"}})
    cluster.server.put({**config_map("old"), "data": {"theirs": "yes"}})
    for _ in range(2):
        deployed(cluster, place)
    without_object(place)
    assert removed(deployed(cluster, place)) == []
    assert cluster.server.objects[OLD].object["data"] == {"theirs": "yes"}


def test_what_somebody_else_has_made_under_a_name_of_ours_stays(cluster: Cluster, place: Path) -> None:
    deployed(cluster, place)
    del cluster.server.objects[OLD]
    cluster.server.put(config_map("old"))
    without_object(place)
    assert removed(deployed(cluster, place)) == []
    assert OLD in cluster.server.objects


def test_what_somebody_else_made_anew_and_we_applied_to_stays(cluster: Cluster, place: Path) -> None:
    deployed(cluster, place)
    del cluster.server.objects[OLD]
    cluster.server.put(config_map("old"))
    deployed(cluster, place)
    without_object(place)
    assert removed(deployed(cluster, place)) == []


@pytest.mark.parametrize(
    ("one", "reason"),
    [
        ({"kind": "PersistentVolumeClaim", "spec": {}}, "it may hold what nothing else does"),
        ({"kind": "Secret", "stringData": {"a": "b"}}, "it may hold what nothing else does"),
        ({"labels": {"rekindle.dev/base": "x"}}, "it belongs to a base model"),
    ],
)
def test_what_holds_data_or_belongs_to_a_model_stays_and_is_named(
    cluster: Cluster, place: Path, one: dict[str, Any], reason: str
) -> None:
    about = config_map("old", labels=one.pop("labels", {}))
    (place / "old.yaml").write_text(yaml.safe_dump({**about, **one}))
    deployed(cluster, place)
    without_object(place)
    for _ in range(2):
        said = deployed(cluster, place)
        assert removed(said) == [] and len(said["stays"]) == 1
        assert said["stays"][0].endswith(f"stays, though the manifests no longer have it: {reason}")


def test_models_secrets_and_what_others_have_made_survive_another_overlay(
    cluster: Cluster, small: Path
) -> None:
    cluster.done("deploy", "--wait", 0)
    cluster.done("models", "add", "Qwen/Qwen3-0.6B")
    cluster.server.put(config_map("theirs", labels={"app.kubernetes.io/part-of": "rekindle"}))
    kept = [one for one in cluster.server.objects if "qwen" in one.name or one.plural == "secrets"]
    deployed(cluster, small)
    assert {*kept} | {Key("v1", "configmaps", "rekindle", "theirs")} <= cluster.server.objects.keys()
    assert cluster.server.names("apps/v1", "statefulsets") == set()


def test_a_folder_that_is_no_whole_installation_removes_nothing(
    cluster: Cluster, place: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    deployed(cluster, place)
    before = {*cluster.server.objects}
    more = tmp_path_factory.mktemp("more")
    (more / "more.yaml").write_text(yaml.safe_dump(config_map("more")))
    (more / "kustomization.yaml").write_text("resources: [more.yaml]")
    assert removed(deployed(cluster, more)) == []
    assert {*cluster.server.objects} - before == {OLD._replace(name="more")} and before <= {
        *cluster.server.objects
    }
    assert removed(deployed(cluster, place)) == []


def test_fewer_servers_leave_no_object_and_say_which_volumes_stay(cluster: Cluster) -> None:
    cluster.done("deploy", "--overlay", "ha", "--wait", 0)
    trial = deployed(cluster, Path("base"), "--dry-run")
    said = deployed(cluster, Path("base"))
    assert removed(said) == removed(trial) == ["nats-routes", "nats"]
    assert said["stays"] == trial["stays"] == [
        "PersistentVolumeClaim data-nats-1, data-nats-2 stays, with what nats has stored there"
    ]  # fmt: skip
    assert cluster.server.get("apps/v1", "statefulsets", "nats")["spec"]["replicas"] == 1
    assert "affinity" not in cluster.server.get("apps/v1", "statefulsets", "nats")["spec"]["template"]["spec"]


def test_a_deployment_that_was_cut_short_knows_what_it_has_made(cluster: Cluster, place: Path) -> None:
    cluster.server.forbidden.add(("patch", "deployments"))
    assert cluster.run("deploy", "--overlay", place).exit_code == 1
    cluster.server.forbidden.clear()
    without_object(place)
    assert removed(deployed(cluster, place)) == ["old"]


def test_what_may_not_be_removed_is_tried_again(cluster: Cluster, place: Path) -> None:
    deployed(cluster, place)
    without_object(place)
    cluster.server.forbidden.add(("delete", "configmaps"))
    found = cluster.run("deploy", "--overlay", place, "--wait", 0)
    assert found.exit_code == 1 and "cannot delete" in found.stderr
    cluster.server.forbidden.clear()
    assert removed(deployed(cluster, place)) == ["old"]


def test_two_that_deploy_at_once_lose_no_name(cluster: Cluster, place: Path) -> None:
    """The other one's objects come between our look and our words."""
    begun: list[bool] = []

    def deploy_too(verb: str, key: Key) -> None:
        if (verb, key.plural, key.name) == ("patch", "namespaces", "rekindle") and not begun:
            begun.append(True)
            deployed(cluster, place)

    cluster.server.obstacles.append(deploy_too)
    deployed(cluster, place)
    without_object(place)
    assert begun and removed(deployed(cluster, place)) == ["old"]


def test_a_record_that_nobody_can_read_is_an_error_that_names_it(cluster: Cluster, place: Path) -> None:
    deployed(cluster, place)
    cluster.server.get("v1", "configmaps", "rekindle-deployed")["data"]["objects"] = "["
    found = cluster.run("deploy", "--overlay", place)
    assert found.exit_code == 1 and "ConfigMap rekindle-deployed" in found.stderr


def test_an_object_whose_api_has_a_new_version_is_the_same_object() -> None:
    """The cluster serves it under both, so removing it as it was called before would remove it."""
    about: dict[str, Any] = {
        "metadata": {"name": "one", "namespace": "rekindle"},
        "kind": "HorizontalPodAutoscaler",
    }
    known = [Ref(f"autoscaling/{version}", about["kind"], "one", "rekindle") for version in ("v1", "v2beta2")]
    assert left_over(known, [{**about, "apiVersion": "autoscaling/v2"}]) == frozenset()
    assert left_over(known, [{**about, "apiVersion": "other/v2"}]) == frozenset(known)

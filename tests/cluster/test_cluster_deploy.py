"""`rekindle deploy` against a simulated cluster, through the real client."""

import copy
import json
import re
import socket
from pathlib import Path
from typing import Any

import pytest
import yaml

from rekindle.cluster import manifests
from rekindle.cluster.place import installation
from rekindle.types.keys import key_digest
from tests.cluster.api_server import GoneAway, Key, Refusal
from tests.cluster.simulated import URL, Cluster, well

GATEWAY = Key("serving.knative.dev/v1", "services", "rekindle", "gateway")


def annotations(one: dict[str, Any]) -> dict[str, str]:
    found: dict[str, str] = one["spec"]["template"]["metadata"]["annotations"]
    return found


def versions(cluster: Cluster) -> dict[Key, str]:
    return {key: one.object["metadata"]["resourceVersion"] for key, one in cluster.server.objects.items()}


def test_all_objects_are_there_and_the_end_says_how_to_reach_it(cluster: Cluster) -> None:
    said = cluster.done("deploy")
    wanted = installation(manifests.overlay("base"))
    assert len(cluster.server.objects) == len(wanted) + 7 + 1, "secrets, and what it has written down"
    assert f"REKINDLE_BASE_URL={URL}" in said


def test_namespace_comes_first_then_configuration_then_secrets_then_the_rest(cluster: Cluster) -> None:
    cluster.done("deploy")
    asked = [plural for verb, plural in cluster.server.requests if verb in ("patch", "create")]
    assert asked[:2] == ["namespaces", "configmaps"], "what it is about to make"
    order = [asked.index(one, 2) for one in ("serviceaccounts", "configmaps", "secrets", "statefulsets")]
    assert order == sorted(order) and asked.index("deployments") > asked.index("secrets")


def test_a_second_deployment_changes_nothing(cluster: Cluster) -> None:
    cluster.done("deploy")
    before = versions(cluster)
    said = json.loads(cluster.done("deploy", "--json"))
    assert versions(cluster) == before
    assert {one["action"] for one in said["objects"]} == {"unchanged"}
    assert said["secrets"] == [] and said["key"] is None and said["url"] == URL


def test_the_first_key_is_shown_once_and_only_its_hash_is_kept(cluster: Cluster, small: Path) -> None:
    (key,) = re.findall(r"shown this once: (tml-\S+)", cluster.done("deploy", "--overlay", small))
    stored = cluster.server.secret("rekindle-keys")["keys.json"]
    assert json.loads(stored) == [{"hash": key_digest(key), "tenant": "default", "name": "first"}]
    assert all(key not in json.dumps(one.object) for one in cluster.server.objects.values())
    assert "tml-" not in cluster.done("deploy", "--overlay", small).replace("tml-…", "")


def test_the_dispatchers_key_opens_services_by_its_hash(cluster: Cluster, small: Path) -> None:
    cluster.done("deploy", "--overlay", small, "--wait", 0)
    found = cluster.server.secret("rekindle-activation")
    assert json.loads(found["REKINDLE_SYSTEM_KEYS"]) == [key_digest(found["REKINDLE_ACTIVATION_KEY"])]


def test_secrets_that_are_there_stay(cluster: Cluster, small: Path) -> None:
    cluster.server.put({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "rekindle"}})
    about = {"name": "rekindle-blobs", "namespace": "rekindle"}
    own = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": about,
        "stringData": {"AWS_ACCESS_KEY_ID": "mine"},
    }
    cluster.server.put(own)
    said = cluster.done("deploy", "--overlay", small)
    assert cluster.server.secret("rekindle-blobs") == {"AWS_ACCESS_KEY_ID": "mine"}
    assert "rekindle-blobs," not in said and "rekindle-nats," in said


def test_two_installations_share_no_secret(cluster: Cluster, small: Path) -> None:
    for namespace in ("one", "two"):
        cluster.done("deploy", "--overlay", small, "--namespace", namespace, "--wait", 0)
    for name in ("rekindle-nats", "rekindle-blobs", "rekindle-keys", "rekindle-links", "rekindle-activation"):
        one, two = (cluster.server.secret(name, space) for space in ("one", "two"))
        assert one != two


# ---- What others have set ----


def test_a_bound_of_scale_that_was_set_with_kn_is_kept(cluster: Cluster, small: Path) -> None:
    cluster.done("deploy", "--overlay", small)
    cluster.edit(
        "kn", GATEWAY, lambda one: annotations(one).update({"autoscaling.knative.dev/max-scale": "9"})
    )
    said = cluster.done("deploy", "--overlay", small)
    assert annotations(cluster.server.objects[GATEWAY].object)["autoscaling.knative.dev/max-scale"] == "9"
    assert "gateway: kept autoscaling.knative.dev/max-scale as kn has set it" in said


def test_another_field_is_taken_back_while_the_bound_is_kept(cluster: Cluster, small: Path) -> None:
    cluster.done("deploy", "--overlay", small)

    def edit(one: dict[str, Any]) -> None:
        annotations(one)["autoscaling.knative.dev/min-scale"] = "2"
        one["spec"]["template"]["spec"]["timeoutSeconds"] = 60

    cluster.edit("kn", GATEWAY, edit)
    said = cluster.done("deploy", "--overlay", small)
    found = cluster.server.objects[GATEWAY].object
    assert found["spec"]["template"]["spec"]["timeoutSeconds"] == 300
    assert annotations(found)["autoscaling.knative.dev/min-scale"] == "2"
    assert "gateway: took spec.template.spec.timeoutSeconds back from kn" in said


def test_what_others_add_stays(cluster: Cluster, small: Path) -> None:
    cluster.done("deploy", "--overlay", small)

    def edit(one: dict[str, Any]) -> None:
        one["spec"]["traffic"] = [{"revisionName": "gateway-00001", "percent": 100}]
        annotations(one)["client.knative.dev/updateTimestamp"] = "now"

    cluster.edit("Go-http-client", GATEWAY, edit)
    cluster.done("deploy", "--overlay", small, "--registry", "registry.example/team")
    found = cluster.server.objects[GATEWAY].object
    assert found["spec"]["traffic"] and annotations(found)["client.knative.dev/updateTimestamp"] == "now"
    assert found["spec"]["template"]["spec"]["containers"][0]["image"].startswith(
        "registry.example/team/gateway:"
    )


def test_a_job_that_changes_is_made_anew(cluster: Cluster, small: Path) -> None:
    cluster.done("deploy", "--overlay", small, "--wait", 0)
    key = Key("batch/v1", "jobs", "rekindle", "blobs-bucket")
    pod = cluster.server.objects[key].object["spec"]["template"]["spec"]
    pod["serviceAccountName"] = "other"
    assert "replaced" in cluster.done("deploy", "--overlay", small, "--dry-run")
    assert pod["serviceAccountName"] == "other"
    said = json.loads(cluster.done("deploy", "--overlay", small, "--wait", 0, "--json"))
    assert [one["name"] for one in said["objects"] if one["action"] == "replaced"] == ["blobs-bucket"]
    pod = cluster.server.objects[key].object["spec"]["template"]["spec"]
    assert pod["serviceAccountName"] == "rekindle"


def test_a_job_that_has_failed_is_tried_anew_and_one_that_is_done_is_not(
    cluster: Cluster, small: Path
) -> None:
    key = Key("batch/v1", "jobs", "rekindle", "blobs-bucket")
    for state, action in (("Failed", "replaced"), ("Complete", "unchanged")):
        cluster.done("deploy", "--overlay", small, "--wait", 0)
        cluster.server.objects[key].object["status"] = {"conditions": [{"type": state, "status": "True"}]}
        assert action in cluster.done("deploy", "--overlay", small, "--dry-run", "--json")
        said = json.loads(cluster.done("deploy", "--overlay", small, "--wait", 0, "--json"))
        assert [one["action"] for one in said["objects"] if one["name"] == "blobs-bucket"] == [action]


def test_images_stay_where_they_are_unless_another_place_is_named(cluster: Cluster, small: Path) -> None:
    cluster.done("deploy", "--overlay", small, "--wait", 0, "--registry", "r.example/team")
    said = json.loads(cluster.done("deploy", "--overlay", small, "--wait", 0, "--json"))
    assert {one["action"] for one in said["objects"]} == {"unchanged"}
    cluster.done("deploy", "--overlay", small, "--wait", 0, "--registry", "dev.local/rekindle")
    (container,) = cluster.server.objects[GATEWAY].object["spec"]["template"]["spec"]["containers"]
    assert container["image"].startswith("dev.local/rekindle/gateway:")


def test_a_job_that_is_refused_for_another_reason_stays(cluster: Cluster, small: Path) -> None:
    cluster.done("deploy", "--overlay", small, "--wait", 0)

    def refuse(verb: str, key: Key) -> None:
        if (verb, key.plural) == ("patch", "jobs"):
            raise Refusal(422, "Invalid", 'Job.batch "blobs-bucket" is invalid: spec.template: a policy')

    cluster.server.obstacles.append(refuse)
    found = cluster.run("deploy", "--overlay", small, "--wait", 0)
    assert found.exit_code == 1 and "Job.batch blobs-bucket: " in found.stderr
    assert cluster.server.names("batch/v1", "jobs") == {"blobs-bucket"}


def test_models_that_run_other_images_are_named(cluster: Cluster, small: Path) -> None:
    cluster.done("deploy", "--overlay", small, "--wait", 0)
    cluster.done("models", "add", "Qwen/Qwen3-8B")
    found = cluster.run("deploy", "--overlay", small, "--wait", 0, "--registry", "registry.example")
    assert "Qwen/Qwen3-8B runs other images" in found.stderr
    cluster.done("models", "add", "Qwen/Qwen3-8B")
    assert not cluster.run("deploy", "--overlay", small, "--wait", 0, "--registry", "registry.example").stderr


def as_kubectl_does(cluster: Cluster, text: str) -> None:
    """`kubectl apply`: objects written as a whole, with what was applied as an annotation."""
    for one in yaml.safe_load_all(text):
        applied = {"kubectl.kubernetes.io/last-applied-configuration": json.dumps(one)}
        about = {**one["metadata"], "annotations": {**one["metadata"].get("annotations", {}), **applied}}
        cluster.server.put({**one, "metadata": about}, "kubectl-client-side-apply")


def test_what_was_rendered_and_applied_by_kubectl_is_taken_over_unchanged(
    cluster: Cluster, small: Path
) -> None:
    as_kubectl_does(cluster, cluster.done("deploy", "--overlay", small, "--render"))
    as_kubectl_does(cluster, cluster.done("models", "add", "Qwen/Qwen3-0.6B", "--render"))
    before = {
        key: copy.deepcopy(one.object["spec"])
        for key, one in cluster.server.objects.items()
        if "spec" in one.object
    }
    cluster.done("deploy", "--overlay", small)
    cluster.done("models", "add", "Qwen/Qwen3-0.6B", "--wait", 0)
    assert {key: cluster.server.objects[key].object["spec"] for key in before} == before
    said = json.loads(cluster.done("deploy", "--overlay", small, "--json"))
    assert {one["action"] for one in said["objects"]} == {"unchanged"}


# ---- Looking before ----


def test_a_dry_run_changes_nothing_and_shows_no_key(cluster: Cluster, small: Path) -> None:
    said = cluster.done("deploy", "--overlay", small, "--dry-run")
    assert not cluster.server.objects and "tml-" not in said
    assert "secrets to be made: rekindle-nats" in said and "unchecked" in said


def test_a_dry_run_of_a_change_names_it(cluster: Cluster, small: Path) -> None:
    cluster.done("deploy", "--overlay", small)
    before = versions(cluster)
    said = json.loads(
        cluster.done("deploy", "--overlay", small, "--dry-run", "--json", "--registry", "registry.example")
    )
    changed = {one["name"] for one in said["objects"] if one["action"] == "changed"}
    assert changed == {"gateway", "dispatcher"} and versions(cluster) == before


def test_a_diff_shows_what_would_change_and_nothing_else(cluster: Cluster, small: Path) -> None:
    cluster.done("deploy", "--overlay", small)
    before = versions(cluster)
    assert cluster.done("deploy", "--overlay", small, "--diff") == ""
    lines = cluster.done(
        "deploy", "--overlay", small, "--diff", "--registry", "registry.example"
    ).splitlines()
    changed = [line for line in lines if re.match(r"[+-][^+-]", line)]
    assert all("image:" in line for line in changed) and len(changed) == 4
    assert versions(cluster) == before


def test_render_prints_what_is_applied_and_asks_no_cluster(cluster: Cluster) -> None:
    printed = list(yaml.safe_load_all(cluster.done("deploy", "--render", "--namespace", "mine")))
    assert not cluster.server.requests
    assert printed == installation(manifests.overlay("base"), "mine")
    assert {one["metadata"].get("namespace", "mine") for one in printed} == {"mine"}
    assert "Secret" not in {one["kind"] for one in printed}


# ---- Waiting and errors ----


def test_it_waits_until_the_last_workload_is_ready(cluster: Cluster, small: Path) -> None:
    asked = []

    def later(one: dict[str, Any]) -> dict[str, Any] | None:
        """The gateway is ready when it is written a second time."""
        if one["kind"] == "Service" and one["metadata"]["name"] == "gateway":
            asked.append(one)
            return {"observedGeneration": 0, "conditions": []} if len(asked) == 1 else None
        return None

    cluster.server.controllers.append(later)
    api = cluster.api()
    cluster.done("deploy", "--overlay", small, "--wait", 0)

    from rekindle.cluster.deploy import wait

    def heard(said: str) -> None:
        cluster.edit(
            "kn", GATEWAY, lambda one: one["metadata"].setdefault("labels", {}).update(touched="yes")
        )

    objects = [one.object for one in cluster.server.objects.values()]
    assert wait(api, objects, "rekindle", 60, heard) == [] and len(asked) == 2


def test_what_is_not_ready_in_time_is_named_and_the_exit_code_is_one(cluster: Cluster, small: Path) -> None:
    cluster.server.controllers.append(
        lambda one: (
            {
                "observedGeneration": 9,
                "conditions": [{"type": "Ready", "status": "False", "message": "no image"}],
            }
            if one["metadata"]["name"] == "gateway" and "template" in one.get("spec", {})
            else None
        )
    )
    found = cluster.run("deploy", "--overlay", small, "--wait", 1)
    assert found.exit_code == 1 and "not ready: gateway: no image" in found.stderr


def test_what_is_removed_meanwhile_is_not_ready(cluster: Cluster, small: Path) -> None:
    from rekindle.cluster.deploy import wait

    cluster.done("deploy", "--overlay", small, "--wait", 0)
    objects = [one.object for one in cluster.server.objects.values()]
    del cluster.server.objects[GATEWAY]
    assert wait(cluster.api(), objects, "rekindle", 0, lambda said: None) == ["gateway: gone"]


def test_a_job_that_fails_is_named_at_once_with_where_to_look(cluster: Cluster, small: Path) -> None:
    cluster.server.controllers.append(
        lambda one: {"conditions": [{"type": "Failed", "status": "True"}]} if one["kind"] == "Job" else None
    )
    found = cluster.run("deploy", "--overlay", small, "--wait", 200)
    assert found.exit_code == 1
    assert "not ready: blobs-bucket: failed; kubectl logs -n rekindle job/blobs-bucket" in found.stderr
    workloads = json.loads(cluster.done("status", "--json"))["workloads"]
    assert workloads["blobs-bucket"].startswith("blobs-bucket: failed")


def test_without_a_domain_the_end_says_how_to_forward_a_port(cluster: Cluster, small: Path) -> None:
    def inside(one: dict[str, Any]) -> dict[str, Any] | None:
        if one["metadata"]["name"] == "gateway" and "template" in one.get("spec", {}):
            return {**well(one), "url": "http://gateway.rekindle.svc.cluster.local"}  # type: ignore[dict-item]
        return None

    cluster.server.controllers.append(inside)
    said = cluster.done("deploy", "--overlay", small)
    assert "port-forward -n rekindle deployment/gateway-00001-deployment 8000:8080" in said
    assert "svc.cluster.local" not in said


def test_a_cluster_without_knative_is_one_line(cluster: Cluster) -> None:
    cluster.server.without.add("serving.knative.dev/v1")
    found = cluster.run("deploy")
    assert found.exit_code == 1 and "is Knative Serving installed?" in found.stderr
    assert found.stderr.count("\n") == 1
    assert not cluster.server.objects, "it looks before it makes anything"


def test_what_the_user_may_not_do_is_one_line_that_says_so(cluster: Cluster, small: Path) -> None:
    cluster.server.forbidden.add(("create", "secrets"))
    found = cluster.run("deploy", "--overlay", small)
    assert found.exit_code == 1 and "secrets is forbidden" in found.stderr and found.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--context", "nowhere"), "nowhere"),
        (("--namespace", "Not_One"), "namespace 'Not_One'"),
        (("--overlay", "/not/there"), "overlay '/not/there'"),
    ],
)
def test_a_wrong_option_is_one_line_that_names_it(
    cluster: Cluster, arguments: tuple[str, ...], said: str
) -> None:
    found = cluster.run("deploy", *arguments)
    assert found.exit_code == 1 and said in found.stderr and found.stderr.count("\n") == 1


def test_another_context_is_another_place(cluster: Cluster, small: Path) -> None:
    assert "created" in cluster.done("deploy", "--overlay", small, "--context", "other", "--wait", 0)


def test_a_cluster_that_does_not_answer_is_one_line(cluster: Cluster, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
    cluster.file.write_text(cluster.file.read_text().replace(cluster.server.url, url))
    found = cluster.run("deploy")
    assert found.exit_code == 1 and "does not answer" in found.stderr and found.stderr.count("\n") == 1


# ---- What goes wrong half-way ----


def test_the_first_key_is_shown_even_if_the_rest_fails(cluster: Cluster, small: Path) -> None:
    cluster.server.forbidden.add(("patch", "deployments"))
    for options in ((), ("--json",)):
        found = cluster.run("deploy", "--overlay", small, "--namespace", f"n{len(options)}", *options)
        assert found.exit_code == 1 and found.stdout == ""
        (key,) = re.findall(r"shown this once: (tml-\S+)", found.stderr)
        (entry,) = json.loads(cluster.server.secret("rekindle-keys", f"n{len(options)}")["keys.json"])
        assert entry["hash"] == key_digest(key)


def test_a_deployment_that_was_cut_short_goes_on_when_it_is_repeated(cluster: Cluster, small: Path) -> None:
    def go_away(verb: str, key: Key) -> None:
        if (verb, key.plural, key.name) == ("patch", "services", "gateway"):
            raise GoneAway

    cluster.server.obstacles.append(go_away)
    found = cluster.run("deploy", "--overlay", small)
    assert found.exit_code == 1 and "the cluster does not answer" in found.stderr
    before = cluster.server.secret("rekindle-keys")
    cluster.server.obstacles.clear()
    said = json.loads(cluster.done("deploy", "--overlay", small, "--json"))
    assert {one["action"] for one in said["objects"]} == {"created", "unchanged"}
    assert cluster.server.secret("rekindle-keys") == before and said["key"] is None


def test_a_cluster_that_goes_away_while_one_waits_is_one_line(cluster: Cluster, small: Path) -> None:
    def go_away(verb: str, key: Key) -> None:
        if (verb, key.plural) == ("list", "deployments"):
            raise GoneAway

    cluster.server.obstacles.append(go_away)
    found = cluster.run("deploy", "--overlay", small)
    assert found.exit_code == 1 and "shown this once" in found.stdout and "gateway" in found.stdout
    assert "the cluster does not answer" in found.stderr and found.stderr.count("\n") == 1


def test_a_quota_is_not_taken_for_a_missing_right(cluster: Cluster, small: Path) -> None:
    full = 'deployments.apps "dispatcher" is forbidden: exceeded quota: team, requested: count/deployments.apps=1'

    def refuse(verb: str, key: Key) -> None:
        if (verb, key.plural) == ("patch", "deployments"):
            raise Refusal(403, "Forbidden", full)

    cluster.server.obstacles.append(refuse)
    found = cluster.run("deploy", "--overlay", small)
    assert f"rekindle deploy: Deployment.apps dispatcher: {full}" in found.stderr.splitlines()


def test_who_is_not_known_is_told_to_log_in(cluster: Cluster, small: Path) -> None:
    def refuse(verb: str, key: Key) -> None:
        raise Refusal(401, "Unauthorized", "Unauthorized")

    cluster.server.obstacles.append(refuse)
    found = cluster.run("deploy", "--overlay", small)
    assert found.exit_code == 1 and "log in again" in found.stderr and found.stderr.count("\n") == 1


@pytest.mark.parametrize("text", ["", "clusters: [", "kind: Config\ncurrent-context: gone\n"])
def test_a_kubeconfig_that_is_none_is_one_line(cluster: Cluster, text: str) -> None:
    cluster.file.write_text(text)
    found = cluster.run("deploy")
    assert found.exit_code == 1 and "kubeconfig" in found.stderr and found.stderr.count("\n") == 1


def test_a_field_that_cannot_change_is_an_error_that_names_it(cluster: Cluster) -> None:
    cluster.done("deploy", "--wait", 0)
    cluster.server.get("apps/v1", "statefulsets", "nats")["spec"]["serviceName"] = "other"
    found = cluster.run("deploy", "--wait", 0)
    assert found.exit_code == 1 and "StatefulSet.apps nats" in found.stderr and "Forbidden" in found.stderr


def test_without_the_extra_the_command_says_what_to_install(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "kubernetes", None)
    found = cluster.run("status")
    assert found.exit_code == 1 and "pip install 'rekindle[cluster]'" in found.stderr

"""Every manifest of every overlay is what Kubernetes and Knative take, and what makes it fail does make it fail."""

import copy
import itertools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest
import yaml

from rekindle.cluster import secrets
from rekindle.cluster.api import Api
from rekindle.cluster.render import load
from tests.knative import knative_sets as sets
from tests.knative.knative_rules import (
    DEADLINE,
    SCALING,
    complaints,
    containers,
    is_knative,
    needs_zero_initial_scale,
    pod,
    scale,
)
from tests.knative.knative_schema import FLAGGED, Manifest, flags_needed, mistakes

EVERY = sets.every()
README = sets.OVERLAYS / "gpu" / "README.md"
FLAGS = {flag for fields in FLAGGED.values() for flag in fields.values()}
NAMED_FLAGS = {flag for flag in FLAGS if f"`{flag}: enabled`" in README.read_text()}
EXAMPLE = sets.KNATIVE / "base" / "secrets.example.yaml"


def said(name: str, one: Manifest) -> list[str]:
    """All that is wrong with an object of a set."""
    return mistakes(one, NAMED_FLAGS if name.startswith("gpu model") else ()) + complaints(one)


@pytest.mark.parametrize(("name", "one"), EVERY, ids=[name for name, _ in EVERY])
def test_every_object_is_valid(name: str, one: Manifest) -> None:
    assert said(name, one) == []


def test_base_needs_no_feature_flag_and_gpus_need_those_that_the_readme_names() -> None:
    needed: dict[str, set[str]] = {name: set() for name in sets.SETS}
    for name in sets.SETS:
        for one in sets.objects(name):
            needed[name] |= flags_needed(one) if is_knative(one) else set()
    assert NAMED_FLAGS and needed.pop("gpu model") == NAMED_FLAGS
    assert all(flags == set() for flags in needed.values()), needed


def test_only_gpus_ask_for_an_initial_scale_of_zero_and_the_readme_says_what_permits_it() -> None:
    asking = {name.partition(":")[0] for name, one in EVERY if needs_zero_initial_scale(one)}
    assert asking == {"gpu model"}
    assert '`allow-zero-initial-scale: "true"`' in README.read_text()
    # What is switched on is what the table names.
    switched = [load(path) for path in sorted((README.parent / "features").glob("*.yaml"))]
    assert [one["metadata"]["name"] for (one,) in switched] == ["config-autoscaler", "config-features"]
    assert {key for (one,) in switched for key in one["data"]} == {*NAMED_FLAGS, "allow-zero-initial-scale"}


def test_one_object_a_file_and_every_file_is_used() -> None:
    for folder in (sets.KNATIVE / "base", sets.KNATIVE / "model"):
        kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
        files = {str(path.relative_to(folder)) for path in folder.rglob("*.yaml")}
        assert files - {"kustomization.yaml", EXAMPLE.name} == set(kustomization["resources"])
        for file in kustomization["resources"]:
            assert len(load(folder / file)) == 1, file


def test_every_annotation_of_scale_says_why_it_is_there() -> None:
    for path in [*(sets.KNATIVE / "base").rglob("*.yaml"), *(sets.KNATIVE / "model").glob("*.yaml")]:
        lines = path.read_text().splitlines()
        for before, line in itertools.pairwise(lines):
            if re.match(rf"\s+({SCALING}|{DEADLINE})", line):
                assert re.match(rf"\s+(#|{SCALING})", before), f"{path.name}: {line.strip()}: no word why"


class Collected:
    """A cluster that has nothing yet, and takes what it is given."""

    def __init__(self) -> None:
        self.objects: list[Manifest] = []

    def get(self, ref: object) -> None:
        return None

    def create(self, one: Manifest) -> bool:
        self.objects.append(one)
        return True


def test_secrets_by_hand_are_those_of_deploy_and_hold_nothing() -> None:
    examples, made = load(EXAMPLE), Collected()
    secrets.ensure(cast("Api", made), "rekindle")
    by_hand, by_deploy = (
        {one["metadata"]["name"]: one["stringData"].keys() for one in found}
        for found in (examples, made.objects)
    )
    assert by_hand == by_deploy
    assert [mistakes(one) for one in (*examples, *made.objects)] == [[]] * 2 * len(examples)
    for one in examples:
        secret = [text for key, text in one["stringData"].items() if not re.search("USER|KEY_ID", key)]
        assert all("CHANGE" in text for text in secret)
    assert "Secret" not in {one["kind"] for _, one in EVERY}


def test_the_password_that_deploy_makes_is_a_text_to_nats() -> None:
    made = Collected()
    secrets.ensure(cast("Api", made), "rekindle")
    found = [one["stringData"] for one in made.objects if one["metadata"]["name"].startswith("rekindle-nats")]
    passwords = {one["NATS_PASSWORD"] for one in found}
    assert len(found) == len(passwords) == 2
    assert all(re.fullmatch(r"[a-z][A-Za-z0-9]+", one) for one in passwords)


def test_the_store_is_told_the_keys_that_the_reward_service_is_told() -> None:
    made = Collected()
    secrets.ensure(cast("Api", made), "rekindle")
    (found,) = (
        one["stringData"] for one in made.objects if one["metadata"]["name"] == "rekindle-blobs-reward"
    )
    (example,) = (
        one["stringData"] for one in load(EXAMPLE) if one["metadata"]["name"] == "rekindle-blobs-reward"
    )
    told, shown = (json.loads(one["identities.json"])["identities"][0] for one in (found, example))
    assert told | {"credentials": []} == shown | {"credentials": []}
    assert told["credentials"] == [
        {"accessKey": found["AWS_ACCESS_KEY_ID"], "secretKey": found["AWS_SECRET_ACCESS_KEY"]}
    ]


@pytest.mark.parametrize("set_name", ["base", "ha"])
def test_the_namespace_takes_only_pods_that_are_restricted_and_ours_are(set_name: str) -> None:
    """What the standard asks of containers is a rule for all objects; this is what it asks of volumes."""
    labels = sets.one(set_name, "Namespace", "rekindle")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    taken = {"configMap", "emptyDir", "projected", "secret"}
    for name, one in EVERY:
        assert all(volume.keys() - {"name"} <= taken for volume in pod(one).get("volumes", [])), name


@pytest.mark.parametrize("set_name", ["base", "ha"])
def test_nats_knows_how_much_room_it_has(set_name: str) -> None:
    """Unless told, it takes three quarters of what is free when it starts: with a half full disk, nothing more."""
    servers, conf = sets.one(set_name, "StatefulSet", "nats"), sets.one(set_name, "ConfigMap", "nats")
    (claim,) = servers["spec"]["volumeClaimTemplates"]
    disk = int(claim["spec"]["resources"]["requests"]["storage"].removesuffix("Gi"))
    (stored,) = re.findall(r"max_file_store: (\d+)GB", conf["data"]["nats.conf"])
    assert disk / 2 <= int(stored) <= disk * 0.85


@pytest.mark.parametrize("name", ["nats", "blobs"])
def test_servers_in_go_know_how_much_memory_they_have(name: str) -> None:
    (container,) = containers(sets.one("base", "StatefulSet", name))
    (limit,) = (each["value"] for each in container["env"] if each["name"] == "GOMEMLIMIT")
    memory = int(container["resources"]["limits"]["memory"].removesuffix("Gi")) * 1024
    assert 0.8 * memory <= int(limit.removesuffix("MiB")) <= 0.9 * memory


def test_the_roles_permit_looking_at_three_kinds_and_nothing_else() -> None:
    roles = [one for name, one in EVERY if one["kind"] == "Role"]
    assert {one["metadata"]["name"] for one in roles} == {"dispatcher"}
    assert roles[0]["rules"] == [
        {
            "apiGroups": ["serving.knative.dev"],
            "resources": ["services", "revisions"],
            "verbs": ["list"],
        },
        {
            "apiGroups": ["autoscaling.internal.knative.dev"],
            "resources": ["podautoscalers"],
            "verbs": ["list"],
        },
    ]
    (binding,) = (one for one in sets.objects("base") if one["kind"] == "RoleBinding")
    account = sets.one("base", "ServiceAccount", "dispatcher")["metadata"]
    assert binding["subjects"] == [
        {"kind": "ServiceAccount", "name": account["name"], "namespace": account["namespace"]}
    ]
    accounts = {one["metadata"]["name"] for one in sets.objects("base") if one["kind"] == "ServiceAccount"}
    assert {pod(one)["serviceAccountName"] for _, one in EVERY if pod(one)} == accounts


# ---- What makes an object fail ----

Change = Callable[[Manifest], object]


def _set(path: str, value: object) -> Change:
    """Set what is at a path of keys and indices."""

    def change(one: Manifest) -> None:
        *way, last = [int(part) if part.isdigit() else part for part in path.split("|")]
        place: object = one
        for part in way:
            place = place[part]  # type: ignore[index]
        place[last] = value  # type: ignore[index]

    return change


CONTAINER = "spec|template|spec|containers|0"
ANNOTATION = f"spec|template|metadata|annotations|{SCALING}"
WRONG: dict[str, tuple[Change, str]] = {
    "a misspelt key": (_set(f"{ANNOTATION}minscale", "1"), "minscale is not known"),
    "an old spelling": (_set(f"{ANNOTATION}minScale", "1"), "minScale is not known"),
    "a key of scale on the service": (
        _set(f"metadata|annotations|{SCALING}min-scale", "1"),
        "min-scale is not known",
    ),
    "a number that is no text": (_set(f"{ANNOTATION}max-scale", 3), "max-scale"),
    "a window too short": (_set(f"{ANNOTATION}window", "5s"), "window does not take"),
    "a window without a unit": (_set(f"{ANNOTATION}window", "60"), "window does not take"),
    "a delay too long": (_set(f"{ANNOTATION}scale-down-delay", "2h"), "scale-down-delay does not take"),
    "more than all of it": (
        _set(f"{ANNOTATION}target-utilization-percentage", "101"),
        "target-utilization-percentage does not take",
    ),
    "two replicas for one activation": (
        _set(f"{ANNOTATION}target-utilization-percentage", "70"),
        "two replicas",
    ),
    "a metric of another autoscaler": (_set(f"{ANNOTATION}metric", "cpu"), "metric does not take"),
    "more at least than at most": (_set(f"{ANNOTATION}min-scale", "99"), "is above max-scale"),
    "no most": (_set(f"{ANNOTATION}max-scale", "0"), "which means any number"),
    "a timeout above the cluster's": (_set("spec|template|spec|timeoutSeconds", 601), "timeouts: expected"),
    "a first byte after the end": (
        _set("spec|template|spec|responseStartTimeoutSeconds", 301),
        "timeouts: expected",
    ),
    "a port of queue-proxy": (_set(f"{CONTAINER}|ports|0|containerPort", 8012), "belongs to queue-proxy"),
    "a port's name": (_set(f"{CONTAINER}|ports|0|name", "http"), "is not http1 or h2c"),
    "a second port": (
        lambda one: containers(one)[0]["ports"].append({"containerPort": 8081}),
        "expected exactly one",
    ),
    "a variable of Knative": (
        lambda one: containers(one)[0]["env"].append({"name": "PORT", "value": "8080"}),
        "PORT belongs to Knative",
    ),
    "a probe without a port": (
        lambda one: containers(one)[0]["startupProbe"]["httpGet"].pop("port"),
        "never succeeds",
    ),
    "a start that is looked for too seldom": (
        _set(f"{CONTAINER}|startupProbe|periodSeconds", 5),
        "so every second",
    ),
    "a probe more patient than Knative": (
        _set(f"{CONTAINER}|startupProbe|failureThreshold", 1800),
        "not below the progress deadline",
    ),
    "a writable root": (
        _set(f"{CONTAINER}|securityContext|readOnlyRootFilesystem", False),
        "readOnlyRootFilesystem",
    ),
    "root": (lambda one: containers(one)[0]["securityContext"].pop("runAsNonRoot"), "runAsNonRoot"),
    "no filter of calls": (
        lambda one: containers(one)[0]["securityContext"].pop("seccompProfile"),
        "seccompProfile",
    ),
    "privileged": (_set(f"{CONTAINER}|securityContext|privileged", True), "'privileged' was unexpected"),
    "a token": (_set("spec|template|spec|automountServiceAccountToken", True), "False was expected"),
    "no limit": (lambda one: containers(one)[0]["resources"].pop("limits"), "cpu is missing"),
    "a GPU without a limit": (
        _set(f"{CONTAINER}|resources|requests|nvidia.com/gpu", "1"),
        "requested without a limit",
    ),
    "a folder without a bound": (
        _set("spec|template|spec|volumes|1", {"name": "tmp", "emptyDir": {}}),
        "no sizeLimit",
    ),
    "a volume that is missing": (lambda one: pod(one)["volumes"].pop(), "missing, or there"),
    "an image without a version": (
        _set(f"{CONTAINER}|image", "dev.local/rekindle/train"),
        "registry/name:version",
    ),
    "the latest image": (
        _set(f"{CONTAINER}|image", "dev.local/rekindle/train:latest"),
        "registry/name:version",
    ),
    "a label that nobody knows": (_set("metadata|labels|rekindle.dev/kindd", "train"), "is not known"),
    "a pod that says not what it is": (
        lambda one: one["spec"]["template"]["metadata"]["labels"].pop("rekindle.dev/kind"),
        "would not know the pod",
    ),
    "a field that nobody knows": (_set("spec|template|spec|containerConcurency", 1), "containerConcurency"),
    "a number as text": (_set("spec|template|spec|containerConcurrency", "1"), "is not of type 'integer'"),
    "never: lifecycle": (_set(f"{CONTAINER}|lifecycle", {}), "'lifecycle' was unexpected"),
    "never: time to end": (
        _set("spec|template|spec|terminationGracePeriodSeconds", 9),
        "'terminationGracePeriodSeconds' was unexpected",
    ),
    "never: a policy of restarts": (
        _set("spec|template|spec|restartPolicy", "Always"),
        "'restartPolicy' was unexpected",
    ),
    "never: claims of resources": (
        _set("spec|template|spec|resourceClaims", []),
        "'resourceClaims' was unexpected",
    ),
    "never: the pod's own facts as files": (
        _set("spec|template|spec|volumes|1", {"name": "tmp", "downwardAPI": {}}),
        "'downwardAPI' was unexpected",
    ),
    "never: a network disk": (
        _set("spec|template|spec|volumes|1", {"name": "tmp", "nfs": {"server": "a", "path": "/"}}),
        "'nfs' was unexpected",
    ),
    "with a flag: a field of the pod": (
        lambda one: containers(one)[0]["env"].append(
            {"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}
        ),
        "'fieldRef' was unexpected",
    ),
    "with a flag: the pod's context": (
        _set("spec|template|spec|securityContext", {"fsGroup": 1}),
        "'securityContext' was unexpected",
    ),
    "with a flag: nodes": (
        _set("spec|template|spec|nodeSelector", {"a": "b"}),
        "'nodeSelector' was unexpected",
    ),
    "with a flag: tolerations": (_set("spec|template|spec|tolerations", []), "'tolerations' was unexpected"),
    "with a flag: affinity": (_set("spec|template|spec|affinity", {}), "'affinity' was unexpected"),
    "with a flag: a priority": (
        _set("spec|template|spec|priorityClassName", "a"),
        "'priorityClassName' was unexpected",
    ),
    "with a flag: a claim of a volume": (
        _set("spec|template|spec|volumes|1", {"name": "tmp", "persistentVolumeClaim": {"claimName": "a"}}),
        "'persistentVolumeClaim' was unexpected",
    ),
    "with a flag: what runs before": (
        _set("spec|template|spec|initContainers", []),
        "'initContainers' was unexpected",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_service_is_noticed(what: str) -> None:
    one = sets.one("model", "Service", "train")
    change, words = WRONG[what]
    assert said("model", one) == []
    change(one)
    assert any(words in each for each in said("model", one)), said("model", one)


@pytest.mark.parametrize("kind", ["Deployment", "StatefulSet", "Job", "NetworkPolicy", "Role", "ConfigMap"])
def test_a_field_that_kubernetes_does_not_know_is_noticed(kind: str) -> None:
    one = next(each for each in sets.objects("base") if each["kind"] == kind)
    one["metadata"]["lables"] = {}
    assert any("lables" in each for each in mistakes(one))
    if kind not in ("Role", "ConfigMap"):
        changed = copy.deepcopy(one)
        changed["spec"]["replica"] = 1
        assert any("replica" in each for each in mistakes(changed))


def test_a_kind_without_a_schema_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(LookupError, match="no schema"):
        mistakes({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "a"}})


@pytest.mark.parametrize("kind", ["train", "sample"])
def test_a_long_pass_takes_no_work_away_from_a_replica(kind: str) -> None:
    """Neither probe asks for an answer sooner than a busy interpreter gives one."""
    (container,) = containers(sets.one("model", "Service", kind))
    for probe in (container["readinessProbe"], container["livenessProbe"]):
        assert probe["timeoutSeconds"] >= 10 and probe["failureThreshold"] >= 15


def test_gateways_are_scaled_by_how_many_requests_come_not_by_how_many_are_open() -> None:
    gateway = sets.one("base", "Service", "gateway")
    assert pod(gateway)["containerConcurrency"] == 0
    wanted = {"metric": "rps", "target-burst-capacity": "0", "min-scale": "1"}
    assert {key: scale(gateway)[f"{SCALING}{key}"] for key in wanted} == wanted

"""Manifests and code agree: variables, ports, addresses, images, commands, names, times, and who reaches whom."""

import importlib.util
import json
import re
import subprocess
import tomllib
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import pytest

from events import catalog, names, scrape
from events.activation import DEADLINE_SECONDS
from events.confined import CONFINED
from events.dispatcher.settings import DispatcherSettings
from events.edge import OPEN_PATHS
from events.settings import BusSettings, EdgeSettings
from rekindle.cluster.render import load
from services.data.settings import DataSettings
from services.local import nats_server
from services.reward.settings import RewardSettings
from services.sample.settings import SampleSettings
from services.train.settings import TrainSettings
from tests.knative import knative_sets as sets
from tests.knative.knative_paths import Pod, reaches, selects
from tests.knative.knative_rules import RESERVED_PORTS, SCALING, containers, is_knative, pod, scale, template
from tests.knative.knative_schema import Manifest

SETTINGS: dict[str, type[BusSettings]] = {
    "gateway": EdgeSettings,
    "checkpoint": EdgeSettings,
    "data": DataSettings,
    "reward": RewardSettings,
    "train": TrainSettings,
    "sample": SampleSettings,
    "register": TrainSettings,
    "dispatcher": DispatcherSettings,
}
"""By kind of pod: what reads its variables."""
MODULES = {kind: f"services.{kind}.app" for kind in SETTINGS} | {
    "dispatcher": "events.dispatcher",
    "register": "services.train.register",
}
IMAGES = {"gateway", "checkpoint", "data", "reward", "dispatcher", "train", "sample", "sample-vllm"}
LIBRARIES = {
    "AWS_ENDPOINT_URL": "where the blob store is",
    "AWS_REGION": "signed requests name one",
    "AWS_ALLOW_HTTP": "inside of the cluster there is no TLS",
    "AWS_ACCESS_KEY_ID": "of the blob store",
    "AWS_SECRET_ACCESS_KEY": "of the blob store",
    "HOME": "libraries keep files below it",
    "HF_HOME": "the hub's files",
    "HF_TOKEN": "of the hub",
    "HF_HUB_DISABLE_PROGRESS_BARS": "logs are no terminal",
    "TOKENIZERS_PARALLELISM": "processes are forked",
    "TRITON_CACHE_DIR": "kernels that vLLM compiles",
}
"""Variables that libraries read, and what they are for."""
ACTIVATED = ("checkpoint", "data", "reward", "train", "sample")
SECRET_FILES = {"rekindle-keys": {"keys.json"}}
ONLY_FOR_SOME = {
    "rekindle-nats": {*SETTINGS, "nats"} - {"reward"},
    "rekindle-nats-reward": {"reward", "nats"},
    "rekindle-blobs": {*SETTINGS, "blobs", "blobs-bucket"} - {"reward"},
    "rekindle-blobs-reward": {"reward", "blobs"},
    "rekindle-keys": {"gateway", "checkpoint", "data", "reward", "train", "sample"},
    "rekindle-links": {"gateway", "checkpoint"},
    "rekindle-activation": {"gateway", "checkpoint", "data", "reward", "train", "sample", "dispatcher"},
    "rekindle-graders": {"reward"},
    "rekindle-hub": {"data", "train", "sample", "register"},
}
"""By Secret: the kinds of pods that it is for."""
OPTIONAL_SECRETS = {"rekindle-hub", "rekindle-graders"}
SET_NAMES = list(sets.SETS)
PODS = [(name, one) for name, one in sets.every() if pod(one)]
OURS = [(name, one) for name, one in PODS if "rekindle.dev/kind" in template(one)["metadata"]["labels"]]


def kind_of(one: Manifest) -> str:
    found: str = template(one)["metadata"]["labels"]["rekindle.dev/kind"]
    return found


def secrets() -> dict[str, dict[str, str]]:
    """Those that a deployment has, with examples of values."""
    examples = load(sets.KNATIVE / "base" / "secrets.example.yaml")
    return {one["metadata"]["name"]: one["stringData"] for one in examples}


def common(set_name: str) -> dict[str, str]:
    """The ConfigMap that all services read."""
    base = set_name if set_name in ("base", "ha") else "base"
    found: dict[str, str] = sets.one(base, "ConfigMap", "rekindle")["data"]
    return found


def own_variables(one: Manifest) -> dict[str, str]:
    """Variables that its manifest names; secret ones and the pod's own facts by example."""
    found = {}
    for container in containers(one):
        for variable in container.get("env", []):
            source = variable.get("valueFrom", {})
            if "secretKeyRef" in source:
                key = source["secretKeyRef"]
                value = secrets().get(key["name"], {}).get(key["key"], "")
            else:
                value = "rekindle" if source else variable["value"]
            found[variable["name"]] = value
    return found


def variables(set_name: str, one: Manifest) -> dict[str, str]:
    """All that its containers are told."""
    found: dict[str, str] = {}
    for container in containers(one):
        for source in container.get("envFrom", []):
            if "configMapRef" in source:
                assert source["configMapRef"]["name"] == "rekindle"
                found |= common(set_name)
            else:
                found |= secrets().get(source["secretRef"]["name"], {})
    return found | own_variables(one)


def fields(settings: type[BusSettings]) -> set[str]:
    """The variables that a class of settings reads."""
    return {
        str(field.validation_alias or f"REKINDLE_{name.upper()}")
        for name, field in settings.model_fields.items()
    }


# ---- Variables ----


@pytest.mark.parametrize(("name", "one"), OURS, ids=[name for name, _ in OURS])
def test_every_variable_is_one_that_the_code_or_a_library_reads(name: str, one: Manifest) -> None:
    known = fields(SETTINGS[kind_of(one)]) | LIBRARIES.keys()
    assert own_variables(one).keys() - known == set()


@pytest.mark.parametrize("set_name", ["base", "ha"])
def test_every_common_variable_is_one_that_some_service_reads(set_name: str) -> None:
    known = set().union(*map(fields, SETTINGS.values())) | LIBRARIES.keys()
    assert common(set_name).keys() - known == set()


@pytest.mark.parametrize(("name", "one"), OURS, ids=[name for name, _ in OURS])
def test_services_take_what_they_are_told(name: str, one: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    told = variables(name.partition(":")[0], one)
    settings = SETTINGS[kind_of(one)]
    for variable in fields(settings) - told.keys():
        monkeypatch.delenv(variable, raising=False)
    for variable, value in told.items():
        monkeypatch.setenv(variable, value)
    read = settings()  # type: ignore[call-arg]
    confined = kind_of(one) == CONFINED
    assert read.nats_url == secrets()["rekindle-nats-reward" if confined else "rekindle-nats"]["NATS_URL"]
    assert (
        told["AWS_ACCESS_KEY_ID"]
        == secrets()["rekindle-blobs-reward" if confined else "rekindle-blobs"]["AWS_ACCESS_KEY_ID"]
    )
    assert (read.jetstream_api == "$JS.API") != confined
    assert (read.blobs, read.reward_blobs) == ("s3://rekindle", "s3://rekindle-reward") and read.log_json
    assert read.replicas == (3 if name.startswith("ha") else 1)
    if isinstance(read, EdgeSettings) and kind_of(one) != "register":
        assert (read.host, read.port, read.activation) == ("0.0.0.0", 8080, True)
        assert read.keys_file is not None and len(read.system_keys) == 1


def test_a_misspelt_variable_is_noticed() -> None:
    one = sets.one("base", "Service", "reward")
    containers(one)[0]["env"].append({"name": "REKINDLE_GRADER", "value": "2"})
    with pytest.raises(AssertionError, match="REKINDLE_GRADER"):
        test_every_variable_is_one_that_the_code_or_a_library_reads("base", one)


def test_a_value_that_the_code_does_not_take_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    one = sets.one("base", "Service", "reward")
    (graders,) = (each for each in containers(one)[0]["env"] if each["name"] == "REKINDLE_GRADERS")
    graders["value"] = "2 or 3"
    with pytest.raises(ValueError, match="graders"):
        test_services_take_what_they_are_told("base", one, monkeypatch)


def test_every_secret_is_one_that_a_deployment_has() -> None:
    for name, one in PODS:
        for container in containers(one):
            for reference in _secret_keys(one, container):
                assert reference in {(s, k) for s, keys in secrets().items() for k in keys}, (
                    f"{name}: {reference}"
                )
    assert {name: set(secrets()[name]) for name in SECRET_FILES} == SECRET_FILES


def _secret_keys(one: Manifest, container: dict[str, Any]) -> list[tuple[str, str]]:
    """Secrets and keys without which its containers do not start."""
    found = [
        (source["name"], source["key"])
        for source in (each.get("valueFrom", {}).get("secretKeyRef") for each in container.get("env", []))
        if source is not None and source["name"] not in OPTIONAL_SECRETS
    ]
    mounted = [each["secret"]["secretName"] for each in pod(one).get("volumes", []) if "secret" in each]
    taken = [
        each["secretRef"]["name"]
        for each in container.get("envFrom", [])
        if "secretRef" in each and each["secretRef"]["name"] not in OPTIONAL_SECRETS
    ]
    return found + [(name, key) for name in (*mounted, *taken) for key in secrets()[name]]


def test_no_pod_has_a_secret_that_it_does_not_need() -> None:
    found: dict[str, set[str]] = {}
    for _, one in PODS:
        labels = template(one)["metadata"]["labels"]
        who = labels.get("rekindle.dev/kind", labels["app.kubernetes.io/name"])
        for secret in _secrets_of(one):
            found.setdefault(secret, set()).add(who)
    assert found == ONLY_FOR_SOME
    waking = [name for name, one in PODS if "REKINDLE_ACTIVATION_KEY" in own_variables(one)]
    assert {name.partition(": ")[2] for name in waking} == {"Deployment dispatcher"}


def _secrets_of(one: Manifest) -> set[str]:
    """Names of all that its containers are given, in whatever way."""
    found = {each["secret"]["secretName"] for each in pod(one).get("volumes", []) if "secret" in each}
    for container in containers(one):
        found |= {each["secretRef"]["name"] for each in container.get("envFrom", []) if "secretRef" in each}
        sources = [each.get("valueFrom", {}) for each in container.get("env", [])]
        found |= {each["secretKeyRef"]["name"] for each in sources if "secretKeyRef" in each}
    return found


def test_the_store_is_told_of_a_user_who_has_one_bucket() -> None:
    made = json.loads(secrets()["rekindle-blobs-reward"]["identities.json"])
    (user,) = made["identities"]
    (pair,) = user["credentials"]
    bucket = urlsplit(common("base")["REKINDLE_REWARD_BLOBS"]).netloc
    assert set(user["actions"]) == {f"{may}:{bucket}" for may in ("Read", "Write", "List")}
    assert list(pair.values()) == [
        secrets()["rekindle-blobs-reward"][name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    ]
    store = sets.one("base", "StatefulSet", "blobs")
    (mount,) = (one for one in containers(store)[0]["volumeMounts"] if one["name"] == "identities")
    assert f"-s3.config={mount['mountPath']}/identities.json" in containers(store)[0]["args"]


def test_optional_secrets_are_marked_so() -> None:
    for _, one in PODS:
        for container in containers(one):
            sources = [each.get("valueFrom", {}).get("secretKeyRef", {}) for each in container.get("env", [])]
            sources += [each.get("secretRef", {}) for each in container.get("envFrom", [])]
            assert all(each.get("optional") for each in sources if each.get("name") in OPTIONAL_SECRETS)


def test_the_keys_are_read_where_they_are_mounted() -> None:
    for name, one in OURS:
        for container in containers(one):
            if path := own_variables(one).get("REKINDLE_KEYS_FILE"):
                (mount,) = (each for each in container["volumeMounts"] if each["name"] == "keys")
                assert path == f"{mount['mountPath']}/keys.json", name


# ---- Ports, paths, addresses ----


@pytest.mark.parametrize(("name", "one"), OURS, ids=[name for name, _ in OURS])
def test_services_listen_where_knative_knocks(name: str, one: Manifest) -> None:
    if not is_knative(one):
        return
    told = variables("base", one)
    (container,) = containers(one)
    assert [port["containerPort"] for port in container["ports"]] == [int(told["REKINDLE_PORT"])]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        get = container[probe]["httpGet"]
        assert get["port"] == int(told["REKINDLE_PORT"]) and get["path"] in OPEN_PATHS


def test_metrics_are_read_at_a_port_that_only_the_dispatcher_names() -> None:
    told = {int(common(name)["REKINDLE_METRICS_PORT"]) for name in ("base", "ha")}
    (policy,) = sets.one("base", "NetworkPolicy", "metrics")["spec"]["ingress"]
    (container,) = containers(sets.one("base", "Deployment", "dispatcher"))
    (port,) = container["ports"]
    assert told == {each["port"] for each in policy["ports"]} == {port["containerPort"]}
    assert container["livenessProbe"]["httpGet"] == {"path": scrape.LIFE, "port": port["name"]}
    assert not told & RESERVED_PORTS


@pytest.mark.parametrize("set_name", ["base", "ha"])
def test_every_address_is_that_of_a_service_and_its_port(set_name: str) -> None:
    there = {
        (one["metadata"]["name"], port["port"])
        for one in sets.objects(set_name)
        if one["kind"] == "Service" and not is_knative(one)
        for port in one["spec"]["ports"]
    }
    (script,) = containers(sets.one(set_name, "Job", "blobs-bucket"))[0]["args"]
    (bucket,) = re.findall(r"http://[^\s\"]+", script)
    users = [secrets()[name]["NATS_URL"] for name in ("rekindle-nats", "rekindle-nats-reward")]
    for url in (*users, common(set_name)["AWS_ENDPOINT_URL"], bucket):
        parts = urlsplit(url)
        assert (parts.hostname, parts.port) in there
    stores = {urlsplit(common(set_name)[name]).netloc for name in ("REKINDLE_BLOBS", "REKINDLE_REWARD_BLOBS")}
    assert urlsplit(bucket).path == "/$bucket" and f"for bucket in {' '.join(sorted(stores))};" in script


@pytest.mark.parametrize("set_name", ["base", "ha"])
def test_every_service_and_budget_selects_pods_that_have_its_ports(set_name: str) -> None:
    pods = [one for one in sets.objects(set_name) if pod(one)]
    for one in sets.objects(set_name):
        if is_knative(one) or one["kind"] not in ("Service", "PodDisruptionBudget"):
            continue
        selector = one["spec"]["selector"]
        wanted = selector if "matchLabels" in selector else {"matchLabels": selector}
        found = [each for each in pods if selects(wanted, template(each)["metadata"]["labels"])]
        assert len(found) == 1, one["metadata"]["name"]
        named = {
            port["name"]: port["containerPort"] for each in containers(found[0]) for port in each["ports"]
        }
        for port in one["spec"].get("ports", []):
            assert named[port["targetPort"]] == port["port"]


@pytest.mark.parametrize("set_name", ["base", "ha"])
def test_workloads_select_their_own_pods(set_name: str) -> None:
    for one in sets.objects(set_name):
        if one["kind"] in ("Deployment", "StatefulSet"):
            assert selects(one["spec"]["selector"], template(one)["metadata"]["labels"])


@pytest.mark.parametrize("set_name", ["base", "ha"])
def test_the_nats_server_takes_its_configuration(set_name: str, tmp_path: Path) -> None:
    files = sets.one(set_name, "ConfigMap", "nats")["data"]
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    text = files["nats.conf"]
    told = own_variables(sets.one(set_name, "StatefulSet", "nats"))
    command = [nats_server.server_binary(), "--config", str(tmp_path / "nats.conf"), "-t"]
    done = subprocess.run(command, env=told, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    laptop = nats_server.CONFIG.replace("{{", "{").replace("}}", "}")
    for said in ("max_payload: 8MB", "feature_flags { js_ack_fc_v2: false }"):
        assert said in text and said in laptop
    assert "sync_interval: always" in text or set_name == "ha"


@pytest.mark.parametrize("secret", ["rekindle-nats", "rekindle-nats-reward"])
def test_the_url_of_nats_has_the_credentials_of_the_server(secret: str) -> None:
    found = secrets()[secret]
    parts = urlsplit(found["NATS_URL"])
    assert (parts.username, parts.password) == (found["NATS_USER"], found["NATS_PASSWORD"])
    assert re.fullmatch(r"[a-z][A-Za-z0-9]+", found["NATS_PASSWORD"])


def test_three_servers_know_each_other() -> None:
    servers = sets.one("ha", "StatefulSet", "nats")
    about = servers["metadata"]["name"], servers["spec"]["serviceName"]
    text = sets.one("ha", "ConfigMap", "nats")["data"]["nats.conf"]
    routes = re.findall(r"nats://([^:]+):(\d+)", text)
    assert routes == [(f"{about[0]}-{n}.{about[1]}", "6222") for n in range(servers["spec"]["replicas"])]


# ---- Images, commands, names ----


@pytest.mark.parametrize(("name", "one"), OURS, ids=[name for name, _ in OURS])
def test_images_are_ours_and_of_this_version(name: str, one: Manifest) -> None:
    version = tomllib.loads((sets.ROOT / "pyproject.toml").read_text())["project"]["version"]
    for container in containers(one):
        image = container["image"]
        assert image.startswith("dev.local/rekindle/") and image.endswith(f":{version}")
        found = image.removeprefix("dev.local/rekindle/").removesuffix(f":{version}")
        assert found in IMAGES
        assert found.partition("-")[0] == {"register": "train"}.get(kind_of(one), kind_of(one))


@pytest.mark.parametrize(("name", "one"), OURS, ids=[name for name, _ in OURS])
def test_what_runs_is_a_module_that_can_be_run(name: str, one: Manifest) -> None:
    module = MODULES[kind_of(one)]
    for container in containers(one):
        if "command" in container:
            assert container["command"] == ["/opt/venv/bin/python", "-m", module]
        else:
            assert kind_of(one) != "register", "its image runs the trainer"
    found = importlib.util.find_spec(module)
    assert found is not None and found.origin is not None
    main = Path(found.origin)
    main = main.with_name("__main__.py") if main.name == "__init__.py" else main
    assert 'if __name__ == "__main__":' in main.read_text()


@pytest.mark.parametrize("kind", ACTIVATED)
def test_services_answer_to_the_activations_of_their_kind(kind: str) -> None:
    code = (sets.ROOT / "services" / kind / "app.py").read_text()
    assert f'make_app("{kind}", settings' in code  # what an activation's type must name
    assert catalog.ACTIVATE.replace("<service>", kind) == f"dev.rekindle.{kind}.activate"
    assert kind in {kind_of(one) for _, one in OURS if is_knative(one)}


@pytest.mark.parametrize("set_name", ["model", "gpu model"])
def test_the_services_of_a_base_model_are_called_as_the_code_calls_them(set_name: str) -> None:
    for one in sets.objects(set_name):
        about = one["metadata"]
        assert about["name"] == names.service_name(kind_of(one), sets.BASE)
        assert about["labels"]["rekindle.dev/base"] == names.token(sets.BASE)
        assert about["annotations"]["rekindle.dev/base-model"] == sets.BASE
        assert own_variables(one)["REKINDLE_BASE_NAME"] == sets.BASE
    assert {one["metadata"]["name"] for one in sets.objects("base") if is_knative(one)} == {
        names.service_name(kind, None)
        for kind in SETTINGS
        if (sets.KNATIVE / "base/services" / f"{kind}.yaml").exists()
    } - {"dispatcher"}


# ---- Times and numbers ----


@pytest.mark.parametrize(("name", "one"), OURS, ids=[name for name, _ in OURS])
def test_times_leave_each_other_room(name: str, one: Manifest) -> None:
    if not is_knative(one):
        return
    whole = pod(one)["timeoutSeconds"]
    assert whole > DEADLINE_SECONDS, "an activation ends by itself"
    # SIGTERM comes 30 s into a pod's end; work in hand is finished, then open requests.
    assert 30 + 2 * int(variables("base", one)["REKINDLE_GRACE_SECONDS"]) < whole
    assert float(scale(one)[f"{SCALING}window"].removesuffix("s")) < DEADLINE_SECONDS


@pytest.mark.parametrize(("name", "one"), OURS, ids=[name for name, _ in OURS])
def test_local_copies_of_blobs_fit_their_volume(name: str, one: Manifest) -> None:
    told = variables("base", one)
    folder = PurePosixPath(told.get("REKINDLE_BLOB_CACHE", "/tmp"))
    (container,) = containers(one)
    mounts = {each["mountPath"]: each["name"] for each in container["volumeMounts"]}
    mount = next(mounts[str(path)] for path in (folder, *folder.parents) if str(path) in mounts)
    (volume,) = (each for each in pod(one)["volumes"] if each["name"] == mount)
    room = int(volume["emptyDir"]["sizeLimit"].removesuffix("Gi")) * 2**30
    assert int(told["REKINDLE_BLOB_CACHE_BYTES"]) * 2 <= room


def test_a_sampler_pulls_what_one_activation_is_for() -> None:
    for set_name in ("model", "gpu model"):
        one = sets.one(set_name, "Service", "sample")
        capacity = float(one["metadata"]["annotations"]["rekindle.dev/capacity"])
        assert capacity == int(own_variables(one)["REKINDLE_TOKEN_BUDGET"])


@pytest.mark.parametrize("kind", ["train", "sample"])
def test_threads_and_graders_are_as_many_as_there_are_processors(kind: str) -> None:
    one = sets.one("model", "Service", kind)
    assert own_variables(one)["REKINDLE_THREADS"] == containers(one)[0]["resources"]["limits"]["cpu"]
    reward = sets.one("base", "Service", "reward")
    assert own_variables(reward)["REKINDLE_GRADERS"] == containers(reward)[0]["resources"]["limits"]["cpu"]


def test_a_trainer_takes_as_many_activations_as_runs() -> None:
    train, sample = (sets.one("model", "Service", kind) for kind in ("train", "sample"))
    assert pod(train)["containerConcurrency"] == sets.MAX_RUNS
    assert train["metadata"]["annotations"]["rekindle.dev/capacity"] == "1.0"
    assert pod(sample)["containerConcurrency"] == 1


# ---- Who reaches whom ----

NATS, BLOBS, PUBLIC, PRIVATE = Pod.called("nats"), Pod.called("blobs"), "93.184.215.14", "10.0.0.1"
METADATA = "169.254.169.254"
OTHERS_METADATA = ("168.63.129.16", "192.0.0.192", "100.100.100.200", "fd00:ec2::254")
NOT_PUBLIC = ("198.18.0.1", "224.0.0.1", "239.255.255.250", "255.255.255.255", "2001::1", "2002:7f00:1::1")
EDGES = ("gateway", *ACTIVATED)
PERMITTED: list[tuple[Pod | str, Pod | str, int]] = [
    *((Pod.of(kind), NATS, 4222) for kind in SETTINGS),
    *((Pod.of(kind), BLOBS, 8333) for kind in SETTINGS),
    *((Pod.elsewhere("knative-serving"), Pod.of(kind), 8012) for kind in EDGES),
    *((Pod.elsewhere("knative-serving"), Pod.of(kind), 9090) for kind in EDGES),
    *((Pod.elsewhere("kourier-system"), Pod.of(kind), 8012) for kind in EDGES),
    *((Pod({}, {"rekindle.dev/scrapes": "true"}), Pod.of(kind), 9464) for kind in (*EDGES, "dispatcher")),
    *((Pod.of(kind), Pod({}, {"rekindle.dev/collects": "true"}), 4318) for kind in (*EDGES, "dispatcher")),
    *((Pod.of(kind), Pod.elsewhere("kube-system"), 53) for kind in SETTINGS),
    *(
        (Pod.of(kind), PUBLIC, 443)
        for kind in ("train", "sample", "register", "data", "reward", "dispatcher")
    ),
    (Pod.of("reward"), PUBLIC, 8443),
    *((Pod.of("dispatcher"), PRIVATE, port) for port in (443, 6443, 8443, 16443)),
    (Pod.of("dispatcher"), Pod.elsewhere("kourier-system"), 8081),
    (Pod.called("blobs-bucket"), BLOBS, 8333),
]
REFUSED: list[tuple[Pod | str, Pod | str, int]] = [
    *((Pod.of(kind), NATS, 8222) for kind in SETTINGS),
    *((Pod.of(kind), METADATA, 80) for kind in SETTINGS),
    *((Pod.of(kind), METADATA, 443) for kind in SETTINGS if kind != "dispatcher"),
    *((Pod.of(kind), one, 80) for kind in SETTINGS for one in OTHERS_METADATA),
    *((Pod.of(kind), PRIVATE, 443) for kind in SETTINGS if kind != "dispatcher"),
    *((Pod.of("reward"), Pod.of(kind), port) for kind in EDGES for port in (8012, 8080)),
    *((Pod.of("gateway"), Pod.of(kind), 8080) for kind in ACTIVATED),
    *((Pod.elsewhere("default"), Pod.of(kind), port) for kind in EDGES for port in (8012, 8080, 9464)),
    *((Pod.of("reward"), Pod.of(kind), 9464) for kind in (*EDGES, "dispatcher")),
    *((Pod({}, {"rekindle.dev/scrapes": "true"}), Pod.of(kind), 8080) for kind in EDGES),
    *((Pod.of(kind), Pod.elsewhere("default"), 4318) for kind in SETTINGS),
    (Pod.elsewhere("default"), NATS, 4222),
    (Pod.elsewhere("default"), BLOBS, 8333),
    (Pod.called("blobs-bucket"), NATS, 4222),
    (Pod.of("gateway"), PUBLIC, 443),
    (Pod.of("checkpoint"), PUBLIC, 443),
    (Pod.of("train"), PUBLIC, 80),
    (NATS, PUBLIC, 443),
    (BLOBS, PUBLIC, 443),
    (Pod.of("reward"), "fd00::1", 443),
    *((Pod.of(kind), one, 443) for kind in ("reward", "data", "train") for one in NOT_PUBLIC),
]


@pytest.mark.parametrize("set_name", ["base", "ha"])
def test_pods_reach_what_they_need_and_nothing_else(set_name: str) -> None:
    policies = [one for one in sets.objects(set_name) if one["kind"] == "NetworkPolicy"]
    assert [path for path in PERMITTED if not reaches(policies, *path)] == []
    assert [path for path in REFUSED if reaches(policies, *path)] == []
    assert reaches(policies, NATS, NATS, 6222) == (set_name == "ha")


def test_without_policies_everything_is_reached() -> None:
    """So that the test above can fail."""
    assert all(reaches([], *path) for path in REFUSED)


@pytest.mark.parametrize("set_name", ["base", "ha"])
def test_every_policy_speaks_of_pods_that_there_are(set_name: str) -> None:
    there: dict[str, set[str]] = {}
    for _, one in PODS:
        for key, value in template(one)["metadata"]["labels"].items():
            there.setdefault(key, set()).add(value)
    for one in sets.objects(set_name):
        if one["kind"] == "NetworkPolicy":
            for key, value in _pods_named(one["spec"]):
                assert value in there.get(key, set()), f"{one['metadata']['name']}: {key}={value}"


def _pods_named(part: Any) -> list[tuple[str, str]]:
    """Labels of pods that a policy names; `namespaceSelector` speaks of others."""
    if isinstance(part, list):
        return [found for each in part for found in _pods_named(each)]
    if not isinstance(part, dict):
        return []
    found = list(part.get("matchLabels", {}).items())
    found += [(each["key"], value) for each in part.get("matchExpressions", []) for value in each["values"]]
    return found + [
        pair for key, each in part.items() if key != "namespaceSelector" for pair in _pods_named(each)
    ]


def test_examples_of_keys_are_what_services_read() -> None:
    (entry,) = json.loads(secrets()["rekindle-keys"]["keys.json"])
    assert set(entry) == {"hash", "tenant", "name"}
    assert isinstance(json.loads(secrets()["rekindle-activation"]["REKINDLE_SYSTEM_KEYS"]), list)

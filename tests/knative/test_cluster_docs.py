"""The commands of docs/kubernetes.md and docs/kn.md are commands that there are, and say what the manifests say."""

import ast
import json
import math
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from events import names
from events.settings import EdgeSettings
from rekindle.cli import build
from rekindle.cluster.render import render
from tests.knative import knative_sets as sets
from tests.knative.knative_rules import SCALING, TEMPLATE_ANNOTATIONS, containers, is_knative, pod, scale
from tests.knative.knative_schema import KNATIVE_SERVICE, mistakes
from tests.knative.shell_lines import KN, KUBECTL, OTHERS, blocks, calls, options, unknown

DOCS = sets.ROOT / "docs"
GUIDE, SCALING_GUIDE = DOCS / "kubernetes.md", DOCS / "kn.md"
README = sets.OVERLAYS / "gpu" / "README.md"
CALLS = [
    (f"{document.name}: {' '.join(call)[:80]}", call)
    for document in (GUIDE, SCALING_GUIDE, README)
    for block in blocks(document)
    for line in block
    for call in calls(line)
]
PATCHES = [json.loads(options(call)["-p"]) for _, call in CALLS if call[:2] == ["kubectl", "patch"]]
MODEL = "Qwen/Qwen3-8B"

WRONG_USAGE = typer.BadParameter.__base__
"""What typer raises for a command line that it cannot read; it does not export its name."""


def parse(command: Any, words: list[str]) -> Any:
    """Read a command line as the command does, without running it. Raises WRONG_USAGE."""
    context = command.make_context(command.name or "rekindle", list(words))
    if not hasattr(command, "commands"):
        return context
    name, chosen, rest = command.resolve_command(context, [*context._protected_args, *context.args])
    assert chosen is not None, name
    return parse(chosen, rest)


@pytest.fixture(scope="module")
def command() -> Any:
    return typer.main.get_command(build())


@pytest.mark.parametrize(("name", "call"), CALLS, ids=[name for name, _ in CALLS])
def test_every_command_is_one_that_there_is(name: str, call: list[str], command: Any) -> None:
    program, *words = call
    match program:
        case "kn" if words[0] == "rekindle":
            parse(command, words[1:])
        case "kn":
            assert unknown(call, KN) == []
        case "kubectl":
            assert unknown(call, KUBECTL) == []
        case "rekindle":
            parse(command, words)
        case "./task":
            tasks = yaml.safe_load((sets.ROOT / "Taskfile.yml").read_text())["tasks"]
            assert words[0] in tasks
        case _:
            assert program in OTHERS


def test_the_checker_notices_what_is_wrong(command: Any) -> None:
    assert unknown(["kn", "service", "update", "a", "--scale-minimum", "1"], KN)
    assert unknown(["kn", "service", "upgrade", "a"], KN)
    assert unknown(["kubectl", "apply", "--kustomize", "a"], KUBECTL)
    assert unknown(["kubectl", "apply", "-f"], KUBECTL)
    for words in (
        ["models", "add", MODEL, "--gpu", "1"],
        ["deploy", "--overlays", "gpu"],
        ["modles", "list"],
    ):
        with pytest.raises(WRONG_USAGE):
            parse(command, words)


def test_ten_commands_to_a_loop_and_three_more_to_gpus() -> None:
    first, gpus, *_ = blocks(GUIDE)
    assert sum(line.count("&&") + 1 for line in first) == 10 and first[-1] == "python3 loop.py"
    assert len(gpus) == 3
    assert "in ten commands on CPUs, and to GPUs in three more" in (sets.ROOT / "README.md").read_text()
    # what is switched on for GPUs is what the overlay's own page says
    assert gpus[:1] == blocks(README)[0]


def test_the_loop_that_the_guide_takes_is_the_loop_of_the_readme(tmp_path: Path) -> None:
    (line,) = (line for line in blocks(GUIDE)[0] if line.startswith("sed "))
    command = line.removesuffix(" > loop.py")
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=sets.ROOT,
        env={"REKINDLE_API_KEY": "tml-of-mine"},
        capture_output=True,
        text=True,
    )
    (code,) = re.findall(r"```python\n(.*?)```", (sets.ROOT / "README.md").read_text(), re.DOTALL)
    assert done.returncode == 0, done.stderr
    assert done.stdout == code.replace("tml-local", "tml-of-mine") != code
    ast.parse(done.stdout)
    (forwarded,) = (line for line in blocks(GUIDE)[0] if "port-forward" in line)
    port = re.search(r"http://127\.0\.0\.1:(\d+)", code)
    assert port is not None and f" {port[1]}:8080 " in forwarded


def test_what_is_installed_is_what_the_loop_imports_and_the_manifests_of_the_clone() -> None:
    (line,) = (line for line in blocks(GUIDE)[0] if line.startswith("pip "))
    assert line.split()[2:] == ["-e", "'.[cluster]'", "tinker", "transformers"]


def test_the_environment_that_is_made_is_entered_and_git_does_not_see_it() -> None:
    made = re.fullmatch(r"python3 -m venv (\.venv-\w+) && \. (\S+)/bin/activate", blocks(GUIDE)[0][0])
    assert made is not None and made[1] == made[2]
    assert ".venv*/" in (sets.ROOT / ".gitignore").read_text().splitlines()


def test_pods_ask_for_as_much_as_the_guide_says() -> None:
    """One replica each, queue-proxy's 25 thousandths of a CPU included; a node of 4 CPUs has room for all of it."""
    objects = [*sets.objects("base"), *sets.objects("model")]
    asked = [each["resources"]["requests"] for one in objects for each in containers(one)]
    cpus = sum(map(amount, (each["cpu"] for each in asked))) + 0.025 * sum(map(is_knative, objects))
    memory = sum(amount(each["memory"]) for each in asked) / 2**30
    claims = [
        claim["spec"] for one in objects for claim in one.get("spec", {}).get("volumeClaimTemplates", [])
    ]
    volumes = sum(amount(each["resources"]["requests"]["storage"]) for each in claims) / 2**30
    (said,) = re.findall(
        r"ask for ([\d.]+) CPUs, (\d+) GiB of memory and (\d+) GiB of volumes", GUIDE.read_text()
    )
    assert said == (f"{math.ceil(cpus * 10) / 10}", f"{math.ceil(memory)}", f"{volumes:.0f}")


def amount(quantity: str) -> float:
    """A quantity as Kubernetes writes it."""
    number, unit = re.fullmatch(r"([\d.]+)([A-Za-z]*)", quantity).groups()  # type: ignore[union-attr]
    return float(number) * {"": 1.0, "m": 0.001, "Mi": 2.0**20, "Gi": 2.0**30}[unit]


def test_gpus_ask_for_as_much_as_the_guide_says() -> None:
    for kind in ("train", "sample"):
        (container,) = containers(sets.one("gpu model", "Service", kind))
        asked = container["resources"]["requests"]
        said = f"ask for {asked['cpu']} CPUs and {amount(asked['memory']) / 2**30:.0f} GiB of memory"
        assert said in GUIDE.read_text()


def test_the_example_of_a_bucket_is_everything_but_the_store(tmp_path: Path) -> None:
    (example,) = re.findall(r"```yaml\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    (tmp_path / "rekindle").symlink_to(sets.ROOT)
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "kustomization.yaml").write_text(example)
    policy = sets.KNATIVE / "base" / "network" / "bus-and-blobs.yaml"
    (tmp_path / "own" / "bucket-policy.yaml").write_text(
        policy.read_text().replace("bus-and-blobs", "bucket")
    )
    found = render(tmp_path / "own")
    assert not [one for one in found if pod(one) and one["metadata"]["name"].startswith("blobs")]
    assert len(found) == len(sets.objects("base")) + 1 - 3
    (settings,) = (one["data"] for one in found if one["metadata"]["name"] == "rekindle" and "data" in one)
    assert settings["REKINDLE_BLOBS"].startswith("s3://") and "blobs" not in settings["AWS_ENDPOINT_URL"]


def test_every_file_that_is_named_is_there() -> None:
    for document in (GUIDE, SCALING_GUIDE, README):
        text = document.read_text()
        for link in re.findall(r"\]\((?!http|#)([^)#]+)\)", text):
            assert (document.parent / link).exists(), f"{document.name}: {link}"
        for path in re.findall(r"(?<![\w/.])knative/[\w./-]+", text):
            assert (sets.ROOT / path.rstrip("./")).exists(), f"{document.name}: {path}"
        for anchor in re.findall(r"\]\(#([^)]+)\)", text):
            titles = [
                re.sub(r"[^a-z0-9 -]", "", one.lower())
                for one in re.findall(r"^#+ (.*)$", text, re.MULTILINE)
            ]
            assert anchor in [title.replace(" ", "-") for title in titles]


def test_patches_are_json() -> None:
    assert PATCHES and all(set(patch) == {"data"} for patch in PATCHES)


def test_services_are_called_as_they_are_called() -> None:
    there = {one["metadata"]["name"] for one in sets.objects("base") if is_knative(one)}
    there |= {names.service_name(kind, MODEL) for kind in ("train", "sample")}
    for _, call in CALLS:
        if call[:3] == ["kn", "service", "update"] or call[:3] == ["kn", "service", "describe"]:
            assert call[3] in there, call


@pytest.mark.parametrize(
    "call",
    [call for _, call in CALLS if call[:3] == ["kn", "service", "update"]],
    ids=lambda call: " ".join(call[3:]),
)
def test_what_kn_is_told_is_taken(call: list[str]) -> None:
    """Values go where facts of a real cluster say that kn puts them, and are what Knative takes there."""
    kind = call[3].partition("-")[0]
    one = next(
        each
        for name in ("base", "model")
        for each in sets.objects(name)
        if (each["apiVersion"], each["kind"]) == KNATIVE_SERVICE and each["metadata"]["name"].startswith(kind)
    )
    placed = {
        "--scale-min": "min-scale",
        "--scale-max": "max-scale",
        "--scale-init": "initial-scale",
        "--scale-activation": "activation-scale",
        "--scale-window": "window",
    }
    found = options(call)
    for flag, key in placed.items():
        if flag in found:
            assert TEMPLATE_ANNOTATIONS[f"{SCALING}{key}"](found[flag])
    if said := found.get("--annotation-revision"):
        key, _, value = said.partition("=")
        assert TEMPLATE_ANNOTATIONS[key](value)
    if limit := found.get("--concurrency-limit"):
        pod(one)["containerConcurrency"] = int(limit)
        assert mistakes(one) == []
    assert "--revision-name" not in found, "Knative would refuse every later change that keeps the name"
    if split := found.get("--traffic"):
        assert sum(int(part.rpartition("=")[2]) for part in split.split(",")) == 100


def test_the_table_of_services_says_what_the_manifests_say() -> None:
    rows = re.findall(r"^\| `([a-z]+)(?:-…)?` \| (.*?) \| (.*?) \|", SCALING_GUIDE.read_text(), re.MULTILINE)
    said = {kind: (capacity, bounds) for kind, capacity, bounds in rows}
    services = [one for name in ("base", "model") for one in sets.objects(name) if is_knative(one)]
    assert said.keys() == {one["metadata"]["labels"]["rekindle.dev/kind"] for one in services}
    for one in services:
        kind = one["metadata"]["labels"]["rekindle.dev/kind"]
        capacity, bounds = said[kind]
        least, most = (scale(one)[f"{SCALING}{key}"] for key in ("min-scale", "max-scale"))
        assert bounds == (f"{least}–`--max-replicas`" if kind in ("train", "sample") else f"{least}–{most}")
        if kind in ("gateway", "train"):
            number = scale(one)[f"{SCALING}target"] if kind == "gateway" else "`--max-runs`"
        else:
            number = f"{float(one['metadata']['annotations']['rekindle.dev/capacity']):,.0f}"
        assert capacity.split()[0] == number


def test_the_other_numbers_are_those_of_the_manifests() -> None:
    text = SCALING_GUIDE.read_text()
    train = scale(sets.one("model", "Service", "train"))
    assert "30s for models" in text and train[f"{SCALING}scale-down-delay"] == "30s"
    assert "2m for models" in text and train[f"{SCALING}scale-to-zero-pod-retention-period"] == "2m"
    assert "60s here" in text and train[f"{SCALING}window"] == "60s"


def test_the_example_of_quotas_is_one_that_services_take(monkeypatch: pytest.MonkeyPatch) -> None:
    (said,) = (patch["data"]["REKINDLE_QUOTAS"] for patch in PATCHES if "REKINDLE_QUOTAS" in patch["data"])
    for name, value in {"REKINDLE_QUOTAS": said, "REKINDLE_BLOBS": "/", "NATS_URL": "nats://a"}.items():
        monkeypatch.setenv(name, value)
    assert EdgeSettings().quotas["*"].training_runs == 16  # type: ignore[call-arg]


def test_no_manifest_sets_traffic() -> None:
    assert not any("traffic" in one["spec"] for _, one in sets.every() if is_knative(one))


def test_the_plugin_of_kn_calls_the_command(tmp_path: Path) -> None:
    stand_in = tmp_path / "rekindle"
    stand_in.write_text('#!/bin/sh\nprintf "%s|" "$@"\n')
    stand_in.chmod(0o755)
    plugin = sets.ROOT / "tools" / "kn-rekindle"
    told = ["models", "add", "a b", "--gpus", "1"]
    done = subprocess.run(
        [plugin, *told], env={"PATH": f"{tmp_path}:/bin:/usr/bin"}, capture_output=True, text=True
    )
    assert done.stdout == "models|add|a b|--gpus|1|"

"""`task images`: which engine it calls with what, and which arguments it refuses."""

from pathlib import Path

import pytest
import yaml

from tests.knative.shell_lines import calls
from tools.images import __main__ as command
from tools.images.catalog import IMAGES, ROOT, version

REGISTRY = "registry.example.com/rekindle"


@pytest.fixture
def engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH with nothing but what a test puts there."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return tmp_path / "bin"


def install(engines: Path, name: str, fails: str = "nothing") -> Path:
    """A stand-in for an engine that keeps what it was told, and fails at one word."""
    told = engines.parent / f"{name}.told"
    (engines / name).write_text(
        f'#!/bin/sh\necho "$PWD $*" >> {told}\ncase "$*" in *{fails}*) exit 1;; esac\n'
    )
    (engines / name).chmod(0o755)
    return told


def run(*words: str) -> None:
    command.by_engine(command.read(words))


@pytest.mark.parametrize("engine", ["docker", "buildah", "podman"])
def test_whichever_engine_is_there_builds(engines: Path, engine: str) -> None:
    told = install(engines, engine)
    run("reward")
    (line,) = told.read_text().splitlines()
    reference = f"dev.local/rekindle/reward:{version()}"
    assert line.startswith(f"{ROOT} build --file=services/reward/Dockerfile --tag={reference} ")
    assert f"--label=org.opencontainers.image.version={version()}" in line and line.endswith(" .")
    assert "--build-arg" not in line


def test_the_first_engine_is_taken_unless_one_is_named(engines: Path) -> None:
    install(engines, "podman")
    install(engines, "docker")
    assert command.read(["reward"]).engine == "docker"
    assert command.read(["reward", "--engine", "podman"]).engine == "podman"


def test_without_names_all_images_for_cpus_are_made_and_then_pushed(engines: Path) -> None:
    told = install(engines, "docker")
    run("--registry", f"{REGISTRY}/", "--tag", "1.2", "--push")
    lines = [line.removeprefix(f"{ROOT} ") for line in told.read_text().splitlines()]
    names = [name for name in IMAGES if name != "sample-vllm"]
    assert [line for line in lines if line.startswith("push")] == [
        f"push {REGISTRY}/{name}:1.2" for name in names
    ]
    assert all(line.startswith("build") for line in lines[: len(names)])


def test_a_failure_ends_it_before_anything_is_pushed(engines: Path) -> None:
    told = install(engines, "docker", fails="data/Dockerfile")
    with pytest.raises(SystemExit, match="docker build failed"):
        run("reward", "data", "--registry", REGISTRY, "--push")
    assert "push" not in told.read_text()


def test_the_build_of_pytorch_and_the_base_are_chosen(engines: Path) -> None:
    told = install(engines, "docker")
    run("train", "sample-vllm", "data", "--cuda", "--base", "python:3.11.14-slim-bookworm@sha256:ab")
    train, vllm, data = told.read_text().splitlines()
    assert all(
        "--build-arg=BASE=python:3.11.14-slim-bookworm@sha256:ab" in line for line in (train, vllm, data)
    )
    assert "--build-arg=TORCH=cuda" in train
    assert "TORCH" not in vllm + data, "they have no choice"


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["rewards"], "no image rewards; there are gateway, "),
        (["--push", "--engine", "docker"], "--push needs --registry"),
        (["reward"], "none of docker, buildah, podman is on the PATH; with --rootfs none is needed"),
        (["--engine", "none"], "--engine none needs --rootfs"),
        (["--rootfs", "r", "--engine", "podman"], "--rootfs and --wheels are for --engine none, not podman"),
        (["--rootfs", "r", "--push", "--registry", REGISTRY], "skopeo copy oci:out/images:NAME docker://"),
    ],
)
def test_what_does_not_go_together_is_refused(
    words: list[str], reason: str, engines: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        command.read(words)
    assert reason in " ".join(capsys.readouterr().err.split())


def test_the_task_calls_the_command() -> None:
    tasks = yaml.safe_load((ROOT / "Taskfile.yml").read_text())["tasks"]
    assert tasks["images"]["cmds"] == ["{{.PYTHON}} -m tools.images {{.CLI_ARGS}}"]


@pytest.mark.parametrize("document", ["kubernetes.md", "images.md"])
def test_the_documents_call_it_as_it_wants_to_be_called(document: str, engines: Path) -> None:
    install(engines, "docker")
    text = (ROOT / "docs" / document).read_text()
    found = [
        call[3:] for line in text.splitlines() if line.startswith("./task images") for call in calls(line)
    ]
    assert found
    for words in found:
        assert command.read(words).images

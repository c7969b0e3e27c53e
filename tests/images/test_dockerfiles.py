"""The Dockerfiles keep to one pattern, say what tools/images/catalog.py says, and make what the manifests expect."""

import importlib.util
import json
import re
import shlex
import tomllib
from pathlib import Path

import pytest

from rekindle.cluster.render import load
from tests.images import dockerfile
from tools.images import catalog
from tools.images.catalog import IMAGES, ROOT, Image

BOTH = pytest.mark.parametrize("image", IMAGES.values(), ids=list(IMAGES))
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


def parts(image: Image) -> list[list[dockerfile.Instruction]]:
    """Arguments, builder, and the image itself."""
    found = dockerfile.stages(ROOT / image.dockerfile)
    assert len(found) == 3
    return found


def normalised(image: Image) -> str:
    """The file without what may differ."""
    text = "\n".join(f"{one.name} {one.rest}" for part in parts(image) for one in part)
    text = re.sub(r"RUN apt-get .*\n|ARG TORCH=cpu\n|EXPOSE .*\n", "", text)
    text = re.sub(r" (--requirement /pins/|tools/pins/)torch-\$\{TORCH\}\.txt", "", text)
    return text.replace(image.module, "MODULE").replace(f"{image.name}.txt", "PINS")


def test_every_dockerfile_is_of_an_image() -> None:
    found = {
        path.relative_to(ROOT).as_posix()
        for folder in catalog.SOURCES
        for path in (ROOT / folder).rglob("*Dockerfile")
    }
    assert found == {image.dockerfile for image in IMAGES.values()}


def test_all_follow_one_pattern() -> None:
    assert len({normalised(image) for image in IMAGES.values()}) == 1


@BOTH
def test_the_base_is_pinned_and_has_the_python_of_the_pins(image: Image) -> None:
    before, builder, last = parts(image)
    name, _, base = dockerfile.one(before, "ARG").partition("=")
    assert name == "BASE" and re.fullmatch(
        rf"python:{re.escape(catalog.PYTHON)}\.\d+-slim-\w+(@sha256:[0-9a-f]{{64}})?", base
    )
    assert (
        dockerfile.one(builder, "FROM") == "${BASE} AS builder" and dockerfile.one(last, "FROM") == "${BASE}"
    )


@BOTH
def test_nobody_with_rights_runs_it(image: Image) -> None:
    *_, last = parts(image)
    assert dockerfile.one(last, "USER") == catalog.USER
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", catalog.USER)
    after = [one.name for one in last[[one.name for one in last].index("USER") :]]
    assert not {"RUN", "COPY", "ADD"} & set(after)


@BOTH
def test_it_says_what_the_catalogue_says(image: Image) -> None:
    *_, last = parts(image)
    assert json.loads(dockerfile.one(last, "ENTRYPOINT")) == image.entrypoint
    assert (
        dict(word.split("=", 1) for word in shlex.split(dockerfile.one(last, "ENV"))) == catalog.ENVIRONMENT
    )
    assert dockerfile.one(last, "WORKDIR") == catalog.APP
    assert dockerfile.named(last, "EXPOSE") == [str(image.port)]
    assert not dockerfile.named(last, "CMD")


@BOTH
def test_what_runs_is_a_module_that_can_be_run(image: Image) -> None:
    found = importlib.util.find_spec(image.module)
    assert found is not None and found.origin is not None
    main = Path(found.origin)
    main = main.with_name("__main__.py") if main.name == "__init__.py" else main
    assert 'if __name__ == "__main__":' in main.read_text()


@BOTH
def test_what_is_copied_is_there_and_not_ignored(image: Image) -> None:
    _, builder, last = parts(image)
    sources = [word for said in dockerfile.named(builder, "COPY") for word in said.split()[:-1]]
    assert {*catalog.SOURCES, f"tools/pins/{image.name}.txt"} <= set(sources)
    for build in ("cpu", "cuda"):
        for source in (source.replace("${TORCH}", build) for source in sources):
            assert (ROOT / source).exists()
            assert any(source == kept or source.startswith(f"{kept}/") for kept in kept_by_dockerignore())
    assert dockerfile.named(last, "COPY") == [
        f"--from=builder {path} {path}" for path in (catalog.VENV, catalog.APP)
    ]


def kept_by_dockerignore() -> list[str]:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    assert lines[0] == "*"
    return [line[1:] for line in lines if line.startswith("!")]


@BOTH
def test_every_image_has_an_extra(image: Image) -> None:
    assert image.name in EXTRAS


def containers() -> list[tuple[str, str]]:
    """Every container of the manifests with an image of ours, and the port that is knocked at."""
    found = []
    for path in [
        *(ROOT / "knative" / "base" / "services").glob("*.yaml"),
        *(ROOT / "knative" / "model").glob("*.yaml"),
    ]:
        for one in load(path):
            for container in one.get("spec", {}).get("template", {}).get("spec", {}).get("containers", []):
                port = container.get("ports", [{}])[0].get("containerPort")
                names = (
                    ["sample", "sample-vllm"] if "${image}" in container["image"] else [container["image"]]
                )
                found += [(name.rpartition("/")[2].partition(":")[0], port) for name in names]
    return found


def test_the_manifests_run_these_images_at_these_ports() -> None:
    found = containers()
    assert {name for name, _ in found} == IMAGES.keys()
    assert all(port in (IMAGES[name].port, None) for name, port in found)


def test_the_manifests_and_the_images_name_one_user() -> None:
    text = "".join(
        path.read_text() for path in (ROOT / "knative").rglob("*.yaml") if "services" in path.parts
    )
    assert set(re.findall(r"runAsUser: (\d+)", text)) == {catalog.USER.partition(":")[0]}


def test_a_dockerfile_is_read_with_its_continuations(tmp_path: Path) -> None:
    file = tmp_path / "Dockerfile"
    file.write_text("ARG A=1\nFROM a AS b\n# no\nRUN x \\\n    && y\n\nFROM a\nUSER 1\n")
    before, first, second = dockerfile.stages(file)
    assert dockerfile.one(before, "ARG") == "A=1" and dockerfile.one(first, "RUN") == "x && y"
    assert [one.name for one in second] == ["FROM", "USER"]

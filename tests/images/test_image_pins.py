"""Pins fit the ranges of pyproject.toml, for every extra that an image is made of, and keep light images light."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tools.images import pins
from tools.images.catalog import IMAGES, ROOT, TORCH_CPU, TORCH_CUDA, Image

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LIGHT = {"gateway", "checkpoint", "data", "reward", "dispatcher"}
HEAVY = re.compile(r"(torch.*|triton|nvidia-.*|cuda-.*|transformers|peft|vllm.*|accelerate)")
LINUX = default_environment() | {
    "sys_platform": "linux",
    "platform_system": "Linux",
    "python_version": "3.11",
}


def held(*files: Path) -> dict[str, Version]:
    """Name → version of files of pins."""
    found = {}
    for file in files:
        for line in file.read_text().splitlines():
            if line.startswith(("#", "--")):
                continue
            match = re.fullmatch(r"([\w.-]+)==([\w.!+]+)", line)
            assert match is not None, f"{file.name}: {line}"
            assert match[1] not in found, f"{file.name}: {match[1]} twice"
            found[match[1]] = Version(match[2])
    return found


def wanted(extra: str) -> Iterator[Requirement]:
    """All that pyproject.toml asks for with this extra, of other projects."""
    for text in [*PROJECT["dependencies"], *PROJECT["optional-dependencies"][extra]]:
        requirement = Requirement(text)
        if canonicalize_name(requirement.name) == "rekindle":
            for each in requirement.extras:
                yield from wanted(each)
        elif requirement.marker is None or requirement.marker.evaluate(LINUX):
            yield requirement


def broken(extra: str, found: dict[str, Version]) -> list[str]:
    """Requirements that the pins do not fulfil."""
    return [
        str(one)
        for one in wanted(extra)
        if (version := found.get(canonicalize_name(one.name))) is None or version not in one.specifier
    ]


@pytest.mark.parametrize("build", [TORCH_CPU, TORCH_CUDA], ids=["cpu", "cuda"])
@pytest.mark.parametrize("image", IMAGES.values(), ids=list(IMAGES))
def test_pins_fit_what_the_project_asks_for(image: Image, build: Path) -> None:
    found = held(image.pins, *([build] if image.torch else []))
    assert broken(image.name, found) == [], "`task pins` makes them anew"


@pytest.mark.parametrize("name", sorted(LIGHT))
def test_light_images_hold_nothing_heavy(name: str) -> None:
    assert [pin for pin in held(IMAGES[name].pins) if HEAVY.fullmatch(pin)] == []


def test_the_two_builds_of_pytorch_are_of_one_version() -> None:
    cpu, cuda = held(TORCH_CPU)["torch"], held(TORCH_CUDA)["torch"]
    assert (cpu.public, cpu.local, cuda.local) == (str(cuda), "cpu", None)


def test_every_file_of_pins_is_of_an_image() -> None:
    found = set((ROOT / "tools" / "pins").iterdir())
    assert found == {image.pins for image in IMAGES.values()} | {TORCH_CPU, TORCH_CUDA}


def test_a_pin_that_does_not_fit_or_is_missing_is_noticed() -> None:
    found = held(IMAGES["reward"].pins)
    assert broken("reward", found | {"math-verify": Version("0.1")})[0].startswith("math-verify")
    del found["uvicorn"]
    assert broken("reward", found)[0].startswith("uvicorn")


def test_what_pytorch_brings_is_parted_from_the_rest() -> None:
    rest, of_torch = pins.split(
        ["numpy==2.4.6", "nvidia-nccl-cu13==2.29.7", "torch==2.13.0", "torchmetrics==1.0", "triton==3.7.1"]
    )
    assert rest == ["numpy==2.4.6", "torchmetrics==1.0"]
    assert of_torch == ["nvidia-nccl-cu13==2.29.7", "torch==2.13.0", "triton==3.7.1"]

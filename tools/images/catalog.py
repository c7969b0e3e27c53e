"""The images, and what they have in common, whichever way they are made.

The Dockerfiles say the same once more, for engines; a test compares.
"""

import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PINS = ROOT / "tools" / "pins"
PREFIX = "dev.local/rekindle"
"""Of names of images until a registry is given: Knative looks these up nowhere."""
PYTHON = "3.11"
"""That the pins are for."""
TORCH_CPU, TORCH_CUDA = PINS / "torch-cpu.txt", PINS / "torch-cuda.txt"
"""PyTorch itself, and with CUDA what it brings along: one of both goes with an image that has `torch`."""

APP, VENV = "/app", "/opt/venv"
SOURCES = ("services", "events", "sdk")
"""Folders of the repository that lie below APP."""
USER = "65532:65532"
PORT = 8080
ENVIRONMENT = {
    "PATH": f"{VENV}/bin:/usr/local/bin:/usr/bin:/bin",
    "PYTHONPATH": f"{APP}:{APP}/sdk",
    # The root file system is read-only; bytecode is there already.
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONUNBUFFERED": "1",
    # Libraries ask who they are, and the user has no line in /etc/passwd.
    "USER": "rekindle",
    "HOME": "/tmp",
}


@dataclass(frozen=True, slots=True)
class Image:
    """One image, e.g. `Image("reward", "services.reward.app", "services/reward/Dockerfile")`."""

    name: str
    """Also the extra of pyproject.toml and the file of pins."""
    module: str
    """That runs in it."""
    dockerfile: str
    """Path from ROOT."""
    torch: bool = False
    """Whether it takes PyTorch in one of two builds; where one alone will do, that is among its pins."""
    port: int = PORT
    """Where it listens; the dispatcher only to be scraped."""

    @property
    def entrypoint(self) -> list[str]:
        """In exec form: signals reach Python."""
        return [f"{VENV}/bin/python", "-m", self.module]

    @property
    def pins(self) -> Path:
        """Its exact versions."""
        return PINS / f"{self.name}.txt"


def _service(name: str, torch: bool = False) -> Image:
    return Image(name, f"services.{name}.app", f"services/{name}/Dockerfile", torch)


IMAGES = {
    image.name: image
    for image in (
        _service("gateway"),
        _service("checkpoint"),
        _service("data"),
        _service("reward"),
        Image("dispatcher", "events.dispatcher", "events/dispatcher/Dockerfile", port=9464),
        _service("train", torch=True),
        _service("sample", torch=True),
        Image("sample-vllm", "services.sample.app", "services/sample/vllm.Dockerfile"),
    )
}
FOR_CPUS = tuple(name for name in IMAGES if name != "sample-vllm")
"""What is made unless names are given."""


def version() -> str:
    """Of the project, and so of its images."""
    found: str = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    return found


def labels(image: Image, tag: str) -> dict[str, str]:
    """The keys are those of OCI's image specification."""
    return {
        "org.opencontainers.image.title": f"rekindle {image.name}",
        "org.opencontainers.image.version": tag,
        "org.opencontainers.image.licenses": "Apache-2.0",
    }

"""Images by docker, buildah or podman, from the Dockerfiles.

The three take the same arguments. What goes wrong, they say themselves.
"""

import shutil
import subprocess

from tools.images.catalog import ROOT, Image, labels

ENGINES = ("docker", "buildah", "podman")


def find() -> str | None:
    """The first that is on the PATH; None = none is."""
    return next((name for name in ENGINES if shutil.which(name)), None)


def build_command(engine: str, image: Image, reference: str, arguments: dict[str, str]) -> list[str]:
    """Makes `image` under the name `reference`; `arguments` are those of the Dockerfile."""
    tag = reference.rpartition(":")[2]
    options = [f"--label={key}={value}" for key, value in labels(image, tag).items()]
    options += [f"--build-arg={key}={value}" for key, value in arguments.items()]
    return [engine, "build", f"--file={image.dockerfile}", f"--tag={reference}", *options, "."]


def run(command: list[str]) -> None:
    """Run an engine from the repository's root.

    Raises:
        SystemExit: it failed.
    """
    done = subprocess.run(command, cwd=ROOT)
    if done.returncode != 0:
        raise SystemExit(f"images: {' '.join(command[:2])} failed ({command[-1]}); its messages are above")

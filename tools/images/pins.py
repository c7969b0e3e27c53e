"""Exact versions of all that goes into the images, from the ranges of pyproject.toml: `task pins`.

One file an image, `tools/pins/NAME.txt`, from the extra of that name, as `pip install --requirement` takes it. PyTorch
and what its CUDA build brings along stand in files of their own, because the trainer's and the sampler's images are
made with either build. Needs uv beside this Python, and a package index; nothing is installed or downloaded whole.
"""

import re
import subprocess
import sys
from pathlib import Path

from tools.images.catalog import IMAGES, PINS, PYTHON, ROOT, TORCH_CPU, TORCH_CUDA
from tools.install import CPU_INDEX

PLATFORM = "x86_64-manylinux_2_36"
"""Debian 12's C library, which is that of the base."""
OF_TORCH = re.compile(r"(torch|triton|nvidia-.+|cuda-.+)==")


def resolve(extra: str) -> list[str]:
    """The newest versions that fit, `name==version` each, of all that the extra needs.

    Of those that have wheels: there is no compiler where they are installed.
    """
    uv = str(Path(sys.executable).with_name("uv"))
    command = [uv, "pip", "compile", "pyproject.toml", f"--extra={extra}", "--quiet"]
    options = ["--no-header", "--no-annotate", "--no-emit-package=rekindle", "--only-binary=:all:"]
    done = subprocess.run(
        [*command, *options, f"--python-platform={PLATFORM}", f"--python-version={PYTHON}"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


def split(pins: list[str]) -> tuple[list[str], list[str]]:
    """What an image holds in any case, and what it takes of one build of PyTorch."""
    return [pin for pin in pins if not OF_TORCH.match(pin)], [pin for pin in pins if OF_TORCH.match(pin)]


def write(path: Path, pins: list[str], origin: str) -> None:
    """Replace a file of pins."""
    path.write_text(
        f"# Made by `task pins`: {origin}. Not to be edited.\n" + "".join(f"{pin}\n" for pin in pins)
    )


def main() -> None:
    """Make all files anew."""
    PINS.mkdir(exist_ok=True)
    of_torch: set[str] = set()
    for image in IMAGES.values():
        pins = resolve(image.name)
        if image.torch:
            pins, more = split(pins)
            of_torch |= set(more)
        write(image.pins, pins, f"the extra `{image.name}` of pyproject.toml")
    (torch,) = (pin for pin in of_torch if pin.startswith("torch=="))
    write(TORCH_CUDA, sorted(of_torch), "PyTorch's usual build, which brings CUDA")
    write(TORCH_CPU, [f"--extra-index-url {CPU_INDEX}", f"{torch}+cpu"], "PyTorch's build for CPUs")


if __name__ == "__main__":
    main()

"""The trees of an image that is made without an engine: /opt/venv and /app, for the Python of a root file system.

Nothing of the root file system runs, so nobody needs rights for this: pip fetches wheels for that Python, and the
bytecode is made by this Python, which has to be of the same release.
"""

import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from tools import install
from tools.images import layers
from tools.images.catalog import APP, ROOT, SOURCES, TORCH_CPU, TORCH_CUDA, VENV, Image

GLIBC = range(17, 37)
"""Minor releases whose wheels a root file system of Debian 12 can load."""


def entries(rootfs: Path) -> Iterable[layers.Entry]:
    """Of a root file system, a folder or a tar file."""
    return layers.of_folder(rootfs, as_it_is=True) if rootfs.is_dir() else layers.of_tar(rootfs)


def python_of(rootfs: Path) -> str:
    """Path of the Python in there, e.g. `/usr/bin/python3.11`.

    Raises:
        SystemExit: there is none, or it is of another release than this one.
    """
    if rootfs.is_dir():
        folders = (rootfs / "usr" / "bin", rootfs / "usr" / "local" / "bin")
        names = [path.relative_to(rootfs).as_posix() for one in folders for path in one.glob("python3.*")]
    else:
        with tarfile.open(rootfs) as tar:
            names = [name.removeprefix("./") for name in tar.getnames()]
    found = sorted(name for name in names if re.fullmatch(r"usr/(local/)?bin/python3\.\d+", name))
    if not found:
        raise SystemExit(f"images: {rootfs} has no Python: usr/bin/python3.* is missing")
    ours = f"python{sys.version_info.major}.{sys.version_info.minor}"
    if Path(found[0]).name != ours:
        raise SystemExit(
            f"images: {rootfs} has {Path(found[0]).name}, and this is {ours}: bytecode takes the same"
        )
    return f"/{found[0]}"


def make_venv(image: Image, tree: Path, python: str, *, wheels: Path | None, cuda: bool) -> None:
    """A virtual environment with the pins of `image` below `tree`.

    `wheels` is a folder to take them from; None = the index that pip is configured with. `cuda`: PyTorch for NVIDIA's
    GPUs rather than for CPUs.

    Raises:
        SystemExit: pip failed.
    """
    packages = _empty_venv(tree / VENV.lstrip("/"), Path(python))
    pip = _pip(packages, wheels)
    requirements = ["--requirement", str(image.pins)]
    if image.torch and cuda:
        requirements += ["--requirement", str(TORCH_CUDA)]
    elif image.torch:
        *for_cpus, _ = install.torch_attempts(torch_version(), system="Linux", gpu=False)
        install.install_torch(for_cpus, pip, install.answers)
    if not pip(requirements):
        raise SystemExit(f"images: pip could not install {image.pins.name}; its messages are above")
    # Scripts name this machine's Python, and nothing calls them.
    shutil.rmtree(packages / "bin", ignore_errors=True)
    # Not all that others ship is meant to be imported, or for this Python.
    _compile(packages, tree, "-qq")


def _empty_venv(venv: Path, python: Path) -> Path:
    """What `python -m venv` makes, for a Python that is not here; the folder for packages."""
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python").symlink_to(python)
    (venv / "bin" / "python3").symlink_to("python")
    about = {
        "home": python.parent,
        "include-system-site-packages": "false",
        "version": python.name.removeprefix("python"),
    }
    (venv / "pyvenv.cfg").write_text("".join(f"{key} = {value}\n" for key, value in about.items()))
    return venv / "lib" / python.name / "site-packages"


def torch_version() -> str:
    """That the pins hold, e.g. `2.13.0`."""
    found = re.search(r"^torch==([\d.]+)", TORCH_CPU.read_text(), re.MULTILINE)
    assert found is not None, f"no version of torch in {TORCH_CPU}"
    return found[1]


def make_app(tree: Path) -> None:
    """The project's code below `tree`.

    Raises:
        SystemExit: a module does not compile.
    """
    unwanted = shutil.ignore_patterns("__pycache__", "*Dockerfile", "*.egg-info")
    for source in SOURCES:
        shutil.copytree(ROOT / source, tree / APP.lstrip("/") / source, ignore=unwanted)
    if not _compile(tree / APP.lstrip("/"), tree, "-q"):
        raise SystemExit("images: a module does not compile; messages are above")


def settle(tree: Path) -> None:
    """Rights that do not depend on who made the tree: all may read, its owner may write."""
    for path in tree.rglob("*"):
        if not path.is_symlink():
            path.chmod(0o755 if path.stat().st_mode & 0o100 else 0o644)


def _pip(target: Path, wheels: Path | None) -> install.Pip:
    """`pip install` into a folder, for the C library of the root file system."""
    machine = platform.machine().replace("arm64", "aarch64")
    platforms = [f"manylinux_2_{minor}_{machine}" for minor in reversed(GLIBC)]
    options = [f"--platform={name}" for name in (*platforms, f"manylinux2014_{machine}")]
    options += ["--no-deps", "--no-compile", "--only-binary=:all:"]
    options += ["--implementation=cp", f"--target={target}"]
    options += ["--no-index", f"--find-links={wheels}"] if wheels is not None else []

    def run(arguments: Sequence[str], *, hush: bool = False) -> bool:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        return subprocess.run([*command, *options, *arguments], cwd=ROOT, capture_output=hush).returncode == 0

    return run


def _compile(folder: Path, tree: Path, quiet: str) -> bool:
    """Bytecode beside every module, which is never compared with it; False = a module is not Python of today."""
    # An own process: what a set in the code is ordered by is chosen when Python starts.
    command = [sys.executable, "-m", "compileall", quiet, "--invalidation-mode=unchecked-hash"]
    where = [f"-s{tree}", "-p/", str(folder)]
    return subprocess.run([*command, *where], env=os.environ | {"PYTHONHASHSEED": "0"}).returncode == 0

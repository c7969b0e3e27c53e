"""The public face of the SDK: complete, light, typed."""

import ast
import inspect
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import rekindle
from rekindle import errors

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "transformers", "peft", "vllm", "datasets", "pandas", "pyarrow", "services", "events")
PUBLIC = ("futures", "service", "training", "sampling")
"""Modules whose classes people handle; their inputs and results are exported by name."""

LIGHT = f"""
import sys, time
started = time.perf_counter()
import rekindle
seconds = time.perf_counter() - started
for name in rekindle.__all__:
    getattr(rekindle, name)
import rekindle.datasets, rekindle.rewards, rekindle.checkpoints, rekindle.runs
heavy = [name for name in {HEAVY!r} if name in sys.modules]
assert not heavy, heavy
print(seconds)
"""


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT / "sdk", capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_sdk_is_quick_and_no_part_of_it_imports_what_is_heavy() -> None:
    assert min(float(run(LIGHT)) for _ in range(3)) < 0.3


def test_every_public_name_is_there_and_the_list_is_sorted_and_complete() -> None:
    assert set(rekindle.__all__) <= set(dir(rekindle))
    assert all(getattr(rekindle, name).__name__ == name for name in rekindle.__all__)
    classes = {
        name
        for module in PUBLIC
        for name, found in inspect.getmembers(import_module(f"rekindle.{module}"), inspect.isclass)
        if found.__module__ == f"rekindle.{module}" and not name.startswith("_")
    }
    raised = {name for name in errors.__all__ if inspect.isclass(getattr(errors, name))}
    assert (classes | raised) - {"Progress"} <= set(rekindle.__all__)


def test_a_type_checker_sees_the_same_names() -> None:
    tree = ast.parse((ROOT / "sdk/rekindle/__init__.py").read_text())
    guarded = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.name for node in guarded.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert seen == {*rekindle.__all__, "errors", "types"}
    assert (ROOT / "sdk/rekindle/py.typed").exists()


def test_messages_and_errors_are_there_without_an_import_of_their_own() -> None:
    assert run(
        "import rekindle; print(rekindle.types.__name__, rekindle.errors.NotFound.__name__)"
    ).split() == [
        "rekindle.types",
        "NotFound",
    ]


SCRIPT = """
import rekindle

with rekindle.ServiceClient() as service:
    training = service.create_lora_training_client("base", rank=4).result()
    datum = rekindle.Datum([1, 2], {"target_tokens": [2, 3], "weights": [0.0, 1.0]})
    total: float = training.forward_backward([datum], "cross_entropy").result().metrics["loss:sum"]
    sampler = training.save_weights_and_get_sampling_client().result()
    tokens: list[int] = sampler.sample([1, 2]).result().sequences[0].tokens
    rows = service.datasets.filter("sums", [("answer", "<", 10)]).result().rows + len(rekindle.types.LOSSES)
    service.datasets.get("sums", "newest")
    rekindle.Trainer
"""


@pytest.mark.slow
def test_a_type_checker_finds_the_mistakes_of_a_script_and_no_others(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    checker = ["-m", "mypy", "--strict", "--config-file=", f"--cache-dir={tmp_path}", "script.py"]
    done = subprocess.run(
        [sys.executable, *checker],
        cwd=tmp_path,
        env={**os.environ, "MYPYPATH": str(ROOT / "sdk")},
        capture_output=True,
        text=True,
        timeout=300,
    )
    wrong, missing, found = done.stdout.splitlines()
    assert "'newest'" in wrong and 'has no attribute "Trainer"' in missing and "Found 2 errors" in found


def test_a_name_that_does_not_exist_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Trainer'"):
        _ = rekindle.Trainer


@pytest.mark.parametrize("module", sorted(path.stem for path in (ROOT / "sdk/rekindle").glob("*.py")))
def test_every_public_function_and_method_says_what_it_does(module: str) -> None:
    found = import_module("rekindle" if module == "__init__" else f"rekindle.{module}")
    assert found.__doc__, f"rekindle.{module} has no docstring"
    missing = []
    for name, value in vars(found).items():
        if getattr(value, "__module__", None) != found.__name__ or name.startswith("_"):
            continue
        parts = vars(value).items() if inspect.isclass(value) else ()
        spoken = [(f"{name}.{part}", method) for part, method in parts if not part.startswith("_")]
        named = [(name, value), *spoken] if callable(value) else []
        missing += [
            who
            for who, what in named
            if (inspect.isroutine(what) or inspect.isclass(what)) and not inspect.getdoc(what)
        ]
    assert not missing

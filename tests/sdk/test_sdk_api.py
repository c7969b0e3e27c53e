"""The public face of the SDK: complete, light, typed."""

import ast
import inspect
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
    (guarded,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {alias.name for node in guarded.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert seen == set(rekindle.__all__)
    assert (ROOT / "sdk/rekindle/py.typed").exists()


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

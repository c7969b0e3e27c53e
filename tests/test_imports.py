"""The layout rule: who may import whom, and that light services come up without the heavy libraries.

Modules are discovered, so a new one is held to the rule from its first day.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ("torch", "transformers", "peft", "vllm")
ENGINES = ("train", "sample")
"""Services whose edge (`api.py`) is light, while the rest holds a model."""
WITH_MODEL = ("model", *ENGINES)
SEES_SERVICES = ("gateway", "local")

IMPORT_WITHOUT_HEAVY = f"""
import importlib, sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {HEAVY!r}:
            raise ImportError(f"{{name}} must not be imported here")

sys.meta_path.insert(0, Block())
for module in sys.argv[1:]:
    importlib.import_module(module)
"""


def packages() -> dict[str, Path]:
    """Every package that the rule speaks of: `rekindle`, `events`, `services.train`, ..."""
    folders = {"rekindle": ROOT / "sdk" / "rekindle", "events": ROOT / "events"}
    services = sorted(path for path in (ROOT / "services").iterdir() if (path / "__init__.py").exists())
    return folders | {f"services.{path.name}": path for path in services}


def modules(package: str) -> dict[str, Path]:
    """Dotted name → file of all modules of `package`."""
    folder = packages()[package]
    names = {}
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder).with_suffix("").parts
        names[".".join((package, *(part for part in parts if part != "__init__")))] = path
    return names


def light_modules(package: str) -> list[str]:
    """The modules of `package` that must come up without torch."""
    service = package.removeprefix("services.")
    if service == "model":
        return []
    if service in ENGINES:
        return [name for name in modules(package) if name == f"{package}.api"]
    return list(modules(package))


def imports(source: str, package: str) -> Iterator[str]:
    """Dotted names that `source`, a module inside `package`, imports anywhere in its text."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def forbidden(package: str, name: str) -> bool:
    """Whether a module of `package` must not import `name`."""
    service = package.removeprefix("services.")
    top, _, rest = name.partition(".")
    first = rest.partition(".")[0]
    if top == "nats":
        return package != "events"
    if top in HEAVY:
        return service not in WITH_MODEL
    if package == "rekindle":
        return top in ("events", "services")
    if top == "rekindle":
        return first != "types"
    if top == "services":
        own_model = first == "model" and service in ENGINES
        return first != service and not own_model and service not in SEES_SERVICES
    return False


def test_every_part_of_the_design_is_found():
    found = packages()
    assert {"rekindle", "events", "services.gateway", "services.train", "services.sample"} <= found.keys()
    assert all(modules(package) for package in found)


@pytest.mark.parametrize("package", packages())
def test_a_package_imports_only_what_the_layout_allows(package: str):
    broken = [
        f"{path.relative_to(ROOT)} imports {name}"
        for module, path in modules(package).items()
        for name in imports(
            path.read_text(), module if path.stem == "__init__" else module.rpartition(".")[0]
        )
        if forbidden(package, name)
    ]
    assert not broken, "\n".join(broken)


def test_light_packages_come_up_without_the_heavy_libraries():
    """All in one process: no module can lend another what none of them may import."""
    light = [module for package in packages() for module in light_modules(package)]
    command = [sys.executable, "-c", IMPORT_WITHOUT_HEAVY, *light]
    path = f"{ROOT}:{ROOT / 'sdk'}"
    outcome = subprocess.run(
        command, cwd=ROOT, env={"PYTHONPATH": path}, capture_output=True, text=True, timeout=100
    )
    assert outcome.returncode == 0, outcome.stderr


def test_a_heavy_import_would_be_noticed():
    command = [sys.executable, "-c", IMPORT_WITHOUT_HEAVY, "services.train.engine"]
    outcome = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert outcome.returncode != 0 and "torch must not be imported here" in outcome.stderr


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import services.train.api", ["services.train.api"]),
        ("from services import train, sample", ["services.train", "services.sample"]),
        ("def f():\n    from . import api", ["services.gateway.api"]),
        ("from ..train.api import x", ["services.train.api.x"]),
    ],
)
def test_imports_of_every_form_are_seen(source: str, expected: list[str]):
    assert list(imports(source, "services.gateway")) == expected


@pytest.mark.parametrize(
    ("package", "name"),
    [
        ("services.train", "services.sample.api"),
        ("services.gateway", "nats.aio"),
        ("services.checkpoint", "torch.nn"),
        ("services.checkpoint", "services.model.lora"),
        ("events", "services.train"),
        ("events", "rekindle.client"),
        ("rekindle", "events.names"),
    ],
)
def test_what_the_design_forbids_is_forbidden(package: str, name: str):
    assert forbidden(package, name)


@pytest.mark.parametrize(
    ("package", "name"),
    [
        ("services.train", "services.train.passes"),
        ("services.train", "services.model.lora"),
        ("services.gateway", "services.train.api"),
        ("services.checkpoint", "rekindle.types.paths"),
        ("events", "nats.js"),
        ("rekindle", "rekindle.types"),
        ("services.model", "torch"),
    ],
)
def test_what_the_design_allows_is_allowed(package: str, name: str):
    assert not forbidden(package, name)

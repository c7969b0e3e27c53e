"""The catalogue names every type that is spoken, and the tables in docstrings name what exists."""

import ast
import re
from pathlib import Path

import pytest

from events import catalog

ROOT = Path(__file__).resolve().parents[2]
SOURCES = [path for folder in ("events", "services") for path in sorted((ROOT / folder).rglob("*.py"))]
TYPES = {
    name: value
    for name, value in vars(catalog).items()
    if name.isupper() and name[0] != "_" and isinstance(value, str)
}
del TYPES["PREFIX"]


def test_every_type_has_exactly_one_line_in_the_table() -> None:
    listed = [kind.type for kind in catalog.TABLE]
    assert sorted(listed) == sorted(TYPES.values())
    assert len(set(listed)) == len(listed)


def test_types_are_written_in_the_catalogue_alone() -> None:
    for path in SOURCES:
        texts = (
            node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)
        )
        spoken = [text for text in texts if isinstance(text, str) and re.match(r"dev\.rekindle\.\w", text)]
        assert not spoken, path


def test_every_type_is_used_somewhere() -> None:
    text = "\n".join(path.read_text() for path in SOURCES if path.name != "catalog.py")
    unused = {name for name in TYPES if not re.search(rf"catalog\.{name}\b", text)}
    assert not unused


def test_every_use_of_the_catalogue_is_of_something_in_it() -> None:
    for path in SOURCES:
        for name in re.findall(r"\bcatalog\.([A-Z_]+)\b", path.read_text()):
            assert hasattr(catalog, name), f"{path}: catalog.{name}"


@pytest.mark.parametrize("kind", catalog.TABLE, ids=lambda kind: kind.type)
def test_commands_are_imperatives_and_facts_are_participles(kind: catalog.Kind) -> None:
    assert kind.type.startswith(catalog.PREFIX)
    assert kind.subject
    assert kind.payload
    if kind.role == "fact":
        assert kind.type.endswith(("ed", "en", ".mismatch"))
        assert kind.subject == f"facts.<tenant>.{kind.type.removeprefix(catalog.PREFIX)}"
    if kind.role == "command":
        assert not kind.type.endswith("ed")


PACKAGES = [
    path for path in SOURCES if path.name == "__init__.py" and re.search(r"^\w+\.py ", path.read_text(), re.M)
]


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.parent.name)
def test_the_modules_that_a_package_lists_are_those_that_it_has(package: Path) -> None:
    listed = set(re.findall(r"^(\w+\.py) ", package.read_text(), re.M))
    there = {path.name for path in package.parent.glob("*.py")} - {"__init__.py"}
    assert listed == there


def test_events_lists_its_modules() -> None:
    assert ROOT / "events" / "__init__.py" in PACKAGES

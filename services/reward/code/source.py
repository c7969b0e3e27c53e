"""What can be known of a reward function's file without running it: which function, what it takes, what it requires.

Requirements are named as PEP 723 has it, in a comment:

    # /// script
    # dependencies = ["numpy>=2"]
    # ///
"""

import ast
import hashlib
import tomllib
from dataclasses import dataclass
from importlib import metadata
from platform import python_version

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet

from rekindle.types import InvalidField

GIVEN = ("prompts", "completions")
"""Parameters that are no columns."""
FIELD = "source"
OPENS, CLOSES = "# /// script", "# ///"
"""The lines around a block."""
UNREADABLE = (SyntaxError, ValueError, RecursionError, MemoryError)


@dataclass(frozen=True, slots=True)
class Described:
    """Example: Described("brevity", ("limit",), ("numpy>=2",), None)."""

    function: str
    columns: tuple[str, ...]
    """Parameters without a default, but for prompts and completions."""
    requirements: tuple[str, ...]
    python: str | None
    """The versions of Python that it says it runs on; None: it does not say."""


def version_of(source: str) -> str:
    """The first 16 hex digits of the file's sha256."""
    return hashlib.sha256(source.encode()).hexdigest()[:16]


def describe(source: str) -> Described:
    """Raises InvalidField."""
    try:
        tree = ast.parse(source)
    except UNREADABLE as error:
        raise InvalidField(FIELD, f"not Python: {error}") from error
    function = _function(tree)
    requirements, python = _requirements(source)
    return Described(function.name, _columns(function), requirements, python)


def _function(tree: ast.Module) -> ast.FunctionDef | ast.AsyncFunctionDef:
    """The only public function, or the one called `reward`."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    found = {node.name: node for node in tree.body if isinstance(node, kinds) and node.name[0] != "_"}
    if "reward" in found:
        return found["reward"]
    if len(found) != 1:
        listed = ", ".join(found) or "none"
        raise InvalidField(FIELD, f"expected one public function, or one called 'reward'; found {listed}")
    return next(iter(found.values()))


def _columns(function: ast.FunctionDef | ast.AsyncFunctionDef) -> tuple[str, ...]:
    """What it must be given by name."""
    given = function.args
    positional = [*given.posonlyargs, *given.args]
    required = [one.arg for one in positional[: len(positional) - len(given.defaults)]]
    if given.posonlyargs and given.posonlyargs[0].arg in required:
        raise InvalidField(FIELD, f"{function.name}: parameters before '/' cannot be given by name")
    required += [
        one.arg for one, default in zip(given.kwonlyargs, given.kw_defaults, strict=True) if default is None
    ]
    return tuple(name for name in required if name not in GIVEN)


def _requirements(source: str) -> tuple[tuple[str, ...], str | None]:
    """(distributions, versions of Python) that the file names."""
    blocks = _blocks(source)
    if len(blocks) > 1:
        raise InvalidField(FIELD, "more than one block '# /// script'")
    if not blocks:
        return (), None
    try:
        said = tomllib.loads("\n".join(line.removeprefix("# ").removeprefix("#") for line in blocks[0]))
        listed, python = said.get("dependencies", []), said.get("requires-python")
        if not isinstance(listed, list) or not isinstance(python, str | None):
            raise ValueError("dependencies: expected a list, and requires-python a text")
        SpecifierSet(python or "")
        return tuple(str(Requirement(str(one))) for one in listed), python
    except (ValueError, RecursionError, InvalidRequirement, InvalidSpecifier) as error:
        raise InvalidField(FIELD, f"'# /// script': {error}") from error


def _blocks(source: str) -> list[list[str]]:
    """The lines within each block, from where one opens to the last line among the comments after it that closes it.

    That is what the expression in PEP 723 finds, which takes minutes for a file that opens blocks and closes none.
    """
    lines = source.split("\n")
    blocks: list[list[str]] = []
    place = 0
    while place < len(lines):
        place += 1
        if lines[place - 1] != OPENS:
            continue
        begin = place
        while place < len(lines) and (lines[place] == "#" or lines[place].startswith("# ")):
            place += 1
        content = lines[begin:place]
        while content and content[-1] != CLOSES:
            content.pop()
        if len(content) > 1:
            blocks.append(content[:-1])
            place = begin + len(content)
    return blocks


def missing(described: Described) -> list[str]:
    """What of it is not here, in words."""
    found = []
    here = python_version()
    if described.python is not None and not SpecifierSet(described.python).contains(here, prereleases=True):
        found.append(f"Python {described.python} (this is {here})")
    for requirement in map(Requirement, described.requirements):
        if requirement.marker is not None and not requirement.marker.evaluate():
            continue
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            found.append(f"{requirement} (not installed)")
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            found.append(f"{requirement} (installed is {version})")
    return found

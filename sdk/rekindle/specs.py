"""Specs as people write them: a file of YAML or JSON, whose mistakes are told with file and line."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rekindle.types import InvalidField
from rekindle.types.rl import RlRunSpec, read_yaml

Spec = RlRunSpec | Mapping[str, Any] | str | Path
"""An RL run: as a message, as plain values, or the path of a file that holds it."""
_PART = re.compile(r"[^.\[\]]+")


def as_run_spec(spec: Spec) -> RlRunSpec:
    """The spec, checked. Raises InvalidField for its first mistake; OSError for a file that cannot be read."""
    if isinstance(spec, RlRunSpec):
        return spec
    if isinstance(spec, Mapping):
        return RlRunSpec.of(dict(spec))
    text = Path(spec).read_text(encoding="utf-8")
    try:
        return RlRunSpec.from_yaml(text)
    except InvalidField as error:
        raise at_its_place(error, spec, text) from error


def as_values(spec: Spec) -> Any:
    """The spec as plain values, unchecked: it may hold what is filled in later. Raises InvalidField or OSError."""
    if isinstance(spec, RlRunSpec):
        return spec.model_dump(mode="json")
    if isinstance(spec, Mapping):
        return dict(spec)
    text = Path(spec).read_text(encoding="utf-8")
    try:
        return read_yaml(text)
    except InvalidField as error:
        raise at_its_place(error, spec, text) from error


def in_start(error: InvalidField, start: Spec | None) -> InvalidField:
    """A mistake in a trigger, at its place in the file of the run to start if it is in there."""
    if not isinstance(start, str | Path) or not error.field.startswith("start."):
        return error
    inner = InvalidField(error.field.removeprefix("start."), error.reason)
    return at_its_place(inner, start, Path(start).read_text(encoding="utf-8"))


def at_its_place(error: InvalidField, path: str | Path, text: str) -> InvalidField:
    """The mistake with file and line before the field: `run.yaml:7: sampling.max_tokens`."""
    line = line_of(text, error.field)
    place = f"{path}:{line}" if line else str(path)
    return InvalidField(f"{place}: {error.field}", error.reason)


def line_of(text: str, field: str) -> int | None:
    """The line, from 1, of a field as mistakes name it, or of the nearest thing around it; None: there is none."""
    import yaml  # only who has made a mistake pays for it

    try:
        node = yaml.compose(text, yaml.SafeLoader)
    except yaml.YAMLError:
        return None
    line = None
    for part in _PART.findall(field):
        found = _child(yaml, node, part)
        if found is not None:  # the tag of a union is a part that no file holds
            line, node = found
    return line


def _child(yaml: Any, node: Any, part: str) -> tuple[int, Any] | None:
    """Line and node of an entry."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == part:
                return key.start_mark.line + 1, value
    if isinstance(node, yaml.SequenceNode) and part.isdigit() and int(part) < len(node.value):
        value = node.value[int(part)]
        return value.start_mark.line + 1, value
    return None

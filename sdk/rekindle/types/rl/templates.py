"""Texts with holes: prompts over the columns of a row, and specs over the fields of an event.

Both are one pass of plain replacement: what is put in is never read again, and nothing is looked up but by name.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from rekindle.types.errors import InvalidField

_BRACES = re.compile(r"\{\{|\}\}|\{([^{}]+)\}|[{}]")
_EVENT = re.compile(r"\$\{event\.([A-Za-z0-9_.-]+)\}")


def template_columns(template: str) -> tuple[str, ...]:
    """The columns that a template names, each once: `{question}`; `{{` and `}}` are braces. Raises ValueError."""
    names = []
    for match in _BRACES.finditer(template):
        if match[0] in "{}":
            raise ValueError(
                f"a single {match[0]!r} at character {match.start()}; write {match[0] * 2!r} for a brace"
            )
        if match[1] is not None:
            names.append(match[1])
    return tuple(dict.fromkeys(names))


def fill_row(template: str, row: Mapping[str, Any]) -> str:
    """The template with the columns of `row`: texts as they are, all else as JSON.

    Raises InvalidField for a column that the row lacks, or that is null.
    """

    def put(match: re.Match[str]) -> str:
        name = match[1]
        if name is None:
            return match[0][0]
        if row.get(name) is None:
            raise InvalidField(f"row.{name}", "missing or null, but the prompt needs it")
        value = row[name]
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)

    return _BRACES.sub(put, template)


def has_holes(value: object) -> bool:
    """Whether a text holds `${event.…}`."""
    return isinstance(value, str) and _EVENT.search(value) is not None


def fill_event(template: Any, event: Mapping[str, Any], path: str = "start") -> Any:
    """A JSON value with every `${event.name}` replaced by that field; dots lead into objects: `${event.how.op}`.

    A text that is nothing but one of them becomes the field itself, with its type. Keys are left as they are.
    Raises InvalidField that names the place of a field that the event lacks.
    """
    if isinstance(template, Mapping):
        return {key: fill_event(value, event, f"{path}.{key}") for key, value in template.items()}
    if isinstance(template, list | tuple):
        return [fill_event(value, event, f"{path}[{index}]") for index, value in enumerate(template)]
    if not isinstance(template, str):
        return template
    whole = _EVENT.fullmatch(template)
    if whole is not None:
        return field_of(event, whole[1], path)
    return _EVENT.sub(lambda match: _as_text(field_of(event, match[1], path)), template)


def field_of(event: Mapping[str, Any], name: str, path: str) -> Any:
    """The field of a dotted name. Raises InvalidField that names `path`."""
    value: Any = event
    for part in name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise InvalidField(path, f"the event has no field {name!r}")
        value = value[part]
    return value


def _as_text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)

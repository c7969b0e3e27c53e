"""The small languages of arguments: `NAME@VERSION`, conditions, shares, fields.

A condition is `COLUMN OP VALUE`:

    level>=3                   == != < <= > >=
    'split in ["train","dev"]' or split in train,dev: equals one of them
    'prompt contains SELECT'   a text within a text, or an item of a list
    'answer is null'           and `is not null`

The value is a text where the column holds texts, in double quotes or without them. For other columns it is JSON
where it reads as JSON (3, 0.5, true), and a text otherwise. A column whose name holds spaces or operators stands
in double quotes. Mistakes are usage errors.
"""

import json
import re
from typing import Any, Literal, NamedTuple

import typer

_COLUMN = r"""(?P<column>"(?:[^"\\]|\\.)*"|[^\s<>=!"]+)"""
_COMPARISON = re.compile(rf"\s*{_COLUMN}\s*(?P<op>==|!=|<=|>=|<|>)(?P<value>.*)", re.S)
_WORD = re.compile(rf"\s*{_COLUMN}\s+(?P<op>in|contains)\s+(?P<value>.*)", re.S)
_NULL = re.compile(rf"\s*{_COLUMN}\s+is\s+(?P<negated>not\s+)?null\s*")
EXPECTED = "expected COLUMN OP VALUE with ==, !=, <, <=, >, >=, in or contains, or COLUMN is [not] null"


class Condition(NamedTuple):
    """As it was written, e.g. `Condition("level", ">=", "3")`."""

    column: str
    op: str
    value: str

    def typed(self, kind: str | None) -> tuple[str, str, Any]:
        """Column, op and value as the SDK takes them. kind: of the column; None: there is no such column."""
        if self.op == "is_null":
            return self.column, self.op, self.value == "null"
        plain = kind == "string" or (kind == "list[string]" and self.op == "contains")
        read = _list if self.op == "in" else _value
        return self.column, self.op, read(self.value, plain)


class Reference(NamedTuple):
    """A version of a dataset, e.g. `Reference("spider/train", 3)`."""

    name: str
    version: int | Literal["latest"] = "latest"

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"


def reference(text: str) -> Reference:
    """`NAME`, `NAME@3` or `NAME@latest`."""
    name, at, version = text.partition("@")
    if not at or version == "latest":
        return Reference(name)
    if not re.fullmatch(r"[1-9][0-9]{0,8}", version):
        raise _wrong(f"{text!r}: version {version!r}, expected a number from 1 or 'latest'", "NAME[@VERSION]")
    return Reference(name, int(version))


def condition(text: str) -> Condition:
    """One condition of a filter."""
    if found := _NULL.fullmatch(text):
        return Condition(_name(found["column"]), "is_null", "not null" if found["negated"] else "null")
    found = _COMPARISON.fullmatch(text) or _WORD.fullmatch(text)
    if found is None or not found["value"].strip() or found["value"].startswith("="):
        raise _wrong(f"{text!r}: {EXPECTED}", "CONDITION")
    return Condition(_name(found["column"]), found["op"], found["value"].strip())


def shares(texts: list[str]) -> dict[str, float]:
    """`train=0.9 test=0.1` as shares by part."""
    parts: dict[str, float] = {}
    for text in texts:
        name, _, share = text.partition("=")
        if name in parts:
            raise _wrong(f"{name!r} stands there twice", "PART=SHARE")
        try:
            parts[name] = float(share)
        except ValueError as error:
            raise _wrong(
                f"{text!r}: expected a part and its share, such as train=0.9", "PART=SHARE"
            ) from error
    return parts


def fields(texts: list[str]) -> dict[str, str | bool | int | float]:
    """`name=sql/* version=3` as values by field: numbers and booleans as JSON has them, all else as text."""
    found: dict[str, str | bool | int | float] = {}
    for text in texts:
        name, is_there, said = text.partition("=")
        if not is_there or name in found:
            reason = (
                "stands there twice" if is_there else "expected a field and its value, such as name=sql/*"
            )
            raise _wrong(f"{text!r}: {reason}", "FIELD=VALUE")
        value = _value(said, plain=False)
        found[name] = value if isinstance(value, str | bool | int | float) else said
    return found


def seconds_or_none(text: str) -> int | None:
    """A number of seconds, or `none`."""
    if text == "none":
        return None
    if not re.fullmatch(r"[0-9]{1,12}", text):
        raise _wrong(f"{text!r}: expected a whole number of seconds, or none", "SECONDS")
    return int(text)


def _name(column: str) -> str:
    try:
        return str(json.loads(column)) if column.startswith('"') else column
    except ValueError as error:
        raise _wrong(f"{column}: expected the name as a JSON string", "CONDITION") from error


def _list(text: str, plain: bool) -> list[Any]:
    bare = plain and '"' not in text
    for candidate in (text,) if bare else (text, f"[{text}]"):
        if isinstance(value := _value(candidate, plain=False), list):
            return value
    return [_value(part.strip(), plain) for part in text.split(",")]


def _value(text: str, plain: bool) -> Any:
    """plain: a text, whatever it looks like, unless it stands in double quotes."""
    if plain and not text.startswith('"'):
        return text
    try:
        return json.loads(text, parse_constant=_no_number)
    except ValueError:
        return text


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _wrong(what: str, argument: str) -> typer.BadParameter:
    return typer.BadParameter(what, param_hint=argument)

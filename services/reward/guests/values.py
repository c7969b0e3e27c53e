"""Plain values on their way between two processes that do not trust each other: JSON, in which nothing is code.

What a value is decoded to is exactly of a builtin type, or of one of the few of the standard library named here,
whatever it was on the other side: a subclass of list arrives as a list, so no `__eq__` of a stranger travels. All
else goes through `export`, which makes a reference of it or refuses.

    None, bool, int, float, str   themselves; integers beyond 64 bits as ["int", hexadecimal]
    everything else               [name of the type, parts…]
"""

import numbers
from collections import deque
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

MAX_DEPTH = 64
"""Of values within values."""
SMALL = 2**63
COLLECTIONS: dict[str, type[Any]] = {kind.__name__: kind for kind in (list, tuple, set, frozenset, deque)}
TYPES: dict[str, type] = {
    kind.__name__: kind
    for kind in (bool, int, float, complex, str, bytes, bytearray, list, tuple, set, frozenset, dict, range)
} | {"NoneType": type(None)}
"""Types that are values themselves."""
BASES: tuple[type[Any], ...] = (
    *(int, float, complex, bytes, bytearray, Fraction, Decimal, dict),
    *COLLECTIONS.values(),
)

Export = Callable[[object], list[Any]]
"""What is not plain → `[tag, …]`. May raise TypeError."""
Resolve = Callable[[list[Any]], Any]
"""The way back. Raises ValueError or TypeError for what is none."""


def encode(value: Any, export: Export, depth: int = 0) -> Any:
    """As JSON has it. Raises ValueError for what is nested too deep, and what `export` raises."""
    if depth > MAX_DEPTH:
        raise ValueError(f"a value nested more than {MAX_DEPTH} deep, or holding itself")
    kind = type(value)
    if value is None or kind in (bool, str, float):
        return value
    if kind is int:
        return value if -SMALL < value < SMALL else ["int", hex(value)]

    def inner(part: Any) -> Any:
        return encode(part, export, depth + 1)

    if kind.__name__ in COLLECTIONS and COLLECTIONS[kind.__name__] is kind:
        return [kind.__name__, *map(inner, value)]
    if kind is dict:
        return ["dict", *([inner(key), inner(one)] for key, one in value.items())]
    if (parts := _parts(value)) is not None:
        return [kind.__name__, *map(inner, parts)]
    if isinstance(value, type) and TYPES.get(value.__name__) is value:
        return ["type", value.__name__]
    plain = _plain(value)
    return export(value) if plain is value else encode(plain, export, depth)


def _parts(value: Any) -> list[Any] | None:
    """What a value of exactly one of these types is made of."""
    kind = type(value)
    if kind is complex:
        return [value.real, value.imag]
    if kind in (bytes, bytearray):
        return [value.hex()]
    if kind is range:
        return [value.start, value.stop, value.step]
    if kind is Fraction:
        return [value.numerator, value.denominator]
    if kind is Decimal:
        return [str(value)]
    if kind in (date, datetime, time):
        return [value.isoformat()]
    if kind is timedelta:
        return [value.days, value.seconds, value.microseconds]
    return None


def _plain(value: Any) -> Any:
    """The plain value that a value of a derived or foreign type amounts to; itself if there is none."""
    if isinstance(value, str):
        return str.__str__(value)
    for base in BASES:
        if isinstance(value, base):
            return base(value)
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    if type(value).__module__ == "numpy" and hasattr(value, "tolist"):
        return value.tolist()
    return value


READ: dict[str, Callable[..., Any]] = {
    "int": lambda text: int(text, 16),
    "complex": complex,
    "bytes": bytes.fromhex,
    "bytearray": bytearray.fromhex,
    "range": range,
    "Fraction": Fraction,
    "Decimal": Decimal,
    "date": date.fromisoformat,
    "datetime": datetime.fromisoformat,
    "time": time.fromisoformat,
    "timedelta": timedelta,
    "type": TYPES.__getitem__,
}


def decode(wire: Any, resolve: Resolve, depth: int = 0) -> Any:
    """The value. Raises ValueError, TypeError, LookupError or ArithmeticError for what is no encoding of one."""
    if wire is None or type(wire) in (bool, str, float, int):
        return wire
    if depth > MAX_DEPTH or type(wire) is not list or not wire:
        raise ValueError("not an encoded value")

    def inner(part: Any) -> Any:
        return decode(part, resolve, depth + 1)

    tag, parts = wire[0], wire[1:]
    if tag in COLLECTIONS:
        return COLLECTIONS[tag](list(map(inner, parts)))
    if tag == "dict":
        return {inner(key): inner(one) for key, one in parts}
    if tag in READ:
        return READ[tag](*map(inner, parts))
    return resolve(wire)

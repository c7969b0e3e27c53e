"""Conditions on rows, column by column. A null fulfils none but `is_null`."""

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types as is_

from rekindle.types import InvalidField
from rekindle.types.datasets import Where
from services.data.keys import check_columns
from services.data.shapes import name_of

Mask = Any
"""A boolean Arrow array, one value a row, none of them null."""

COMPARE: dict[str, Callable[[Any, Any], Mask]] = {
    "==": pc.equal,
    "!=": pc.not_equal,
    "<": pc.less,
    "<=": pc.less_equal,
    ">": pc.greater,
    ">=": pc.greater_equal,
}
PYTHON_TYPES: dict[pa.DataType, tuple[type, ...]] = {
    pa.string(): (str,),
    pa.int64(): (int, float),
    pa.float64(): (int, float),
    pa.bool_(): (bool,),
}


def check_conditions(where: Sequence[Where], shape: pa.StructType) -> None:
    """Raises InvalidField for a column that is not there or a value that its type cannot have."""
    check_columns([condition.column for condition in where], shape, "where")
    for index, condition in enumerate(where):
        _check(condition, shape.field(condition.column).type, f"where[{index}]")


def _check(condition: Where, type_: pa.DataType, field: str) -> None:
    if condition.op == "is_null" or is_.is_null(type_):
        return
    compared = type_
    if condition.op == "contains":
        if not (is_.is_list(type_) or is_.is_string(type_)):
            raise InvalidField(
                f"{field}.op", f"'contains' takes a text or list column, not one of type {name_of(type_)}"
            )
        compared = type_.value_type if is_.is_list(type_) else type_
    values = condition.value if condition.op == "in" else [condition.value]
    allowed = PYTHON_TYPES.get(compared, ())
    for value in values:
        if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed):
            raise InvalidField(
                f"{field}.value", f"{value!r} cannot be compared with a column of type {name_of(type_)}"
            )
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise InvalidField(f"{field}.value", f"{value} is outside of 64 bits")


def fulfil(rows: pa.StructArray, where: Sequence[Where]) -> Mask:
    """Which rows fulfil all conditions."""
    return reduce(pc.and_, (_mask(rows.field(one.column), one) for one in where))


def _mask(values: pa.Array, condition: Where) -> Mask:
    if condition.op == "is_null":
        return values.is_null() if condition.value in (None, True) else values.is_valid()
    if is_.is_null(values.type):
        return pa.repeat(False, len(values))
    return _compare(values, condition).fill_null(False)


def _compare(values: pa.Array, condition: Where) -> Mask:
    if condition.op == "in":
        masks = [pc.equal(values, pa.scalar(value)) for value in condition.value]
        return reduce(pc.or_, masks, pa.repeat(False, len(values)))
    if condition.op == "contains":
        return _contains(values, condition.value)
    return COMPARE[condition.op](values, pa.scalar(condition.value))


def _contains(values: pa.Array, wanted: object) -> Mask:
    if is_.is_string(values.type):
        return pc.match_substring(values, wanted)
    hits = pc.equal(values.flatten(), pa.scalar(wanted)).fill_null(False)
    found = pc.unique(pc.list_parent_indices(values).filter(hits))
    return pc.is_in(pa.array(range(len(values)), found.type), found)

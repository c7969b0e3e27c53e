"""The types that rows have: those of JSON, as Arrow types, and how the types of two batches become one.

A shape is an Arrow struct type, one field a column, made of null, bool, int64, double, string, list and struct
alone. Whatever else a Parquet file holds is brought to these (`plain`): that is why the same rows have the same
content hash whichever file they came in. Whole numbers and fractions of one column meet as fractions, null
meets anything, and objects meet as the union of their keys; nothing else does.
"""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types as is_

from rekindle.types import InvalidField
from services.data.limits import Limits

MAX_COLUMN_NAME = 256
NUMBERS = frozenset({pa.int64(), pa.float64()})


class Mixed(Exception):
    """Two types that do not meet."""

    def __init__(self, path: str, known: pa.DataType, found: pa.DataType) -> None:
        super().__init__(f"mixed types {name_of(known)} and {name_of(found)}")
        self.path = path


def merge(known: pa.DataType, found: pa.DataType, path: str = "") -> pa.DataType:
    """The type that holds both. Raises Mixed with the path of what does not meet."""
    if known == found or is_.is_null(found):
        return known
    if is_.is_null(known):
        return found
    if known in NUMBERS and found in NUMBERS:
        return pa.float64()
    if is_.is_list(known) and is_.is_list(found):
        return pa.list_(merge(known.value_type, found.value_type, f"{path}[]"))
    if is_.is_struct(known) and is_.is_struct(found):
        return _merge_objects(known, found, path)
    raise Mixed(path, known, found)


def _merge_objects(known: pa.StructType, found: pa.StructType, path: str) -> pa.StructType:
    fields = {field.name: field.type for field in known}
    for field in found:
        inner = f"{path}.{field.name}" if path else field.name
        fields[field.name] = merge(fields.get(field.name, pa.null()), field.type, inner)
    return pa.struct(list(fields.items()))


def bring(values: pa.Array, target: pa.DataType) -> pa.Array:
    """The values in a type that theirs merges to, or in the plain one of theirs. Raises ArrowInvalid.

    Arrow's own cast breaks lists of nothing but nulls on their way to the same type.
    """
    if values.type == target:
        return values
    if is_.is_struct(values.type) and is_.is_struct(target):
        fields = dict(zip([field.name for field in values.type], values.flatten(), strict=True))
        brought = [
            bring(fields[field.name], field.type)
            if field.name in fields
            else pa.nulls(len(values), field.type)
            for field in target
        ]
        return pa.StructArray.from_arrays(brought, fields=list(target), mask=values.is_null())
    if _is_any_list(values.type) and is_.is_list(target):
        ends = np.cumsum(pc.list_value_length(values).fill_null(0).to_numpy(zero_copy_only=False))
        offsets = pa.array(np.concatenate([[0], ends]), pa.int32())
        items = bring(values.flatten(), target.value_type)
        return pa.ListArray.from_arrays(offsets, items, type=target, mask=values.is_null())
    return values.cast(target)


def _is_any_list(type_: pa.DataType) -> bool:
    return bool(is_.is_list(type_) or is_.is_large_list(type_) or is_.is_fixed_size_list(type_))


def name_of(type_: pa.DataType) -> str:
    """How people call it: `list[{role: string, content: string}]`."""
    if is_.is_list(type_):
        return f"list[{name_of(type_.value_type)}]"
    if is_.is_struct(type_):
        return "{" + ", ".join(f"{field.name}: {name_of(field.type)}" for field in type_) + "}"
    return {pa.int64(): "int", pa.float64(): "float"}.get(type_, str(type_))


def plain(type_: pa.DataType, path: str) -> pa.DataType:
    """The JSON type to which values of any Arrow type are brought. Raises InvalidField for one without."""
    if isinstance(type_, pa.BaseExtensionType):
        return plain(type_.storage_type, path)
    if is_.is_dictionary(type_):
        return plain(type_.value_type, path)
    if is_.is_struct(type_):
        return _plain_object(list(type_), path)
    if is_.is_map(type_):
        return pa.list_(_plain_object([type_.key_field, type_.item_field], path))
    if _is_any_list(type_):
        return pa.list_(plain(type_.value_type, f"{path}[]"))
    for fits, target in _PLAIN:
        if fits(type_):
            return target
    raise InvalidField(f'column "{path}"', f"{type_} is not supported; send text, numbers, lists or objects")


def _as_text(type_: pa.DataType) -> bool:
    """Types whose values are texts in JSON; decimals too, because a fraction would lose digits."""
    texts = is_.is_string(type_) or is_.is_large_string(type_) or is_.is_string_view(type_)
    moments = is_.is_timestamp(type_) or is_.is_date(type_) or is_.is_time(type_)
    return bool(texts or moments or is_.is_decimal(type_))


_PLAIN = (
    (is_.is_null, pa.null()),
    (is_.is_boolean, pa.bool_()),
    (is_.is_integer, pa.int64()),
    (is_.is_floating, pa.float64()),
    (_as_text, pa.string()),
)


def _plain_object(fields: list[pa.Field], path: str) -> pa.StructType:
    names = [field.name for field in fields]
    if twice := {name for name in names if names.count(name) > 1} if len(set(names)) < len(names) else None:
        raise InvalidField(f'column "{min(twice)}"', "appears more than once")
    prefix = f"{path}." if path else ""
    return pa.struct([(field.name, plain(field.type, f"{prefix}{field.name}")) for field in fields])


def check_shape(shape: pa.StructType, limits: Limits) -> None:
    """Raises InvalidField for too many columns, names that are none, and too many levels."""
    if (count := sum(1 for _ in _leaves(shape))) > limits.columns:
        raise InvalidField("columns", f"{count}, the limit is {limits.columns}")
    for field in shape:
        if not 1 <= len(field.name) <= MAX_COLUMN_NAME:
            raise InvalidField(
                "columns", f"a name of {len(field.name)} characters, expected 1 to {MAX_COLUMN_NAME}"
            )
        if (depth := depth_of(field.type)) > limits.depth:
            raise InvalidField(f'column "{field.name}"', f"{depth} levels deep, the limit is {limits.depth}")


def check_storable(shape: pa.StructType, path: str = "") -> None:
    """Raises InvalidField for objects without any key, which Parquet cannot hold."""
    for field in shape:
        inner, type_ = f"{path}.{field.name}" if path else field.name, field.type
        while is_.is_list(type_):
            type_ = type_.value_type
        if is_.is_struct(type_):
            if type_.num_fields == 0:
                raise InvalidField(f'column "{inner}"', "its objects are empty in every row; leave it out")
            check_storable(type_, inner)


def _leaves(type_: pa.DataType) -> Iterator[pa.DataType]:
    if is_.is_list(type_):
        yield from _leaves(type_.value_type)
    elif is_.is_struct(type_) and type_.num_fields:
        for field in type_:
            yield from _leaves(field.type)
    else:
        yield type_


def depth_of(type_: pa.DataType) -> int:
    """Lists and objects within each other: 0 for a number, 2 for a list of objects."""
    if is_.is_list(type_):
        return 1 + depth_of(type_.value_type)
    if is_.is_struct(type_):
        return 1 + max((depth_of(field.type) for field in type_), default=0)
    return 0

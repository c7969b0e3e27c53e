"""Whose command is it, and which number has it? Read from the first bytes of a training request.

A request that is refused still uses up its number, or everything behind it would wait. So the number must be
readable from bodies that do not parse: cut off, too large to hold, or broken further on. This walks the wire
format (https://protobuf.dev/programming-guides/encoding/) over the top-level fields and stops where the bytes
stop making sense. It looks at nothing else.
"""

from collections.abc import Iterator
from itertools import islice

_MODEL_ID, _SEQ_ID = 1, 2  # field numbers of ForwardBackwardRequest
_WIDTHS = {1: 8, 5: 4}  # bytes of the fixed-width wire types


class _EndOfSense(Exception):
    """The bytes end, or no protobuf message continues like this."""


def peek_numbers(head: bytes) -> tuple[str | None, int | None]:
    """`(model_id, seq_id)` from the beginning of a serialized `ForwardBackwardRequest`; None where not found.

    A field that occurs twice counts as a parser counts it: the last one. Never raises.
    """
    model_id: str | None = None
    seq_id: int | None = None
    for number, value in _fields(head):
        if number == _MODEL_ID and isinstance(value, bytes):
            model_id = _text(value)
        elif number == _SEQ_ID and isinstance(value, int):
            seq_id = (value + (1 << 31)) % (1 << 32) - (1 << 31)  # int32 in two's complement
    return model_id, seq_id


def has_more_fields(body: bytes, most: int) -> bool:
    """Whether a message has more than `most` fields at its top. Reads no further than it must; never raises."""
    return next(islice(_fields(body), most, None), None) is not None


def _fields(head: bytes) -> Iterator[tuple[int, int | bytes | None]]:
    """Number and value of each complete field in order; fixed-width values are skipped as None."""
    position = 0
    try:
        while position < len(head):
            tag, position = _varint(head, position)
            value, position = _value(head, position, tag & 7)
            yield tag >> 3, value
    except _EndOfSense:
        return


def _value(head: bytes, position: int, wire_type: int) -> tuple[int | bytes | None, int]:
    match wire_type:
        case 0:
            return _varint(head, position)
        case 2:
            length, position = _varint(head, position)
            return _take(head, position, length), position + length
        case 1 | 5:
            width = _WIDTHS[wire_type]
            _take(head, position, width)
            return None, position + width
    raise _EndOfSense


def _varint(head: bytes, position: int) -> tuple[int, int]:
    value = 0
    for index, byte in enumerate(head[position : position + 10]):
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, position + index + 1
    raise _EndOfSense


def _take(head: bytes, position: int, length: int) -> bytes:
    if position + length > len(head):
        raise _EndOfSense
    return head[position : position + length]


def _text(value: bytes) -> str | None:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return None

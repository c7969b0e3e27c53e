"""What is small on the wire and large in memory is refused before it is built."""

import pytest

from rekindle.types import InvalidField, parse_forward_backward, wire_pb2
from rekindle.types.datums import MAX_DATUMS, MAX_INPUTS
from rekindle.types.peek import has_more_fields

HEAD = wire_pb2.ForwardBackwardRequest(model_id="m", seq_id=1).SerializeToString()


@pytest.mark.parametrize("junk", [b"\x1a\x00", b"\x10\x01", b"\x22\x00"])
def test_a_message_of_too_many_parts_is_refused(junk: bytes) -> None:
    with pytest.raises(InvalidField, match="data: more than"):
        parse_forward_backward(HEAD + junk * (MAX_DATUMS + 1))


def test_a_datum_of_too_many_inputs_is_refused() -> None:
    message = wire_pb2.ForwardBackwardRequest.FromString(HEAD)
    datum = message.data.add()
    for index in range(MAX_INPUTS + 1):
        datum.loss_fn_inputs[f"input{index}"].dense = b""
    with pytest.raises(InvalidField, match="loss_fn_inputs"):
        parse_forward_backward(message.SerializeToString())


@pytest.mark.parametrize(
    ("fields", "most", "more"), [(0, 0, False), (3, 2, True), (3, 3, False), (4, 3, True)]
)
def test_fields_are_counted_up_to_the_limit(fields: int, most: int, more: bool) -> None:
    assert has_more_fields(b"\x10\x01" * fields, most) is more


def test_a_long_mistake_is_shortened() -> None:
    error = InvalidField("x" * 10**6, "y" * 10**6)
    assert len(str(error)) < 3000 and str(error).endswith("...")

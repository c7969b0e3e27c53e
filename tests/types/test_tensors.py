"""Arrays survive the way to their messages and back, ours and the Tinker client's; wrong ones are refused."""

import numpy as np
import pytest
import tinker
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tinker.proto.request_conv import _tensor_data_to_proto
from tinker.proto.response_conv import _tensor_data_from_proto

from rekindle.types import (
    MAX_CELLS,
    CsrLayout,
    InvalidField,
    decode_arrays,
    decode_tensor,
    encode_arrays,
    encode_tensor,
    wire_pb2,
)

FLOATS = hnp.arrays(np.float32, hnp.array_shapes(min_dims=1, max_dims=3, min_side=0))
INTS = hnp.arrays(np.int64, hnp.array_shapes(min_dims=1, max_dims=3, min_side=0))
SPARSE = hnp.arrays(
    np.int64,
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=8),
    elements=st.sampled_from([0, 0, 0, 0, 5, 9]),
)


@given(FLOATS | INTS)
def test_an_array_comes_back_as_it_went(array):
    back = decode_tensor(encode_tensor(array))
    assert back.dtype == array.dtype and back.shape == array.shape and back.flags.writeable
    np.testing.assert_array_equal(back, array)


@given(FLOATS | INTS)
def test_the_client_reads_our_tensors(array):
    theirs = _tensor_data_from_proto(as_theirs(encode_tensor(array)))
    assert theirs.shape == list(array.shape)
    np.testing.assert_array_equal(theirs.to_numpy(), array)


@given(SPARSE)
def test_what_the_client_sends_for_a_torch_matrix_is_read_dense(matrix):
    data = tinker.TensorData.from_torch_sparse(torch.from_numpy(matrix))
    np.testing.assert_array_equal(decode_tensor(as_ours(_tensor_data_to_proto(data))), matrix)


@given(SPARSE)
def test_a_layout_gathers_what_it_scatters(matrix):
    crow = np.concatenate([[0], np.cumsum((matrix != 0).sum(axis=1))])
    layout = CsrLayout(crow, np.nonzero(matrix)[1])
    message = encode_tensor(matrix, layout)
    assert message.WhichOneof("encoding") == "sparse_csr"
    np.testing.assert_array_equal(decode_tensor(message), matrix)
    np.testing.assert_array_equal(decode_tensor(message, fill=-1), np.where(matrix == 0, -1, matrix))


def test_sparse_data_is_filled_where_nothing_is_listed():
    message = csr([7, 8, 9], crow=[0, 1, 1, 3], col=[0, 0, 1], shape=[3, 2])
    assert decode_tensor(message, fill=-1).tolist() == [[7, -1], [-1, -1], [8, 9]]


def test_narrow_types_are_widened():
    ints = wire_pb2.Tensor(dense=np.array([1, -2], "<i4").tobytes(), dtype=wire_pb2.DTYPE_INT32, shape=[2])
    assert decode_tensor(ints).dtype == np.int64 and decode_tensor(ints).tolist() == [1, -2]
    values = torch.tensor([1.5, -3.0, 1e30], dtype=torch.bfloat16)
    halves = wire_pb2.Tensor(
        dense=values.view(torch.int16).numpy().tobytes(), dtype=wire_pb2.DTYPE_BFLOAT16, shape=[3]
    )
    np.testing.assert_array_equal(decode_tensor(halves), values.float().numpy())


def test_a_tensor_without_a_shape_has_one_axis():
    message = wire_pb2.Tensor(dense=np.arange(3, dtype="<i8").tobytes(), dtype=wire_pb2.DTYPE_INT64)
    assert decode_tensor(message).shape == (3,)


def dense(size: int, shape: list[int], dtype=wire_pb2.DTYPE_FLOAT32) -> wire_pb2.Tensor:
    return wire_pb2.Tensor(dense=bytes(size), dtype=dtype, shape=shape)


def csr(values, crow, col, shape) -> wire_pb2.Tensor:
    parts = [np.array(part, "<i8").tobytes() for part in (values, crow, col)]
    return wire_pb2.Tensor(
        sparse_csr=wire_pb2.SparseCsr(values=parts[0], crow_indices=parts[1], col_indices=parts[2]),
        dtype=wire_pb2.DTYPE_INT64,
        shape=shape,
    )


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (wire_pb2.Tensor(dtype=1, shape=[1]), "holds no data, expected dense or sparse_csr"),
        (dense(8, [3]), "2 numbers, expected 3 (shape [3])"),
        (dense(7, [2]), "7 bytes, not a multiple of 4 (float32)"),
        (dense(8, [2], dtype=0), "dtype 0, expected float32, int64, int32 or bfloat16"),
        (dense(8, [2], dtype=9), "dtype 9, expected float32, int64, int32 or bfloat16"),
        (dense(4, [-1]), f"shape [-1], expected at most 4 axes in 0..{MAX_CELLS}"),
        (dense(4, [1] * 5), f"shape [1, 1, 1, 1, 1], expected at most 4 axes in 0..{MAX_CELLS}"),
        (csr([1], [0, 1], [0], [1]), "sparse with 1 axes, expected 2"),
        (csr([1], [0, 1], [0], [1, MAX_CELLS, 2]), "sparse with 3 axes, expected 2"),
        (
            csr([], [0] * 3, [], [2, MAX_CELLS]),
            f"sparse shape (2, {MAX_CELLS}), the limit is {MAX_CELLS} cells",
        ),
        (csr([1], [0], [0], [1, 2]), "row pointers must rise from 0 to 1 in 2 entries (CSR)"),
        (csr([1], [1, 1], [0], [1, 2]), "row pointers must rise from 0 to 1 in 2 entries (CSR)"),
        (csr([1], [0, 2], [0], [1, 2]), "row pointers must rise from 0 to 1 in 2 entries (CSR)"),
        (csr([1], [0, 2, 1], [0], [2, 2]), "row pointers must rise from 0 to 1 in 3 entries (CSR)"),
        (csr([1, 2], [0, 2], [0], [1, 2]), "1 column indices, expected 2 (one per value)"),
        (csr([1], [0, 1], [2], [1, 2]), "column index outside 0..1"),
        (csr([1], [0, 1], [-1], [1, 2]), "column index outside 0..1"),
        (csr([1, 2], [0, 2], [1, 1], [1, 2]), "column indices must ascend within a row"),
    ],
)
def test_a_tensor_that_contradicts_itself_is_refused(message, reason):
    with pytest.raises(InvalidField) as caught:
        decode_tensor(message, field="weights")
    assert (caught.value.field, caught.value.reason) == ("weights", reason)


@given(
    st.builds(
        wire_pb2.Tensor,
        dense=st.binary(max_size=24),
        dtype=st.integers(0, 6),
        shape=st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(0, 3), max_size=5),
    )
)
def test_any_dense_tensor_decodes_or_is_refused(message):
    try:
        array = decode_tensor(message)
    except InvalidField:
        return
    assert array.dtype in (np.float32, np.int64)


@given(st.integers(0, 2), st.lists(st.integers(0, 4), min_size=1, max_size=5))
def test_a_batch_comes_back_as_it_went(columns, lengths):
    trailing = (columns + 1,) if columns else ()
    arrays = [np.random.default_rng(0).normal(size=(n, *trailing)).astype(np.float32) for n in lengths]
    back = decode_arrays(encode_arrays(arrays))
    assert [part.shape for part in back] == [array.shape for array in arrays]
    for part, array in zip(back, arrays, strict=True):
        np.testing.assert_array_equal(part, array)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"offsets": b""}, "offsets must rise from 0 to 16 bytes"),
        ({"offsets": np.array([0, 12], "<i8").tobytes()}, "offsets must rise from 0 to 16 bytes"),
        ({"offsets": np.array([0, 20, 16], "<i8").tobytes()}, "offsets must rise from 0 to 16 bytes"),
        ({"offsets": np.array([0, 4, 16], "<i8").tobytes()}, "offsets must be multiples of a row, 8 bytes"),
        ({"trailing_shape": [0]}, "offsets must be multiples of a row, 0 bytes"),
    ],
)
def test_a_batch_that_contradicts_itself_is_refused(changes, reason):
    batched = encode_arrays([np.zeros((2, 2), np.float32)])
    for name, value in changes.items():
        batched.ClearField(name)
        batched.MergeFrom(wire_pb2.BatchedTensor(**{name: value}))
    with pytest.raises(InvalidField) as caught:
        decode_arrays(batched)
    assert caught.value.reason == reason


def as_theirs(message: wire_pb2.Tensor):
    from tinker.proto import tinker_public_pb2

    return tinker_public_pb2.Tensor.FromString(message.SerializeToString())


def as_ours(message) -> wire_pb2.Tensor:
    return wire_pb2.Tensor.FromString(message.SerializeToString())

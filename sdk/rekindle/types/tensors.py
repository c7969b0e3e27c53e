"""Arrays to and from their messages: dense, sparse (CSR) and batched.

Every array that leaves here is numpy, writable, in C order, float32 or int64: narrower types are widened.
What comes in is checked against its own shape and indices, and sparse data against `MAX_CELLS`, because a few
bytes can claim a matrix of any size. What the numbers mean is not known here.

Axes: R rows, K columns, B arrays of a batch.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rekindle.types import wire_pb2
from rekindle.types.errors import InvalidField

MAX_CELLS = 1 << 26
"""Most cells of a sparse tensor after densifying: 512 MB of int64."""
MAX_AXES = 4

_STORED: dict[int, np.dtype[Any]] = {
    wire_pb2.DTYPE_FLOAT32: np.dtype("<f4"),
    wire_pb2.DTYPE_INT64: np.dtype("<i8"),
    wire_pb2.DTYPE_INT32: np.dtype("<i4"),
    wire_pb2.DTYPE_BFLOAT16: np.dtype("<u2"),
}


@dataclass(frozen=True, slots=True, eq=False)
class CsrLayout:
    """Which cells of an (R, K) matrix are listed, in the order in which their values are stored.

    Example: rows `[[7, .], [., .], [8, 9]]` are `crow_indices` [0, 1, 1, 3] and `col_indices` [0, 0, 1].
    """

    crow_indices: np.ndarray
    """(R + 1,) int64: row r owns the values from crow_indices[r] up to crow_indices[r + 1]."""
    col_indices: np.ndarray
    """(nnz,) int64, ascending within a row."""

    def check(self, shape: Sequence[int], values: int, field: str) -> None:
        """Raises `InvalidField` unless the layout describes `values` distinct cells of `shape`."""
        crow, columns = self.crow_indices, self.col_indices
        if len(shape) != 2:
            raise InvalidField(field, f"sparse with {len(shape)} axes, expected 2")
        if not 0 <= math.prod(shape) <= MAX_CELLS:
            raise InvalidField(field, f"sparse shape {tuple(shape)}, the limit is {MAX_CELLS} cells")
        if len(crow) != shape[0] + 1 or crow[0] != 0 or crow[-1] != values or (np.diff(crow) < 0).any():
            raise InvalidField(
                field, f"row pointers must rise from 0 to {values} in {shape[0] + 1} entries (CSR)"
            )
        if len(columns) != values:
            raise InvalidField(field, f"{len(columns)} column indices, expected {values} (one per value)")
        if ((columns < 0) | (columns >= shape[1])).any():
            raise InvalidField(field, f"column index outside 0..{shape[1] - 1}")
        if (np.diff(self.rows() * shape[1] + columns) <= 0).any():
            raise InvalidField(field, "column indices must ascend within a row")

    def rows(self) -> np.ndarray:
        """The row of each listed cell, (nnz,) int64."""
        return np.repeat(np.arange(len(self.crow_indices) - 1), np.diff(self.crow_indices))

    def scatter(self, values: np.ndarray, shape: Sequence[int], fill: float) -> np.ndarray:
        """The dense (R, K) matrix, `fill` where nothing is listed. The layout must have been checked."""
        dense = np.full(shape, fill, values.dtype)
        dense[self.rows(), self.col_indices] = values
        return dense

    def gather(self, matrix: np.ndarray) -> np.ndarray:
        """The listed cells of an (R, K) matrix, in storage order."""
        picked: np.ndarray = matrix[self.rows(), self.col_indices]
        return picked


def decode_tensor(tensor: wire_pb2.Tensor, *, fill: float = 0, field: str = "tensor") -> np.ndarray:
    """The array in a message: float32 or int64, its shape, sparse ones dense with `fill` between.

    Raises `InvalidField` that names `field` for an unknown dtype, a size that does not fit the shape, or
    indices out of range.
    """
    shape = check_shape(tensor.shape, field)
    match tensor.WhichOneof("encoding"):
        case "dense":
            values = _widen(tensor.dense, tensor.dtype, field)
            return _reshape(values, shape or (len(values),), field)
        case "sparse_csr":
            csr = tensor.sparse_csr
            values = _widen(csr.values, tensor.dtype, field)
            layout = CsrLayout(_indices(csr.crow_indices, field), _indices(csr.col_indices, field))
            layout.check(shape, len(values), field)
            return layout.scatter(values, shape, fill)
    raise InvalidField(field, "holds no data, expected dense or sparse_csr")


def encode_tensor(array: np.ndarray, layout: CsrLayout | None = None) -> wire_pb2.Tensor:
    """The message of an array; with a layout, the CSR message of the cells that it lists.

    Floats are sent as float32, integers as int64. Raises `InvalidField` for other dtypes.
    """
    stored, dtype = _storable(array)
    message = wire_pb2.Tensor(dtype=dtype, shape=array.shape)
    if layout is None:
        message.dense = stored.tobytes()
    else:
        message.sparse_csr.values = layout.gather(stored).tobytes()
        message.sparse_csr.crow_indices = layout.crow_indices.astype("<i8").tobytes()
        message.sparse_csr.col_indices = layout.col_indices.astype("<i8").tobytes()
    return message


def encode_arrays(arrays: Sequence[np.ndarray]) -> wire_pb2.BatchedTensor:
    """B arrays end to end. They must agree in dtype and in every axis but the first; B is at least 1."""
    trailing = arrays[0].shape[1:]
    assert all(array.shape[1:] == trailing for array in arrays), "a batch is rectangular after its first axis"
    stored, dtype = _storable(np.concatenate(arrays))
    offsets = np.cumsum([0, *(array.size * stored.itemsize for array in arrays)], dtype="<i8")
    return wire_pb2.BatchedTensor(
        data=stored.tobytes(), offsets=offsets.tobytes(), dtype=dtype, trailing_shape=trailing
    )


def decode_arrays(batched: wire_pb2.BatchedTensor, field: str = "tensor") -> list[np.ndarray]:
    """The inverse of `encode_arrays`. Raises `InvalidField` when offsets, data and shape do not agree."""
    values = _widen(batched.data, batched.dtype, field)
    trailing = check_shape(batched.trailing_shape, field)
    offsets = _indices(batched.offsets, field)
    row_bytes = math.prod(trailing) * _STORED[batched.dtype].itemsize
    steps = np.diff(offsets)
    if not len(offsets) or offsets[0] != 0 or offsets[-1] != len(batched.data) or (steps < 0).any():
        raise InvalidField(field, f"offsets must rise from 0 to {len(batched.data)} bytes")
    if row_bytes == 0 or (steps % row_bytes).any():
        raise InvalidField(field, f"offsets must be multiples of a row, {row_bytes} bytes")
    rows = values.reshape(-1, *trailing)
    return [part.copy() for part in np.split(rows, offsets[1:-1] // row_bytes)] if len(steps) else []


def check_shape(shape: Sequence[int], field: str) -> tuple[int, ...]:
    """The shape as a tuple. Raises `InvalidField` for negative or absurd axes, or more than `MAX_AXES`."""
    if len(shape) > MAX_AXES or any(not 0 <= axis <= MAX_CELLS for axis in shape):
        raise InvalidField(
            field, f"shape {list(shape)[:8]}, expected at most {MAX_AXES} axes in 0..{MAX_CELLS}"
        )
    return tuple(shape)


def _widen(data: bytes, dtype: "wire_pb2.DType", field: str) -> np.ndarray:
    stored = _STORED.get(dtype)
    if stored is None:
        raise InvalidField(field, f"dtype {int(dtype)}, expected float32, int64, int32 or bfloat16")
    if len(data) % stored.itemsize:
        raise InvalidField(field, f"{len(data)} bytes, not a multiple of {stored.itemsize} ({stored.name})")
    values: np.ndarray = np.frombuffer(data, stored)
    if dtype == wire_pb2.DTYPE_BFLOAT16:
        values = (values.astype(np.uint32) << 16).view(np.float32)
    widened: np.ndarray = values.astype(np.float32 if values.dtype.kind == "f" else np.int64)
    return widened


def _indices(data: bytes, field: str) -> np.ndarray:
    return _widen(data, wire_pb2.DTYPE_INT64, field)


def _reshape(values: np.ndarray, shape: tuple[int, ...], field: str) -> np.ndarray:
    if math.prod(shape) != len(values):
        raise InvalidField(field, f"{len(values)} numbers, expected {math.prod(shape)} (shape {list(shape)})")
    return values.reshape(shape)


def _storable(array: np.ndarray) -> tuple[np.ndarray, "wire_pb2.DType"]:
    match array.dtype.kind:
        case "f":
            return array.astype("<f4", copy=False), wire_pb2.DTYPE_FLOAT32
        case "i" | "u":
            return array.astype("<i8", copy=False), wire_pb2.DTYPE_INT64
    raise InvalidField("tensor", f"dtype {array.dtype}, expected floats or integers")

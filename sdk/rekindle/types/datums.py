"""Training batches: what a `forward_backward` request says, and whether it may run.

`parse_forward_backward` turns bytes into arrays and knows the wire; `check_forward_backward` knows the
losses, the vocabulary and the context length. Both raise nothing but `InvalidField`, with the path of the
field. What leaves the check needs no other: the trainer trusts it.

Axes: N input tokens of a datum, K targets at one position.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from google.protobuf.message import DecodeError

from rekindle.types import wire_pb2
from rekindle.types.errors import InvalidField
from rekindle.types.losses import LOSSES, TARGETS, LossSpec, Number, find_loss
from rekindle.types.peek import has_more_fields, peek_numbers
from rekindle.types.tensors import MAX_CELLS, decode_tensor, encode_tensor

__all__ = [
    "LOSSES",
    "Datum",
    "ForwardBackwardRequest",
    "LossSpec",
    "check_forward_backward",
    "encode_forward_backward",
    "parse_forward_backward",
    "peek_numbers",
]

MAX_DATUMS = 65_536
"""Of one request; clients send 1024. Empty ones are two bytes on the wire and hundreds here."""
MAX_INPUTS = 32
"""Of one datum; every loss takes fewer."""


@dataclass(frozen=True, slots=True, eq=False)
class Datum:
    """One sequence. Example: tokens [5, 6, 7], inputs {"target_tokens": [6, 7, 8], "weights": [0, 1, 1]}."""

    tokens: np.ndarray
    """(N,) int64, the input of the model."""
    inputs: Mapping[str, np.ndarray]
    """By name: `target_tokens` (N,) or (N, K) int64, everything else float32 of the same shape."""


@dataclass(slots=True, eq=False)
class ForwardBackwardRequest:
    """A batch for one pass. Its outputs come back in the order of `data`."""

    model_id: str
    seq_id: int
    """The number of the command among those of its model, from 1."""
    data: list[Datum]
    loss_fn: str
    """A key of `LOSSES` once checked."""
    loss_fn_config: dict[str, float | str]
    """Only what the caller set; `LossSpec.fill_config` adds the defaults."""
    forward_only: bool
    """True: the same outputs, no gradient."""


def parse_forward_backward(body: bytes) -> ForwardBackwardRequest:
    """Reads a serialized `ForwardBackwardRequest`, tensors decoded and dense. Raises `InvalidField`."""
    if has_more_fields(body, MAX_DATUMS):
        raise InvalidField("data", f"more than {MAX_DATUMS} datums")
    message = wire_pb2.ForwardBackwardRequest()
    try:
        message.ParseFromString(body)
    except DecodeError as error:
        raise InvalidField("body", "not a complete ForwardBackwardRequest message") from error
    if not message.model_id:
        raise InvalidField("model_id", "missing")
    if message.seq_id < 1:
        raise InvalidField("seq_id", f"{message.seq_id}, expected 1 or more")
    return ForwardBackwardRequest(
        model_id=message.model_id,
        seq_id=message.seq_id,
        data=_parse_data(message.data),
        loss_fn=message.loss_fn,
        loss_fn_config=_parse_config(message),
        forward_only=message.forward_only,
    )


def encode_forward_backward(request: ForwardBackwardRequest) -> bytes:
    """The inverse of `parse_forward_backward`; numbers of the configuration are written to both maps."""
    message = wire_pb2.ForwardBackwardRequest(
        model_id=request.model_id,
        seq_id=request.seq_id,
        loss_fn=request.loss_fn,
        forward_only=request.forward_only,
    )
    for key, value in request.loss_fn_config.items():
        if isinstance(value, str):
            message.loss_fn_config_v2[key].text = value
        else:
            message.loss_fn_config_v2[key].number = message.loss_fn_config[key] = value
    for datum in request.data:
        added = message.data.add()
        added.model_input.add().encoded_text.tokens = datum.tokens.astype("<i4").tobytes()
        for name, array in datum.inputs.items():
            added.loss_fn_inputs[name].CopyFrom(encode_tensor(array))
    return message.SerializeToString()


def check_forward_backward(request: ForwardBackwardRequest, *, vocab_size: int, context_length: int) -> None:
    """Raises `InvalidField` for the first thing that the trainer could not or should not compute.

    Checked: the loss and its configuration, at least one datum, 1 to `context_length` tokens each, exactly
    the loss's inputs in the right shapes, token ids below `vocab_size`, finite numbers.
    """
    spec = find_loss(request.loss_fn)
    _check_config(spec, request)
    if not request.data:
        raise InvalidField("data", "empty, expected at least one datum")
    for index, datum in enumerate(request.data):
        _check_length(index, len(datum.tokens), context_length)
        _check_inputs(index, datum, spec, request.loss_fn)
    _check_values(request.data, spec, vocab_size)
    if spec.ordered:
        _check_order(request, spec, *spec.ordered)


# ---- From the wire ----


def _parse_data(data: Iterable[wire_pb2.Datum]) -> list[Datum]:
    parsed, cells = [], 0
    for index, message in enumerate(data):
        datum = _parse_datum(message, f"data[{index}]")
        cells += sum(array.size for array in datum.inputs.values())
        if cells > MAX_CELLS:  # sparse tensors are small on the wire and large here
            raise InvalidField("data", f"more than {MAX_CELLS} numbers after densifying")
        parsed.append(datum)
    return parsed


def _parse_datum(message: wire_pb2.Datum, path: str) -> Datum:
    if len(message.loss_fn_inputs) > MAX_INPUTS:
        raise InvalidField(f"{path}.loss_fn_inputs", f"more than {MAX_INPUTS} of them")
    inputs = {
        name: _parse_input(name, tensor, f"{path}.loss_fn_inputs.{name}")
        for name, tensor in message.loss_fn_inputs.items()
    }
    return Datum(_parse_tokens(message.model_input, path), inputs)


def _parse_tokens(chunks: Iterable[wire_pb2.Chunk], path: str) -> np.ndarray:
    parts = []
    for index, chunk in enumerate(chunks):
        kind = chunk.WhichOneof("chunk")
        if kind != "encoded_text":
            raise InvalidField(
                f"{path}.model_input[{index}]", f"{kind or 'empty'} chunk, only text is supported"
            )
        parts.append(chunk.encoded_text.tokens)
        if len(parts[-1]) % 4:
            raise InvalidField(f"{path}.model_input[{index}]", f"{len(parts[-1])} bytes, not a multiple of 4")
    return np.frombuffer(b"".join(parts), "<i4").astype(np.int64)


def _parse_input(name: str, tensor: wire_pb2.Tensor, path: str) -> np.ndarray:
    array = decode_tensor(tensor, field=path)
    # whole numbers are welcome as weights; fractions as token ids are left for the check to refuse
    return array if name == TARGETS else array.astype(np.float32, copy=False)


def _parse_config(message: wire_pb2.ForwardBackwardRequest) -> dict[str, float | str]:
    config: dict[str, float | str] = dict(message.loss_fn_config)
    for key, value in message.loss_fn_config_v2.items():
        config[key] = value.text if value.WhichOneof("value") == "text" else value.number
    return config


# ---- Rules ----


def _check_config(spec: LossSpec, request: ForwardBackwardRequest) -> None:
    for key, value in request.loss_fn_config.items():
        field = f"loss_fn_config.{key}"
        number = spec.config.get(key)
        if number is None:
            takes = ", ".join(spec.config) or "no configuration"
            raise InvalidField(field, f"unknown; {request.loss_fn} takes {takes}")
        if isinstance(value, str):
            raise InvalidField(field, f"{value!r}, expected a number")
        if not number.minimum <= value <= number.maximum:
            raise InvalidField(field, f"{value}, expected {number.minimum:g} to {number.maximum:g}")


def _check_length(index: int, tokens_N: int, context_length: int) -> None:
    if tokens_N == 0:
        raise InvalidField(f"data[{index}].model_input", "empty, expected at least one token")
    if tokens_N > context_length:
        raise InvalidField(
            f"data[{index}].model_input", f"{tokens_N} tokens, the context length is {context_length}"
        )


def _check_inputs(index: int, datum: Datum, spec: LossSpec, loss_fn: str) -> None:
    """Names and shapes: nothing missing, nothing unknown, one row per input token, one shape for all."""
    path = f"data[{index}].loss_fn_inputs"
    for name in spec.inputs:
        if name not in datum.inputs:
            raise InvalidField(f"{path}.{name}", f"missing; {loss_fn} needs {', '.join(spec.inputs)}")
    targets = datum.inputs[TARGETS]
    for name, array in datum.inputs.items():
        if name not in spec.all_inputs:
            raise InvalidField(f"{path}.{name}", f"unknown; {loss_fn} takes {', '.join(spec.all_inputs)}")
        if array.ndim == 0 or len(array) != len(datum.tokens):
            rows = len(array) if array.ndim else 0
            raise InvalidField(
                f"{path}.{name}", f"{rows} rows, expected {len(datum.tokens)} (one per input token)"
            )
        if array.shape != targets.shape:
            raise InvalidField(
                f"{path}.{name}", f"shape {array.shape}, expected {targets.shape} (the shape of {TARGETS})"
            )
    if targets.dtype != np.int64:
        raise InvalidField(f"{path}.{TARGETS}", f"{targets.dtype}, expected int64")
    if targets.ndim != 1 and not (spec.many_targets and targets.ndim == 2 and targets.shape[1]):
        allowed = f"({len(targets)},)" + (f" or ({len(targets)}, K)" if spec.many_targets else "")
        raise InvalidField(f"{path}.{TARGETS}", f"shape {targets.shape}, {loss_fn} takes {allowed}")


def _check_values(data: list[Datum], spec: LossSpec, vocab_size: int) -> None:
    def outside(ids: np.ndarray) -> np.ndarray:
        return (ids < 0) | (ids >= vocab_size)

    vocabulary = f"a token id in 0..{vocab_size - 1}"
    _refuse("model_input", [datum.tokens for datum in data], outside, vocabulary)
    for name in spec.all_inputs:
        # an input may be present in some datums and absent in others; empty arrays keep the numbering
        arrays = [datum.inputs.get(name, np.empty(0, np.float32)) for datum in data]
        if name == TARGETS:
            _refuse(f"loss_fn_inputs.{name}", arrays, outside, vocabulary)
        elif name in spec.config:
            _refuse(f"loss_fn_inputs.{name}", arrays, *_bounds(spec.config[name]))
        else:
            _refuse(f"loss_fn_inputs.{name}", arrays, lambda x: ~np.isfinite(x), "a finite number")


def _bounds(number: Number) -> tuple[Callable[[np.ndarray], np.ndarray], str]:
    def outside(values: np.ndarray) -> np.ndarray:
        return ~((values >= number.minimum) & (values <= number.maximum))  # true for NaN as well

    return outside, f"{number.minimum:g} to {number.maximum:g}"


def _refuse(
    name: str, arrays: list[np.ndarray], wrong: Callable[[np.ndarray], np.ndarray], expected: str
) -> None:
    """Raises for the first wrong number. One test for the whole batch; only a failure looks for the place."""
    if not wrong(np.concatenate([array.ravel() for array in arrays])).any():
        return
    for index, array in enumerate(arrays):
        for place in np.argwhere(wrong(array))[:1]:
            position = "".join(f"[{axis}]" for axis in place)
            raise InvalidField(
                f"data[{index}].{name}{position}", f"{array[tuple(place)]}, expected {expected}"
            )


def _check_order(request: ForwardBackwardRequest, spec: LossSpec, low: str, high: str) -> None:
    config = spec.fill_config(request.loss_fn_config)
    if config[low] > config[high]:
        raise InvalidField(
            f"loss_fn_config.{low}", f"{config[low]}, expected at most {high} ({config[high]})"
        )
    for index, datum in enumerate(request.data):
        if low not in datum.inputs and high not in datum.inputs:
            continue
        lows, highs = datum.inputs.get(low, config[low]), datum.inputs.get(high, config[high])
        for (row,) in np.argwhere(np.greater(lows, highs))[:1]:
            raise InvalidField(f"data[{index}].loss_fn_inputs.{low}[{row}]", f"above {high}")

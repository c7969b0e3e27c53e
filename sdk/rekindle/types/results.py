"""Results of training and sampling, to and from bytes.

The encoders write what the Tinker client expects, down to the details that it checks: one rectangular record
for as many datums as possible, one colon in every metric, NaN for a prompt position without a logprob. The
decoders are their inverse and raise `InvalidField` for bytes that no encoder made.

Axes: N tokens of a datum or prompt, T sampled tokens, K alternatives at one position.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

import numpy as np
from google.protobuf.message import DecodeError, Message

from rekindle.types import wire_pb2
from rekindle.types.errors import InvalidField
from rekindle.types.tensors import CsrLayout, decode_arrays, decode_tensor, encode_arrays, encode_tensor

StopReason = Literal["stop", "length"]

EMPTY_TOKEN, EMPTY_LOGPROB = 0, -99999.0
"""What an empty cell of a `TopK` holds."""

_STOP_TO_WIRE: Mapping[StopReason, wire_pb2.StopReason] = {
    "stop": wire_pb2.STOP_REASON_STOP,
    "length": wire_pb2.STOP_REASON_LENGTH,
}
_STOP_FROM_WIRE = {number: reason for reason, number in _STOP_TO_WIRE.items()}


@dataclass(frozen=True, slots=True, eq=False)
class ForwardBackwardOutput:
    """What one pass gave, datum by datum. Example metrics: `{"loss:sum": 12.5}`."""

    outputs: list[dict[str, np.ndarray]]
    """One per datum, in request order; `logprobs` (N,) or (N, K) float32 is always there, `entropy` and
    `entropy_variance`, (N,) float32, where they were asked for."""
    metrics: dict[str, float]
    """`name:reduction`; the reduction says how the parts of a split call are combined."""

    @property
    def logprobs(self) -> list[np.ndarray]:
        """log p(target) per datum, in the shape of its `target_tokens`."""
        return [output["logprobs"] for output in self.outputs]


@dataclass(frozen=True, slots=True, eq=False)
class TopK:
    """The K likeliest tokens at each of N positions, likeliest first; see `EMPTY_TOKEN` for empty cells."""

    token_ids: np.ndarray
    """(N, K) int32."""
    logprobs: np.ndarray
    """(N, K) float32, of the raw model at temperature 1."""

    @classmethod
    def empty(cls, positions: int, k: int) -> "TopK":
        """N x K empty cells, to be filled where something was scored."""
        shape = (positions, k)
        return cls(np.full(shape, EMPTY_TOKEN, np.int32), np.full(shape, EMPTY_LOGPROB, np.float32))


@dataclass(frozen=True, slots=True, eq=False)
class AltTokens:
    """K draws, with replacement, at every prompt position after the first: row i is for position i + 1."""

    tokens: np.ndarray
    """(N - 1, K) int64."""
    logprobs: np.ndarray
    """(N - 1, K) float32, of the raw model at temperature 1."""


@dataclass(frozen=True, slots=True, eq=False)
class SampledSequence:
    """One completion. What stopped it (stop token or end of sequence) is part of it, once."""

    tokens: np.ndarray
    """(T,) int32; at least one, because the client reads an empty sequence as one without logprobs."""
    logprobs: np.ndarray
    """(T,) float32, of the raw model: temperature 1, before top-k and top-p."""
    stop_reason: StopReason
    """`length`: max_tokens or the end of the context; `stop`: anything else."""
    topk: TopK | None = None
    """(T, K); None unless asked for."""


@dataclass(frozen=True, slots=True, eq=False)
class SampleResponse:
    """All samples of one prompt, and what was asked about the prompt itself."""

    sequences: list[SampledSequence]
    prompt_logprobs: np.ndarray | None
    """(N,) float32, NaN where nothing was scored, always at 0. None unless asked for."""
    topk_prompt: TopK | None
    """(N, K), row 0 empty. None unless asked for."""
    target_prompt_logprobs: np.ndarray | None
    """(N - 1, K) float32, 0 where nothing was asked for; dense, whatever its layout was."""
    prompt_alt_tokens: AltTokens | None
    prompt_cache_hit_tokens: int


def encode_forward_backward_output(
    logprobs: Sequence[np.ndarray],
    metrics: Mapping[str, float],
    loss_fn: str,
    extra: Mapping[str, Sequence[np.ndarray]] | None = None,
) -> bytes:
    """Serializes the result of a pass.

    logprobs: one array per datum in request order, (N,) or (N, K). metrics: `loss:sum` and others, each key
    `name:reduction` with exactly one colon, or the client fails on every call. extra: further outputs by name, each
    an array (N,) per datum; None: there are none.
    """
    assert all(key.count(":") == 1 for key in metrics), f"metric keys need one colon: {list(metrics)}"
    assert "loss:sum" in metrics, f"the client pops loss:sum, got {list(metrics)}"
    message = wire_pb2.ForwardBackwardOutput(loss_fn_output_type="ArrayRecord", metrics=metrics)
    start = 0
    for _, run in groupby(logprobs, key=lambda array: array.shape[1:]):
        stop = start + len(list(run))
        record = message.loss_fn_outputs.add(type_tag=loss_fn, num_datums=stop - start)
        for name, arrays in {"logprobs": logprobs, **(extra or {})}.items():
            floats = [array.astype(np.float32, copy=False) for array in arrays[start:stop]]
            record.fields[name].CopyFrom(encode_arrays(floats))
        start = stop
    return message.SerializeToString()


def decode_forward_backward_output(data: bytes) -> ForwardBackwardOutput:
    """The inverse of `encode_forward_backward_output`; takes any fields. Raises `InvalidField`."""
    message = wire_pb2.ForwardBackwardOutput()
    _parse(message, data)
    outputs: list[dict[str, np.ndarray]] = []
    for index, record in enumerate(message.loss_fn_outputs):
        path = f"loss_fn_outputs[{index}]"
        datums: list[dict[str, np.ndarray]] = [{} for _ in range(min(record.num_datums, len(data)))]
        for name, batched in record.fields.items():
            arrays = decode_arrays(batched, f"{path}.{name}")
            if len(arrays) != record.num_datums:
                raise InvalidField(f"{path}.{name}", f"{len(arrays)} arrays, expected {record.num_datums}")
            for datum, array in zip(datums, arrays, strict=True):
                datum[name] = array
        outputs += datums
    return ForwardBackwardOutput(outputs, dict(message.metrics))


def encode_sample_response(
    sequences: Sequence[SampledSequence],
    prompt_logprobs: np.ndarray | None = None,
    topk_prompt: TopK | None = None,
    target_prompt_logprobs: np.ndarray | None = None,
    prompt_alt_tokens: AltTokens | None = None,
    prompt_cache_hit_tokens: int = 0,
    *,
    target_layout: CsrLayout | None = None,
) -> bytes:
    """Serializes the samples of one prompt; each optional part is sent exactly if it was asked for.

    target_prompt_logprobs: (N - 1, K), 0 in cells that asked for nothing. target_layout: that of the request
    where it was sparse, so that the answer lists the same cells; None: dense.
    """
    message = wire_pb2.SampleResponse(prompt_cache_hit_tokens=prompt_cache_hit_tokens)
    for sequence in sequences:
        message.sequences.append(_encode_sequence(sequence))
    if prompt_logprobs is not None:
        message.prompt_logprobs = prompt_logprobs.astype("<f4").tobytes()
    if topk_prompt is not None:
        message.topk_prompt_logprobs.CopyFrom(_encode_topk(topk_prompt))
    if target_prompt_logprobs is not None:
        targets = target_prompt_logprobs.astype(np.float32)
        message.target_prompt_logprobs.CopyFrom(encode_tensor(targets, target_layout))
    if prompt_alt_tokens is not None:
        message.prompt_alt_tokens.tokens.CopyFrom(encode_tensor(prompt_alt_tokens.tokens))
        message.prompt_alt_tokens.logprobs.CopyFrom(encode_tensor(prompt_alt_tokens.logprobs))
    return message.SerializeToString()


def decode_sample_response(data: bytes) -> SampleResponse:
    """The inverse of `encode_sample_response`. Raises `InvalidField`."""
    message = wire_pb2.SampleResponse()
    _parse(message, data)
    return SampleResponse(
        sequences=[_decode_sequence(s, f"sequences[{i}]") for i, s in enumerate(message.sequences)],
        prompt_logprobs=_floats(message.prompt_logprobs, "prompt_logprobs")
        if message.HasField("prompt_logprobs")
        else None,
        topk_prompt=_decode_topk(message.topk_prompt_logprobs, "topk_prompt_logprobs")
        if message.HasField("topk_prompt_logprobs")
        else None,
        target_prompt_logprobs=decode_tensor(message.target_prompt_logprobs, field="target_prompt_logprobs")
        if message.HasField("target_prompt_logprobs")
        else None,
        prompt_alt_tokens=_decode_alt_tokens(message.prompt_alt_tokens)
        if message.HasField("prompt_alt_tokens")
        else None,
        prompt_cache_hit_tokens=message.prompt_cache_hit_tokens,
    )


def _parse(message: Message, data: bytes) -> None:
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise InvalidField("body", f"not a complete {message.DESCRIPTOR.name} message") from error


def _encode_sequence(sequence: SampledSequence) -> wire_pb2.SampledSequence:
    assert 0 < len(sequence.tokens) == len(sequence.logprobs), "one logprob per token, at least one token"
    message = wire_pb2.SampledSequence(
        stop_reason=_STOP_TO_WIRE[sequence.stop_reason],
        tokens=sequence.tokens.astype("<i4").tobytes(),
        logprobs=sequence.logprobs.astype("<f4").tobytes(),
    )
    if sequence.topk is not None:
        message.topk_sampled_logprobs.CopyFrom(_encode_topk(sequence.topk))
    return message


def _decode_sequence(message: wire_pb2.SampledSequence, path: str) -> SampledSequence:
    reason = _STOP_FROM_WIRE.get(message.stop_reason)
    if reason is None:
        raise InvalidField(f"{path}.stop_reason", f"{int(message.stop_reason)}, expected 0 or 1")
    tokens, logprobs = _ints(message.tokens, f"{path}.tokens"), _floats(message.logprobs, f"{path}.logprobs")
    if len(tokens) != len(logprobs):
        raise InvalidField(f"{path}.logprobs", f"{len(logprobs)}, expected {len(tokens)} (one per token)")
    topk = message.topk_sampled_logprobs if message.HasField("topk_sampled_logprobs") else None
    return SampledSequence(
        tokens=tokens,
        logprobs=logprobs,
        stop_reason=reason,
        topk=None if topk is None else _decode_topk(topk, f"{path}.topk_sampled_logprobs"),
    )


def _encode_topk(topk: TopK) -> wire_pb2.TopkLogprobs:
    assert topk.token_ids.shape == topk.logprobs.shape, "one logprob per token id"
    length, k = topk.token_ids.shape
    return wire_pb2.TopkLogprobs(
        token_ids=topk.token_ids.astype("<i4").tobytes(),
        logprobs=topk.logprobs.astype("<f4").tobytes(),
        k=k,
        length=length,
    )


def _decode_topk(message: wire_pb2.TopkLogprobs, path: str) -> TopK:
    token_ids, logprobs = _ints(message.token_ids, path), _floats(message.logprobs, path)
    shape = (message.length, message.k)
    if not len(token_ids) == len(logprobs) == message.length * message.k:
        raise InvalidField(path, f"{len(token_ids)} ids and {len(logprobs)} logprobs, expected {shape} each")
    return TopK(token_ids.reshape(shape), logprobs.reshape(shape))


def _decode_alt_tokens(message: wire_pb2.PromptAltTokens) -> AltTokens:
    return AltTokens(
        decode_tensor(message.tokens, field="prompt_alt_tokens.tokens"),
        decode_tensor(message.logprobs, field="prompt_alt_tokens.logprobs"),
    )


def _ints(data: bytes, path: str) -> np.ndarray:
    return _numbers(data, np.int32, path)


def _floats(data: bytes, path: str) -> np.ndarray:
    return _numbers(data, np.float32, path)


def _numbers(data: bytes, dtype: type[np.int32] | type[np.float32], path: str) -> np.ndarray:
    if len(data) % 4:
        raise InvalidField(path, f"{len(data)} bytes, not a multiple of 4")
    return np.frombuffer(data, np.dtype(dtype).newbyteorder("<")).astype(dtype)

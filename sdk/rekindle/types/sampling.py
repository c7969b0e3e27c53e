"""JSON messages of sampling, and whether a sample request may run.

Axes: N prompt tokens, K tokens asked about at one position.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BeforeValidator, Field, StrictInt, StrictStr, ValidationError, model_validator

from rekindle.types.errors import InvalidField
from rekindle.types.fields import Count, ExactMessage, Id, Message, ModelName, Path, first_mistake
from rekindle.types.models import Seed
from rekindle.types.tensors import MAX_CELLS, CsrLayout

MAX_SAMPLES = 1024
MAX_TOPK = 1024
"""Most alternatives at one position, of every kind."""
MAX_STOPS = 64

MAX_TOKEN_ID = 2**31 - 1

TokenId = Annotated[int, Field(ge=0, le=MAX_TOKEN_ID)]
TargetId = Annotated[int, Field(ge=-1, le=MAX_TOKEN_ID)]
TopKCount = Annotated[int, Field(ge=0, le=MAX_TOPK)]


def _read_stop(stop: Any) -> Any:
    """Texts and token ids apart: a list of one sort, no empty text, no negative id."""
    entries = (stop,) if isinstance(stop, str) else stop
    if not isinstance(entries, list | tuple):
        raise ValueError("expected a text, a list of texts or a list of token ids")
    if len(entries) > MAX_STOPS:
        raise ValueError(f"{len(entries)} entries, the limit is {MAX_STOPS}")
    texts = all(isinstance(entry, str) and entry for entry in entries)
    ids = all(type(entry) is int and entry >= 0 for entry in entries)
    if not texts and not ids:
        raise ValueError("expected texts that are not empty or token ids from 0 up, not both")
    return stop if isinstance(stop, str) else tuple(entries)


Stop = Annotated[str | tuple[StrictStr, ...] | tuple[StrictInt, ...], BeforeValidator(_read_stop)]


class TextChunk(Message):
    type: Literal["encoded_text"] = "encoded_text"
    tokens: tuple[TokenId, ...]
    """May be empty."""


class OtherChunk(Message):
    """A part of a prompt that is not text. `check_sample` refuses it."""

    type: Literal["image", "image_asset_pointer", "dmel"]


class ModelInput(Message):
    """A prompt in parts, to be read end to end."""

    chunks: tuple[Annotated[TextChunk | OtherChunk, Field(discriminator="type")], ...]

    @classmethod
    def from_ints(cls, tokens: Sequence[int] | np.ndarray) -> "ModelInput":
        """One text part of (N,) token ids, a list or an integer array. Raises InvalidField."""
        ids = np.asarray(tokens)
        if ids.ndim != 1 or (ids.size and ids.dtype.kind not in "iu"):
            raise InvalidField("tokens", f"{ids.dtype} of shape {ids.shape}, expected a list of token ids")
        try:
            return cls(chunks=(TextChunk(tokens=tuple(ids.tolist())),))
        except ValidationError as error:
            raise first_mistake(error) from error

    def to_ints(self) -> list[int]:
        """The N tokens of all text parts."""
        return [int(token) for token in self.tokens]

    @property
    def tokens(self) -> np.ndarray:
        """(N,) int64: the tokens of all text parts."""
        parts = [chunk.tokens for chunk in self.chunks if isinstance(chunk, TextChunk)]
        return np.array([token for part in parts for token in part], np.int64)


class SamplingParams(ExactMessage):
    """How to choose tokens. Reported logprobs do not depend on it."""

    max_tokens: Annotated[int, Field(ge=1)] | None = None
    """None: as many as the context has room for. More than that is no error."""
    seed: Seed | None = None
    """Sample i of a request uses a seed of its own derived from it; None: random."""
    stop: Stop | None = None
    """None: only the end of sequence stops. Empty: nothing stops, not even that. Otherwise these, too."""
    temperature: Annotated[float, Field(ge=0)] = 1.0
    """0: the likeliest token."""
    top_k: int = -1
    """-1: off. Applied after the temperature, as is top_p."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0

    @model_validator(mode="after")
    def _top_k_is_a_count(self) -> "SamplingParams":
        if self.top_k != -1 and self.top_k < 1:
            raise InvalidField("top_k", f"{self.top_k}, expected -1 (off) or 1 and more")
        return self


class TargetTokens(ExactMessage):
    """Token ids to be scored, (N - 1, K) int64: row i at prompt position i + 1, -1 for nothing."""

    data: tuple[TargetId, ...]
    """All cells, row after row; where sparse, only the listed ones."""
    dtype: Literal["int64"]
    shape: tuple[Count, Count]
    sparse_crow_indices: tuple[Count, ...] | None = None
    """CSR row pointers, N of them; None: dense."""
    sparse_col_indices: tuple[Count, ...] | None = None
    """CSR column indices, one per value."""

    @property
    def layout(self) -> CsrLayout | None:
        """Which cells are listed; None: all. The answer must have the same layout."""
        if self.sparse_crow_indices is None and self.sparse_col_indices is None:
            return None
        return CsrLayout(
            np.array(self.sparse_crow_indices or (), np.int64),
            np.array(self.sparse_col_indices or (), np.int64),
        )

    def dense(self) -> np.ndarray:
        """(N - 1, K) int64, -1 where nothing is asked for. Raises `InvalidField` for a wrong layout."""
        field = "target_prompt_logprobs"
        values, layout = np.array(self.data, np.int64), self.layout
        if layout is not None:
            layout.check(self.shape, len(values), field)
            return layout.scatter(values, self.shape, -1)
        if len(values) != self.shape[0] * self.shape[1] or max(self.shape) > MAX_CELLS:
            raise InvalidField(field, f"{len(values)} numbers, expected {self.shape[0] * self.shape[1]}")
        return values.reshape(self.shape)


class SampleRequest(ExactMessage):
    """Body of `asample`: independent samples of one prompt, from the model of the sampling session."""

    sampling_session_id: Id
    seq_id: Count
    """Number among the session's samples, in no order; a retried request has the same."""
    prompt: ModelInput
    sampling_params: SamplingParams
    num_samples: Annotated[int, Field(ge=1, le=MAX_SAMPLES)] = 1
    prompt_logprobs: bool = False
    """Whether the prompt is scored."""
    topk_prompt_logprobs: TopKCount = 0
    """The likeliest K at each prompt position; 0: not wanted."""
    topk_sample_logprobs: TopKCount = 0
    """The likeliest K at each sampled position; 0: not wanted."""
    target_prompt_logprobs: TargetTokens | None = None
    prompt_alt_tokens_k: TopKCount = 0
    """Draws at each prompt position after the first, at the request's temperature; 0: not wanted."""
    prompt_logprobs_last_n: Annotated[int, Field(ge=1)] | None = None
    """Score only the last n prompt tokens, the likeliest K included; None: all. Needs `prompt_logprobs`."""
    record_stability_info: bool = False
    """Accepted and ignored: only an unsupported loss reads the record."""
    type: Literal["sample"] = "sample"


class CreateSamplingSessionRequest(Message):
    """A fixed base model or checkpoint to sample from."""

    session_id: Id
    sampling_session_seq_id: Count
    base_model: ModelName | None = None
    """None: that of the checkpoint."""
    model_path: Path | None = None
    """None: the base model without an adapter."""
    type: Literal["create_sampling_session"] = "create_sampling_session"

    @model_validator(mode="after")
    def _names_a_model(self) -> "CreateSamplingSessionRequest":
        if self.base_model is None and self.model_path is None:
            raise InvalidField("base_model", "expected base_model, model_path or both")
        return self


class CreateSamplingSessionResponse(Message):
    sampling_session_id: Id
    type: Literal["create_sampling_session"] = "create_sampling_session"


class GetSamplerResponse(Message):
    """Answer of `samplers/{sampling_session_id}`."""

    sampler_id: Id
    base_model: ModelName
    """Clients look their tokenizer up by it."""
    model_path: Path | None = None
    """None: no adapter, or one without a name."""


def check_sample(request: SampleRequest, *, vocab_size: int, context_length: int) -> None:
    """Raises `InvalidField` for the first thing that a sampler could not compute.

    A prompt may fill the context: the token after its last one needs no more room, so prompts of
    `context_length` tokens can still be scored.
    """
    for index, chunk in enumerate(request.prompt.chunks):
        if not isinstance(chunk, TextChunk):
            raise InvalidField(f"prompt.chunks[{index}]", f"{chunk.type} chunk, only text is supported")
    tokens = request.prompt.tokens
    if not 1 <= len(tokens) <= context_length:
        raise InvalidField(
            "prompt", f"{len(tokens)} tokens, expected 1 to {context_length} (the context length)"
        )
    _check_ids("prompt", tokens, 0, vocab_size)
    for name in ("topk_prompt_logprobs", "topk_sample_logprobs"):
        if getattr(request, name) > vocab_size:
            raise InvalidField(name, f"{getattr(request, name)}, the vocabulary has {vocab_size} tokens")
    _check_last_n(request, len(tokens))
    if request.target_prompt_logprobs is not None:
        _check_targets(request.target_prompt_logprobs, len(tokens), vocab_size)


def _check_ids(field: str, ids: np.ndarray, lowest: int, vocab_size: int) -> None:
    for place in np.argwhere((ids < lowest) | (ids >= vocab_size))[:1]:
        position = "".join(f"[{axis}]" for axis in place)
        raise InvalidField(
            f"{field}{position}", f"{ids[tuple(place)]}, expected a token id in {lowest}..{vocab_size - 1}"
        )


def _check_last_n(request: SampleRequest, tokens_N: int) -> None:
    last_n = request.prompt_logprobs_last_n
    if last_n is None:
        return
    if not request.prompt_logprobs:
        raise InvalidField("prompt_logprobs_last_n", "needs prompt_logprobs")
    if last_n > tokens_N - 1:
        raise InvalidField("prompt_logprobs_last_n", f"{last_n}, expected at most {tokens_N - 1} (N - 1)")


def _check_targets(targets: TargetTokens, tokens_N: int, vocab_size: int) -> None:
    field = "target_prompt_logprobs"
    if targets.shape[0] != tokens_N - 1:
        raise InvalidField(field, f"{targets.shape[0]} rows, expected {tokens_N - 1} (prompt length - 1)")
    _check_ids(field, targets.dense(), -1, vocab_size)

"""What people hand in: prompts, training data, settings. Lists and numpy arrays alike; nothing here sends.

Axes: N input tokens of a datum, K targets at one position.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from pydantic import ValidationError

from rekindle.types import AdamParams, InvalidField, ModelInput, SamplingParams, TargetTokens, first_mistake
from rekindle.types import Datum as WireDatum

__all__ = [
    "AdamParams",
    "ArrayLike",
    "Datum",
    "ModelInput",
    "SamplingParams",
    "as_prompt",
    "as_targets",
    "build",
]

ArrayLike = np.ndarray | Sequence[Any]
"""Numbers as a list (of lists), a numpy array, or anything that numpy reads, tensors on the CPU included."""
TARGETS = "target_tokens"
M = TypeVar("M")


@dataclass(frozen=True, slots=True, eq=False)
class Datum:
    """One training sequence: `Datum(ModelInput.from_ints([5, 6]), {"target_tokens": [6, 7], "weights": [0, 1]})`."""

    model_input: ModelInput | ArrayLike
    """The N input tokens; plain token ids will do."""
    loss_fn_inputs: Mapping[str, ArrayLike]
    """By name: `target_tokens` (N,) or (N, K) integers, the rest of the same shape, read as float32."""

    def to_wire(self, index: int = 0) -> WireDatum:
        """As arrays; `index` places mistakes in a batch. Raises InvalidField."""
        inputs = {}
        for name, values in self.loss_fn_inputs.items():
            field = f"data[{index}].loss_fn_inputs.{name}"
            inputs[name] = _array(values, np.int64 if name == TARGETS else np.float32, field)
        return WireDatum(as_prompt(self.model_input, f"data[{index}].model_input").tokens, inputs)


def as_prompt(prompt: ModelInput | ArrayLike, field: str = "prompt") -> ModelInput:
    """The prompt, or token ids as one. Raises InvalidField."""
    if isinstance(prompt, ModelInput):
        return prompt
    ids = _array(prompt, np.int64, field)
    try:
        return ModelInput.from_ints(ids)
    except InvalidField as error:
        raise InvalidField(f"{field}{error.field.removeprefix('tokens')}", error.reason) from error


def as_targets(targets: ArrayLike) -> TargetTokens:
    """(N - 1, K) token ids to be scored, -1 for nothing. Raises InvalidField."""
    field = "target_prompt_logprobs"
    array = _array(targets, np.int64, field)
    if array.ndim != 2:
        raise InvalidField(field, f"{array.ndim} axes, expected 2: one row per prompt token after the first")
    return build(TargetTokens, data=array.ravel().tolist(), dtype="int64", shape=array.shape)


def build(kind: Callable[..., M], /, **fields: Any) -> M:
    """A message made of arguments. Raises InvalidField that names the first wrong one."""
    try:
        return kind(**fields)
    except ValidationError as error:
        raise first_mistake(error) from error


def _array(values: ArrayLike, dtype: type[np.int64] | type[np.float32], field: str) -> np.ndarray:
    """Raises InvalidField for what is no array of numbers, and for fractions where integers are meant."""
    try:
        found = np.asarray(values)
    except (ValueError, TypeError, RuntimeError) as error:  # ragged lists; tensors that numpy cannot read
        raise InvalidField(field, f"not an array: {error}") from error
    if found.size == 0:
        return found.astype(dtype)
    allowed = "iu" if dtype is np.int64 else "iufb"
    if found.dtype.kind not in allowed:
        raise InvalidField(field, f"{found.dtype}, expected {'integers' if dtype is np.int64 else 'numbers'}")
    return found.astype(dtype)

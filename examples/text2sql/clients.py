"""The seam between the loop and the two SDKs that it runs with, `tinker` and `rekindle`.

Both have the same verbs and the same words, so the loop takes the module as `sdk` and is one loop. These protocols
say what it uses of either. Only the fetching of an adapter's files differs, see `adapter.py`.
"""

from importlib import import_module
from typing import Any, Literal, Protocol, cast

Client = Literal["tinker", "rekindle"]


class Sdk(Protocol):
    """The module: makes a client of the service, and what is handed to it."""

    @property
    def ServiceClient(self) -> Any:
        """Of (base_url, api_key); a context manager."""

    @property
    def ModelInput(self) -> Any:
        """A prompt: `from_ints(tokens)`."""

    @property
    def SamplingParams(self) -> Any:
        """Of (max_tokens, temperature, seed)."""

    @property
    def Datum(self) -> Any:
        """Of (model_input, loss_fn_inputs)."""

    @property
    def AdamParams(self) -> Any:
        """Of (learning_rate)."""


class Sampler(Protocol):
    """A `SamplingClient`: its future's result has `sequences`, each with `tokens` and `logprobs`."""

    def sample(self, prompt: Any, num_samples: int, sampling_params: Any) -> Any:
        """A future of samples."""


class Training(Protocol):
    """A `TrainingClient`: every call is a future."""

    def forward_backward(self, data: list[Any], loss_fn: Any) -> Any:
        """Accumulate a gradient."""

    def optim_step(self, params: Any, /) -> Any:
        """Apply it."""

    def save_weights_and_get_sampling_client(self) -> Any:
        """The sampler of the weights after it."""

    def save_weights_external(self, name: str) -> Any:
        """Export the adapter."""

    def get_tokenizer(self) -> Any:
        """The base model's."""


def load_sdk(client: Client) -> Sdk:
    """The module of that name; the other one need not be installed."""
    return cast(Sdk, import_module(client))

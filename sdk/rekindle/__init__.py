"""Rekindle's Python SDK: reinforcement learning of language models on a server of one's own.

    import rekindle

    with rekindle.ServiceClient() as service:
        training = service.create_lora_training_client("Qwen/Qwen3-0.6B", rank=16).result()

`docs/sdk.md` walks through it. `__all__` is the public API, and `rekindle.types` holds all messages. Names are
imported when they are first used, so that `import rekindle` and the command cost next to nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rekindle import errors as errors
    from rekindle import types as types
    from rekindle.errors import (
        APIError,
        BadRequest,
        ClientClosed,
        ConnectionFailed,
        Forbidden,
        Gone,
        InvalidField,
        MissingPackage,
        NotFound,
        RateLimited,
        RekindleError,
        RequestFailed,
        ServerUnavailable,
        TooManyExcluded,
        TransferFailed,
        Unauthorized,
    )
    from rekindle.futures import Future
    from rekindle.inputs import AdamParams, Datum, ModelInput, SamplingParams
    from rekindle.results import ForwardBackwardOutput, SampledSequence, SampleResult
    from rekindle.sampling import SamplingClient
    from rekindle.service import ServiceClient
    from rekindle.training import TrainingClient

__all__ = [
    "APIError",
    "AdamParams",
    "BadRequest",
    "ClientClosed",
    "ConnectionFailed",
    "Datum",
    "Forbidden",
    "ForwardBackwardOutput",
    "Future",
    "Gone",
    "InvalidField",
    "MissingPackage",
    "ModelInput",
    "NotFound",
    "RateLimited",
    "RekindleError",
    "RequestFailed",
    "SampleResult",
    "SampledSequence",
    "SamplingClient",
    "SamplingParams",
    "ServerUnavailable",
    "ServiceClient",
    "TooManyExcluded",
    "TrainingClient",
    "TransferFailed",
    "Unauthorized",
]

_HOMES = {
    "futures": ("Future",),
    "inputs": ("AdamParams", "Datum", "ModelInput", "SamplingParams"),
    "results": ("ForwardBackwardOutput", "SampleResult", "SampledSequence"),
    "sampling": ("SamplingClient",),
    "service": ("ServiceClient",),
    "training": ("TrainingClient",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}
_MODULES = ("errors", "types")


def _find(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME_OF.get(name, 'errors')}"), name)
    globals()[name] = value
    return value


if not TYPE_CHECKING:  # which would take a misspelt name for one that is found when it is used
    __getattr__ = _find


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})
